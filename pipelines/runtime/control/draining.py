"""A pipeline's end: its workers are found by their names on the cluster, also when no supervisor looks after them any more."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from tocsin.pipelines.runtime.control.ray_client import NAMESPACE, actors
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.telemetry.logs import one_line

log = logging.getLogger(__name__)
AGAIN_S = 0.5
GRACE_S = 30.0
"""So long after its time a supervisor that does not answer is asked again: it may be restarting, or its machine be slow."""
LEAST_S = 10.0


def workers(pipeline: str) -> dict[str, Any]:
    """Handles of a pipeline's living workers by name; those of one place in the order in which they were started."""
    found = {}
    for name in sorted(name for name in actors() if name.startswith(names.worker_slot(pipeline))):
        with contextlib.suppress(ValueError):  # it has died since
            found[name] = ray.get_actor(name, namespace=NAMESPACE)
    return found


def drain(pipeline: str, timeout: float) -> dict[str, str]:
    """Have every living worker of a pipeline commit and let go, then end it.

    Returns:
        Why, for each worker that did not let go of all its shards: it, or one of them, gave no sign of progress for `timeout` s.
        It is ended all the same.
    """
    found, amiss = workers(pipeline), dict[str, str]()
    asked = {name: worker.drain.remote(timeout) for name, worker in found.items()}
    for name, worker in found.items():
        try:
            if not _drained(worker, asked[name], timeout):
                amiss[name] = f"its shards did not commit, and made no progress for {timeout:g} s"
        except RayError as reason:
            amiss[name] = one_line(reason)
        ray.kill(worker)
    return amiss


def _drained(worker: Any, asked: Any, timeout: float) -> bool:
    """The worker's answer, however long its shards go on committing; one that cannot be reached for a moment is asked again."""
    heard = time.monotonic()
    while True:
        try:
            if ray.wait([asked], timeout=AGAIN_S)[0]:
                return bool(ray.get(asked))
            ray.get(worker.answers.remote(), timeout=timeout)
            heard = time.monotonic()
        except (ActorDiedError, GetTimeoutError):
            raise
        except RayError:
            if time.monotonic() - heard > timeout:
                raise
            time.sleep(AGAIN_S)
            asked = worker.drain.remote(timeout)


def stop_pipeline(pipeline: str, timeout: float) -> None:
    """Have all shards of a pipeline commit and let go, then end its supervisor and its workers.

    A supervisor that does not answer is asked again; one that is gone is done without.

    Raises:
        Unavailable: not every shard is known to have let go: no progress for `timeout` s; the text says what is certain.
    """
    give_up = time.monotonic() + timeout + GRACE_S
    amiss = _stopped(pipeline, timeout, give_up)
    try:
        amiss |= drain(pipeline, min(timeout, max(give_up - time.monotonic(), LEAST_S)))
        left = _left(pipeline)
    except Exception as reason:  # Ray itself does not answer
        amiss["Ray"] = one_line(reason)
        certain = "whether its processes still run is not known: look again with `tocsin status`"
    else:
        certain = f"{', '.join(left)} may still run: `tocsin stop` it again" if left else "all its processes are ended"
    if amiss:
        why = "; ".join(f"{who}: {said}" for who, said in amiss.items())
        raise Unavailable(
            f"pipeline {pipeline}: expected all shards to commit, got {why}; {certain}; nothing is lost, "
            "and the next start goes on from what is committed"
        )


def _stopped(pipeline: str, timeout: float, give_up: float) -> dict[str, str]:
    """What is amiss after its supervisor was told to stop and was ended."""
    name, said, supervisor = names.supervisor_actor(pipeline), "", None
    while True:
        try:
            supervisor = ray.get_actor(name, namespace=NAMESPACE)
            left = max(give_up - time.monotonic(), LEAST_S)
            done = ray.get(supervisor.stop.remote(timeout), timeout=left)
            amiss = {} if done else {name: f"a shard did not commit, and made no progress for {timeout:g} s"}
            break
        except ValueError:  # there is none any more: its workers are drained without it
            return {}
        except RayError as reason:
            if one_line(reason) != said:
                log.warning("%s: expected it to drain its shards, got %s; asked again", name, said := one_line(reason))
        if time.monotonic() > give_up:  # its workers may drain all the same
            amiss = {}
            break
        time.sleep(AGAIN_S)
    if supervisor:
        ray.kill(supervisor)  # before the workers: it would start others
    return amiss


def _left(pipeline: str) -> list[str]:
    """Actors of a pipeline that are still there a few seconds after they were ended."""
    give_up = time.monotonic() + LEAST_S
    while left := [name for name in actors() if name.startswith(f"{pipeline}/")]:
        if time.monotonic() > give_up:
            break
        time.sleep(AGAIN_S)
    return left
