"""Stops a pipeline. Its workers are found by name on the cluster, so this also works when their supervisor is gone."""

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
"""How long past its timeout a supervisor that does not answer is retried. It may be restarting, or its machine may be slow."""
LEAST_S = 10.0


def workers(pipeline: str) -> dict[str, Any]:
    """Handles of a pipeline's living workers by name. Workers of the same slot are in the order in which they started."""
    found = {}
    for name in sorted(name for name in actors() if name.startswith(names.worker_slot(pipeline))):
        with contextlib.suppress(ValueError):  # it has died since
            found[name] = ray.get_actor(name, namespace=NAMESPACE)
    return found


def drain(pipeline: str, timeout: float) -> dict[str, str]:
    """Have every living worker of a pipeline commit and stop its shards, then end the worker.

    Returns:
        The reason for each worker that did not stop all its shards: the worker, or one of its shards, made no progress for
        `timeout` s. Such a worker is ended too.
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
    """Wait for the worker's answer as long as its shards make progress. A worker that is briefly unreachable is asked again."""
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
    """Have all shards of a pipeline commit and stop, then end its supervisor and its workers.

    A supervisor that does not answer is retried. If there is no supervisor, the workers are drained without one.

    Raises:
        Unavailable: not every shard is known to have stopped: no progress for `timeout` s. The message states what is certain.
    """
    give_up = time.monotonic() + timeout + GRACE_S
    amiss = _stopped(pipeline, timeout, give_up)
    try:
        amiss |= drain(pipeline, min(timeout, max(give_up - time.monotonic(), LEAST_S)))
        left = _left(pipeline)
    except Exception as reason:  # Ray itself does not answer
        amiss["Ray"] = one_line(reason)
        certain = "its processes may still run, check with `tocsin status`"
    else:
        certain = f"{', '.join(left)} may still run, repeat `tocsin stop`" if left else "all its processes have ended"
    if amiss:
        why = "; ".join(f"{who}: {said}" for who, said in amiss.items())
        raise Unavailable(
            f"pipeline {pipeline}: expected all shards to commit, got {why}; {certain}; nothing is lost, "
            "and the next start continues from the last commit"
        )


def _stopped(pipeline: str, timeout: float, give_up: float) -> dict[str, str]:
    """Stop the supervisor, then end it. Returns what went wrong, by actor."""
    name, said, supervisor = names.supervisor_actor(pipeline), "", None
    while True:
        try:
            supervisor = ray.get_actor(name, namespace=NAMESPACE)
            left = max(give_up - time.monotonic(), LEAST_S)
            done = ray.get(supervisor.stop.remote(timeout), timeout=left)
            amiss = {} if done else {name: f"a shard did not commit, and made no progress for {timeout:g} s"}
            break
        except ValueError:  # there is no supervisor: the workers are drained without it
            return {}
        except RayError as reason:
            if one_line(reason) != said:
                log.warning("%s: expected it to drain its shards, got %s; retrying", name, said := one_line(reason))
        if time.monotonic() > give_up:  # give up on the supervisor; its workers may still drain
            amiss = {}
            break
        time.sleep(AGAIN_S)
    if supervisor:
        ray.kill(supervisor)  # before the workers, or it would replace them
    return amiss


def _left(pipeline: str) -> list[str]:
    """Actors of a pipeline that are still alive `LEAST_S` after they were ended."""
    give_up = time.monotonic() + LEAST_S
    while left := [name for name in actors() if name.startswith(f"{pipeline}/")]:
        if time.monotonic() > give_up:
            break
        time.sleep(AGAIN_S)
    return left
