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
MIN_WAIT_S = 10.0


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
    found, failures = workers(pipeline), dict[str, str]()
    requests = {name: worker.drain.remote(timeout) for name, worker in found.items()}
    for name, worker in found.items():
        try:
            if not _wait_until_drained(worker, requests[name], timeout):
                failures[name] = f"its shards did not commit, and made no progress for {timeout:g} s"
        except RayError as reason:
            failures[name] = one_line(reason)
        ray.kill(worker)
    return failures


def _wait_until_drained(worker: Any, request: Any, timeout: float) -> bool:
    """Wait for the worker's answer as long as its shards make progress. A worker that is briefly unreachable is asked again."""
    last_answer = time.monotonic()
    while True:
        try:
            if ray.wait([request], timeout=AGAIN_S)[0]:
                return bool(ray.get(request))
            ray.get(worker.answers.remote(), timeout=timeout)
            last_answer = time.monotonic()
        except (ActorDiedError, GetTimeoutError):
            raise
        except RayError:
            if time.monotonic() - last_answer > timeout:
                raise
            time.sleep(AGAIN_S)
            request = worker.drain.remote(timeout)


def stop_pipeline(pipeline: str, timeout: float) -> None:
    """Have all shards of a pipeline commit and stop, then end its supervisor and its workers.

    A supervisor that does not answer is retried. If there is no supervisor, the workers are drained without one.

    Raises:
        Unavailable: not every shard is known to have stopped: no progress for `timeout` s. The message states what is certain.
    """
    deadline = time.monotonic() + timeout + GRACE_S
    failures = _stop_supervisor(pipeline, timeout, deadline)
    try:
        failures |= drain(pipeline, min(timeout, max(deadline - time.monotonic(), MIN_WAIT_S)))
        remaining = _remaining_actors(pipeline)
        failures |= {name: "it is still running" for name in remaining if name not in failures}
    except Exception as reason:  # Ray itself does not answer
        failures["Ray"] = one_line(reason)
        outcome = "its processes may still run, check with `tocsin status`"
    else:
        outcome = (
            f"{', '.join(remaining)} may still run, repeat `tocsin stop`"
            if remaining
            else "all its processes have ended"
        )
    if failures:
        reasons = "; ".join(f"{name}: {text}" for name, text in failures.items())
        raise Unavailable(
            f"pipeline {pipeline}: expected all shards to commit and all processes to end, got {reasons}; {outcome}; "
            "nothing is lost, and the next start continues from the last commit"
        )


def _stop_supervisor(pipeline: str, timeout: float, deadline: float) -> dict[str, str]:
    """Stop the supervisor, then end it. Returns what went wrong, by actor."""
    name, last_error, supervisor = names.supervisor_actor(pipeline), "", None
    while True:
        try:
            supervisor = ray.get_actor(name, namespace=NAMESPACE)
            remaining = max(deadline - time.monotonic(), MIN_WAIT_S)
            stopped = ray.get(supervisor.stop.remote(timeout), timeout=remaining)
            failures = {} if stopped else {name: f"a shard did not commit, and made no progress for {timeout:g} s"}
            break
        except ValueError:  # there is no supervisor: the workers are drained without it
            return {}
        except RayError as reason:
            if one_line(reason) != last_error:
                log.warning(
                    "%s: expected it to drain its shards, got %s; retrying", name, last_error := one_line(reason)
                )
        if time.monotonic() > deadline:  # give up on the supervisor; its workers may still drain
            failures = {}
            break
        time.sleep(AGAIN_S)
    if supervisor:
        ray.kill(supervisor)  # before the workers, or it would replace them
    return failures


def _remaining_actors(pipeline: str) -> list[str]:
    """Actors of a pipeline that are still alive `MIN_WAIT_S` after they were ended."""
    deadline = time.monotonic() + MIN_WAIT_S
    while remaining := [name for name in actors() if name.startswith(f"{pipeline}/")]:
        if time.monotonic() > deadline:
            break
        time.sleep(AGAIN_S)
    return remaining
