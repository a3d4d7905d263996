"""Rows are joined with the intervals that cover their event time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from tests.crash.job import scheduled
from tocsin.pipelines.runtime.declare.context import Intervals
from tocsin.pipelines.runtime.engine.replay import replay

READINGS = pa.table(
    {
        "unit": ["a", "a", "b"],
        "at": pa.array([10_000, 30_000, 10_000], pa.timestamp("ms", tz="UTC")),
        "heat": [0.9, 0.9, 0.1],
        "note": pa.nulls(3, pa.string()),
    }
)


def joined(*records: tuple[str, str, int, int, float | None]) -> tuple[pl.DataFrame, int]:
    """The rows of the readings, and the number of alerts."""
    columns = ["asset", "kind", "from", "to", "load"]
    frame = pl.DataFrame(list(records), columns, orient="row").with_columns(
        *(pl.from_epoch(name, "s").dt.replace_time_zone("UTC") for name in ("from", "to")),
        id=pl.lit(None, pl.String),
    )
    declared = scheduled({"name": "job", "topic": "t"}, None)
    rows, alerts = replay(replace(declared, intervals=Intervals.of(frame)), READINGS, after="5s")
    return rows.sort("unit", "event_time"), len(alerts)


def test_a_row_says_whether_an_interval_covers_it_and_with_which_number() -> None:
    rows, alerts = joined(("a", "maintenance", 5, 20, None), ("*", "load", 25, 99, 0.5))
    assert rows["maintenance"].to_list() == [True, False, False]
    assert rows["load"].to_list() == [None, 0.5, None]
    assert rows["context"].n_unique() == 1 and rows["context"].null_count() == 0
    assert alerts == 1, "none during maintenance"


def test_without_context_nothing_is_known() -> None:
    declared = scheduled({"name": "job", "topic": "t"}, None)
    rows, alerts = replay(declared, READINGS, after="5s")
    assert rows.select("maintenance", "load", "context").null_count().row(0) == (3, 3, 3)
    assert len(alerts) == 1
    assert rows.filter(pl.col("event_time") < datetime(1970, 1, 1, 0, 0, 20, tzinfo=UTC)).height == 2
