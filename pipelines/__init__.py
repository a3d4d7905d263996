"""Pipelines, and what people read of them: `results`, their tables, and `alerts`, as they ring. SQL: `pipelines.query`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.query import alerts, results

__all__ = ["alerts", "results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("pipelines.query"), name)
