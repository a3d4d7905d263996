"""Joins Ray for the length of a command, and calls the supervisors on it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tocsin.pipelines.runtime.declare.errors import ConfigError, TocsinError, Unavailable
from tocsin.pipelines.runtime.settings import Settings

JOIN_S, CLIENT_JOIN_S = 8.0, 30.0
"""Seconds to wait for a cluster that does not answer; the second one for a client (`ray://`), for which the head starts a
process. Ray itself would try for minutes."""


@contextmanager
def joined(settings: Settings, pipeline: str | None = None, *, start: bool = False) -> Iterator[None]:
    """Join the Ray cluster that `ray.address` names while the body runs.

    Args:
        pipeline: with "local", whose run to join if several pipelines run in this folder.
        start: with "local", start a Ray that ends with this command; else join that of RAY_ADDRESS or this folder's `tocsin run`.

    Raises:
        Unavailable: no such cluster runs.
    """
    address = settings.ray.address if start else _address(settings, pipeline)
    with joined_at(address, metrics_port=settings.ray.metrics_port):
        yield


@contextmanager
def joined_at(address: str, *, metrics_port: int = 0) -> Iterator[None]:
    """Join the Ray cluster at an address while the body runs. Ends the process if the cluster does not answer."""
    import ray

    from tocsin.pipelines.runtime.control.ray_client import connect

    client = address.startswith("ray://")
    hint = ", or start its head with GRPC_ENABLE_FORK_SUPPORT=0 and retry" if client else ""
    with nullcontext() if address == "local" else within(join_seconds(address), f"Ray at {address}", hint):
        connect(address, metrics_port=metrics_port)
    try:
        yield
    finally:
        ray.shutdown()


def join_seconds(address: str) -> float:
    """How long to wait for a cluster to let this process join."""
    return CLIENT_JOIN_S if address.startswith("ray://") else JOIN_S


def _address(settings: Settings, pipeline: str | None) -> str:
    """The address of the cluster in the settings; with "local", that of RAY_ADDRESS or of this folder's run."""
    from tocsin.pipelines.cli.runs import active_runs

    if settings.ray.address != "local":
        return settings.ray.address
    if os.environ.get("RAY_ADDRESS"):
        return "auto"
    runs = active_runs()
    for run in [run for run in runs if run.pipeline == pipeline] or runs:
        if run.address:
            return run.address
        raise Unavailable(
            f"pipeline {run.pipeline}: expected it to run, but its Ray is still starting; retry in a few seconds"
        )
    raise Unavailable(
        f"Ray: expected a `tocsin run` in {Path.cwd()}, got none; start one, or set ray.address to a cluster"
    )


@contextmanager
def within(seconds: float, what: str, hint: str = "") -> Iterator[None]:
    """End this process with one error line if the body takes longer. Ray's calls can't be interrupted.

    Args:
        hint: what else to do, at the line's end.
    """

    def end() -> None:
        from tocsin.pipelines.cli.console import fail

        fail(
            Unavailable(
                f"{what}: expected an answer within {seconds:g} s, got none; check whether it is overloaded or has ended{hint}"
            )
        )
        os._exit(1)

    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def supervisors() -> list[str]:
    """Names of the pipelines that run on this cluster."""
    from tocsin.pipelines.runtime.control.ray_client import actors
    from tocsin.pipelines.runtime.declare.names import supervisor_actor

    names = actors()
    return sorted(p for p in {name.partition("/")[0] for name in names} if supervisor_actor(p) in names)


def supervisor(pipeline: str) -> Any:
    """A running pipeline's supervisor.

    Raises:
        ConfigError: the pipeline does not run on this cluster.
    """
    from tocsin.pipelines.runtime.control.ray_client import find

    try:
        return find(pipeline)
    except ValueError as reason:
        running = ", ".join(supervisors()) or "none"
        raise ConfigError(
            f"pipeline {pipeline}: expected it to run on this Ray cluster, got: {running}; start it: `tocsin up {pipeline}`"
        ) from reason


def is_running(pipeline: str) -> bool:
    """Whether a pipeline, or a part of it, runs on this cluster."""
    from tocsin.pipelines.runtime.control import draining

    return pipeline in supervisors() or bool(draining.workers(pipeline))


class Silent(Unavailable):
    """A supervisor exists but does not answer in time."""


def ask(actor: Any, timeout: float = 60) -> dict[str, Any]:
    """A supervisor's status.

    Raises:
        Silent: it does not answer in time.
        Unavailable: the call fails for another reason.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

    try:
        return ray.get(actor.status.remote(), timeout=timeout)
    except RayError as reason:
        raise (Silent if isinstance(reason, GetTimeoutError | ActorUnavailableError) else Unavailable)(
            f"supervisor: expected its status, got {type(reason).__name__}; retry, it may be restarting"
        ) from reason


def send(actor: Any, command: str, *arguments: Any) -> None:
    """Send a command to a supervisor.

    Raises:
        TocsinError: it refuses the command.
        Unavailable: it does not answer.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        ray.get(getattr(actor, command).remote(*arguments), timeout=60)
    except RayTaskError as reason:
        if isinstance(reason.cause, TocsinError):
            raise reason.cause from None
        raise
    except RayError as reason:
        raise Unavailable(
            f"supervisor: expected it to accept the order, got {type(reason).__name__}; retry, it may be restarting"
        ) from reason


def halt(pipeline: str, timeout: float) -> None:
    """Have all shards of a pipeline commit and stop, then end it. Works without a supervisor, too.

    Raises:
        ConfigError: no part of the pipeline runs on this cluster.
        Unavailable: not every shard is known to have stopped; the message names what is certain.
    """
    from tocsin.pipelines.runtime.control import draining

    if not draining.workers(pipeline):
        supervisor(pipeline)
    draining.stop_pipeline(pipeline, timeout)


def rejoined(settings: Settings, pipeline: str | None = None) -> None:
    """Join Ray again. After Ray was restarted, older handles and connections are dead.

    Raises:
        Unavailable: no such cluster runs.
    """
    import ray

    from tocsin.pipelines.runtime.control.ray_client import connect

    ray.shutdown()
    connect(_address(settings, pipeline))
