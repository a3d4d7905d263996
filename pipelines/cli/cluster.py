"""Ray, for the length of a command, and the supervisors on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.runtime.errors import ConfigError, TocsinError, Unavailable
from pipelines.runtime.settings import Settings


@contextmanager
def joined(settings: Settings, *, start: bool = False) -> Iterator[None]:
    """Be part of the Ray cluster that `ray.address` names.

    Args:
        start: with "local", start one that ends with this command; else find the one on this machine.

    Raises:
        Unavailable: there is none.
    """
    import ray

    from pipelines.runtime.cluster import connect

    address = settings.ray.address
    connect("auto" if address == "local" and not start else address, metrics_port=settings.ray.metrics_port)
    try:
        yield
    finally:
        ray.shutdown()


def supervisors() -> list[str]:
    """Names of the pipelines that run on this cluster."""
    from pipelines.runtime.cluster import actors
    from pipelines.runtime.supervisor import supervisor_name

    names = actors()
    return sorted(p for p in {name.partition("/")[0] for name in names} if supervisor_name(p) in names)


def supervisor(pipeline: str) -> Any:
    """A running pipeline's supervisor.

    Raises:
        ConfigError: it does not run here.
    """
    from pipelines.runtime.supervisor import find

    try:
        return find(pipeline)
    except ValueError as reason:
        running = ", ".join(supervisors()) or "none"
        raise ConfigError(
            f"pipeline {pipeline}: expected it to run on this Ray cluster, got: {running}; start it: `tocsin up {pipeline}`"
        ) from reason


def ask(actor: Any, timeout: float = 30) -> dict[str, Any]:
    """A supervisor's status.

    Raises:
        Unavailable: it does not answer.
    """
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(actor.status.remote(), timeout=timeout)
    except RayError as reason:
        raise Unavailable(
            f"supervisor: expected its status, got {type(reason).__name__}; it may be restarting, ask again"
        ) from reason


def tell(actor: Any, order: str, *what: Any) -> None:
    """Give a supervisor an order.

    Raises:
        TocsinError: it refuses; Unavailable: it does not answer.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        ray.get(getattr(actor, order).remote(*what), timeout=60)
    except RayTaskError as reason:
        if isinstance(reason.cause, TocsinError):
            raise reason.cause from None
        raise
    except RayError as reason:
        raise Unavailable(
            f"supervisor: expected it to take the order, got {type(reason).__name__}; it may be restarting, order again"
        ) from reason


def halt(pipeline: str, timeout: float) -> None:
    """Have all shards of a pipeline commit and let go, then end it; also when its supervisor is gone.

    Raises:
        ConfigError: nothing of it runs here.
        Unavailable: not every shard is known to have let go; the text says what is certain.
    """
    from pipelines.runtime import draining

    if not draining.workers(pipeline):
        supervisor(pipeline)
    draining.halt(pipeline, timeout)


def rejoined(settings: Settings) -> None:
    """Join Ray anew: after it was restarted, handles and connections of before are dead.

    Raises:
        Unavailable: there is none.
    """
    import ray

    from pipelines.runtime.cluster import connect

    ray.shutdown()
    connect("auto" if settings.ray.address == "local" else settings.ray.address)
