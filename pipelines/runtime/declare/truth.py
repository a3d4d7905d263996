"""What becomes known about a pipeline's readings later, such as failures, and how results are scored with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

VERSION = "model_version"
"""The column of scores that names whose they are."""


def figures(score: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one row of scores that have a value."""
    return {name: value for name, value in score.items() if name != VERSION and value is not None}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The labels of a pipeline, which arrive on the topic `labels.<pipeline>`.

    Args:
        schema: one label.
        key: the column of `schema` that names the asset.
        event_time: a timestamp column of `schema`; None: the Kafka timestamp.
        score: results and labels, as their tables hold them -> one row a `model_version`; the other columns are figures. Both
            tables have the lineage; their `key` columns name the same assets.
    """

    schema: pa.Schema
    key: str
    event_time: str | None = None
    score: Callable[[pl.LazyFrame, pl.LazyFrame], pl.DataFrame]

    def __post_init__(self) -> None:
        if self.key not in self.schema.names:
            raise ConfigError(f"truth: expected key among {self.schema.names}, got {self.key!r}")
