"""Streaming attention for sensors and cameras: `results`, the tables of pipelines, and `alerts`, their alert topics."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tocsin.pipelines.query import alerts, results

__all__ = ["alerts", "results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("tocsin.pipelines.query"), name)
