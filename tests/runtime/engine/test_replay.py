"""Any split in time gives the same table and the same alerts: one step, many steps, and a loop over rows agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crash.job import SCHEMA, pipeline
from tests.crash.oracle import Outcome, judge
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.replay import replay

JOB = pipeline({"name": "job", "topic": "readings"}, None)
START_MS = 1_767_225_590_000  # ten seconds before a midnight, so that a table has two dates

Reading = tuple[int, int, int, float, float, int]
"""Partition, unit, cycle, heat, load, ms since the previous reading."""
SOME_HEAT = st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.8, 1.0])
READING = st.tuples(
    st.integers(0, 1), st.integers(0, 2), st.integers(0, 3), SOME_HEAT, st.floats(-1, 1, width=32), st.integers(0, 2500)
)


def _table(readings: Sequence[Reading]) -> pa.Table:
    """Make a table. A reading's cycle is an offset to its unit's number of readings, so that cycles mostly ascend."""
    rows, had, offsets, now = [], Counter[tuple[int, int]](), Counter[int](), START_MS
    for partition, unit, step, heat, load, after in readings:
        now += after
        had[partition, unit] += 1
        cycle = had[partition, unit] + step
        rows.append((partition, offsets[partition], 0, now, unit, cycle, heat, load))
        offsets[partition] += 1
    names = ["_partition", "_offset", "_row", "_timestamp", *SCHEMA.names]
    return pa.table({n: list(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)})


def _expected(table: pa.Table) -> Outcome:
    """Return the outcome by the crash tests' oracle, which shares no code with the runtime."""
    messages: list[Any] = [
        SimpleNamespace(
            partition=r["_partition"],
            offset=r["_offset"],
            timestamp=r["_timestamp"],
            headers=[],
            value=json.dumps({n: r[n] for n in SCHEMA.names}),
        )
        for r in table.to_pylist()
    ]
    return judge(messages)


def _got(table: pa.Table, splits: Sequence[int] | None) -> Outcome:
    frame, alerts = replay(JOB, table, splits=splits)
    out = Outcome()
    for row in frame.to_dicts():
        identity = (row["partition"], row["offset"], row["row"], row["unit"])
        out.rows[identity, row["cycle"]] += 1
        out.values[identity] = [row["score"], *row["loads"]]
    for a in alerts:
        place = (a.data["partition"], a.data["offset"], a.data["row"], int(a.key))
        out.alerts[a.rule, a.transition, place, round(a.time.timestamp() * 1000)] += 1
    return out


def _sizes(cuts: set[int], rows: int) -> list[int]:
    return [b - a for a, b in pairwise([0, *sorted(c for c in cuts if c < rows), rows])]


@settings(max_examples=50, deadline=None)
@given(st.lists(READING, min_size=1, max_size=60), st.sets(st.integers(1, 59), max_size=20))
def test_any_split_gives_what_one_step_and_what_a_loop_over_readings_gives(
    readings: list[Reading], cuts: set[int]
) -> None:
    table = _table(readings)
    expected = _expected(table)
    expected.letters.clear()  # replay drops refused rows; the stages' tests check them
    for splits in (_sizes(cuts, len(table)), [len(table)], [1] * len(table)):
        assert expected.differences(_got(table, splits)) == []


def test_the_oracle_can_tell_a_lost_alert() -> None:
    hot = _table([(0, 1, 0, 1.0, 0.0, 10)] * 5)
    less = _got(hot, [5])
    assert less.alerts
    less.alerts.clear()
    assert _expected(hot).differences(less) != []


def test_the_table_has_its_lineage_and_the_date_of_the_event() -> None:
    frame, _ = replay(JOB, _table([(0, 1, 0, 0.5, 0.0, 2500)] * 6), splits=[2, 4])
    assert frame.columns == JOB.table.names
    assert frame["event_date"].to_list() == ["2025-12-31", "2026-01-01", "2026-01-01", "2026-01-01"]
    assert frame["event_date"].to_list() == frame["event_time"].dt.strftime("%Y-%m-%d").to_list()
    assert frame["topic"].unique().to_list() == ["readings"]
    assert frame["processed_at"].is_sorted()


def test_a_plain_table_gets_offsets_and_seconds_and_steps_of_the_batch() -> None:
    plain = pa.table({"unit": [1] * 200, "cycle": range(200), "heat": [0.5] * 200, "load": [0.0] * 200})
    frame, _ = replay(JOB, plain)
    assert frame["offset"].to_list() == list(range(2, 200))
    assert frame["event_time"].dt.timestamp("ms").to_list() == [1000 * i for i in range(2, 200)]
    assert frame["processed_at"].n_unique() == 4  # 64 rows a step


def test_a_plain_table_came_when_it_was_measured() -> None:
    at = pa.array([START_MS * 1000 + 1_500 * i for i in range(200)], pa.timestamp("us", tz="UTC"))
    schema = pa.schema([pa.field("unit", pa.int64(), nullable=False), pa.field("at", at.type, nullable=False)])
    timed = Pipeline(
        name="job", topic="readings", schema=schema, key="unit", event_time="at", stages=[], results=schema
    )
    frame, _ = replay(timed, pa.table({"unit": [1] * 200, "at": at}))
    assert frame["event_time"].to_list() == at.to_pylist()


def test_no_readings_give_an_empty_table() -> None:
    frame, alerts = replay(JOB, SCHEMA.empty_table())
    assert frame.columns == JOB.table.names and frame.is_empty() and alerts == []


@pytest.mark.parametrize(
    ("table", "splits", "says"),
    [
        (pa.table({"unit": [1], "cycle": [1]}), None, r"expected columns .*'heat', 'load'.* got a table without"),
        (_table([(0, 1, 0, 0.5, 0.0, 1)] * 3), [2], "add up to 3 rows, got 2"),
    ],
)
def test_a_table_that_cannot_be_replayed_whole_is_refused_in_one_line(
    table: pa.Table, splits: list[int] | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        replay(JOB, table, splits=splits)
    assert "\n" not in str(refused.value)


def test_results_that_no_stage_gives_are_refused_in_one_line() -> None:
    wrong = Pipeline(
        name="job", topic="readings", schema=SCHEMA, key="unit", stages=[], results=pa.schema([("score", pa.float32())])
    )
    with pytest.raises(ConfigError, match=r"expected results among .*'heat'.*got \['score'\]"):
        replay(wrong, _table([(0, 1, 0, 0.5, 0.0, 1)]))


def test_splits_do_not_move_a_column_of_the_table() -> None:
    table = _table([(0, u % 3, 0, 0.1 * (u % 9), 0.0, 100) for u in range(50)])
    whole, _ = replay(JOB, table, splits=[50])
    split, _ = replay(JOB, table, splits=[7, 0, 43])
    same = [c for c in whole.columns if c not in ("processed_at", "score", "loads")]
    assert whole.select(same).equals(split.select(same))
    assert (whole["score"] - split["score"]).abs().max() < 1e-4  # type: ignore[operator]
    assert isinstance(whole.schema["loads"], pl.List)
