"""A pipeline's workers, found by their names on the cluster: also those that no supervisor looks after any more."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from pipelines.runtime.cluster import NAMESPACE, actors
from pipelines.runtime.logs import one_line

AGAIN_S = 0.5


def workers(pipeline: str) -> dict[str, Any]:
    """Handles of a pipeline's living workers by name; those of one place in the order in which they were started."""
    found = {}
    for name in sorted(name for name in actors() if name.startswith(f"{pipeline}/worker-")):
        with contextlib.suppress(ValueError):  # it has died since
            found[name] = ray.get_actor(name, namespace=NAMESPACE)
    return found


def drain(pipeline: str, timeout: float) -> dict[str, str]:
    """Have every living worker of a pipeline commit and let go, then end it.

    Returns:
        Why, for each worker that did not let go of all its shards within `timeout` s. It is ended all the same.
    """
    found, give_up, amiss = workers(pipeline), time.monotonic() + timeout, dict[str, str]()
    asked = {name: worker.drain.remote(timeout) for name, worker in found.items()}
    for name, worker in found.items():
        try:
            if not _drained(worker, asked[name], give_up):
                amiss[name] = f"its shards did not commit within {timeout:g} s"
        except RayError as reason:
            amiss[name] = one_line(reason)
        ray.kill(worker)
    return amiss


def _drained(worker: Any, asked: Any, give_up: float) -> bool:
    """The worker's answer; one that cannot be reached for a moment is asked again."""
    while True:
        try:
            return bool(ray.get(asked, timeout=max(give_up - time.monotonic(), 0)))
        except (ActorDiedError, GetTimeoutError):
            raise
        except RayError:
            if time.monotonic() > give_up:
                raise
            time.sleep(AGAIN_S)
            asked = worker.drain.remote(max(give_up - time.monotonic(), 0))
