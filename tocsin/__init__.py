"""Streaming attention for sensors and cameras: `results`, the tables of pipelines, and `alerts`, their alert topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tocsin.pipelines.exports import exported

if TYPE_CHECKING:
    from tocsin.pipelines.query import alerts, results

__all__ = ["alerts", "results"]

__getattr__ = exported(__name__, {"pipelines.query": "alerts results"})
