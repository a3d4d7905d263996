"""Any split of a table into steps gives the same rows and alerts, for each stage and rule that uses time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.declare.stage import Stage
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.stages.centered_window import CenteredWindow
from tocsin.pipelines.runtime.stages.inactivity import Inactivity
from tocsin.pipelines.runtime.stages.infer import Encode, Infer
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.resample import Resample
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

NOW = 1_767_225_600_000
TIME = pa.timestamp("ms", tz="UTC")
READING = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("at", TIME, nullable=False),
        pa.field("property", pa.string(), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
    ]
)
SILENT = pa.field("silent", pa.bool_())
X = pa.field("x", pa.float64())
SHORT, LONG = "3s", "6s"
STAGES: dict[str, tuple[Sequence[Stage], Sequence[pa.Field]]] = {
    "silence": ([Inactivity(LONG)], [X, SILENT]),
    "sorted": ([Reorder(late="2s", wait="4s"), SlidingWindow(2, ["x"]), Inactivity(LONG)], [X, SILENT]),
    "grid": (
        [
            Resample("1s", ("p",), by="property", value="x", late="1s", wait=SHORT, slope="2s", gap="2s"),
            Inactivity(LONG),
        ],
        [*(pa.field(f"p{part}", pa.float64()) for part in ("", "_mean", "_slope", "_age")), SILENT],
    ),
    "grid that waits longer than a silence": (
        [Resample("1s", ("p",), by="property", value="x", late="1s", wait=LONG), Inactivity(SHORT)],
        [pa.field("p", pa.float64()), SILENT],
    ),
    "around": (
        [
            SlidingWindow(1, ["x"]),
            Encode(lambda window: {"features": window[:, 0]}, tensor="window"),
            CenteredWindow(1, 2, shape=(1,), wait=SHORT),
            Infer(lambda window: {"sum": window.sum((1, 2))}),
            Inactivity(LONG),
        ],
        [pa.field("sum", pa.float32()), SILENT],
    ),
}


def _pipeline(which: str, **options: Any) -> Pipeline:
    stages, results = STAGES[which]
    value = results[0].name
    rules = [
        AlertRule(name="silent", severity="warning", when=pl.col("silent")),
        AlertRule(
            name="high",
            severity="warning",
            when=pl.col(value) > 0.6,
            clear=pl.col(value) < 0.3,
            hold=2,
            cooldown="5s",
        ),
    ]
    declared: dict[str, Any] = {"event_time": "at", "rules": rules, "forget_after": "20s", "max_skew": "1h"} | options
    return Pipeline(
        name="p", topic="t", schema=READING, key="unit", stages=stages, results=pa.schema(results), **declared
    )  # fmt: skip


Reading = tuple[int, str, str, int, int, float]
"""Partition, unit, property, ms since the previous reading, lag of the event time in ms (Kafka's timestamp: modulo 1 s), x."""
READINGS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from("abc"),
        st.sampled_from("ppq"),
        st.sampled_from([0, 10, 400, 1000, 2500, 4000, 7000, 12_000, 21_000, 45_000]),
        st.sampled_from([0, 0, 0, 5, 900, 3500]),
        st.sampled_from([0.1, 0.5, 0.7, 0.9]),
    ),
    min_size=1,
    max_size=20,
)


BACK: list[Reading] = [
    (0, "b", "p", 4000, 0, 0.5), (0, "b", "p", 400, 5, 0.1), (0, "a", "p", 12_000, 0, 0.1), (0, "b", "p", 10, 3500, 0.9),
    (0, "b", "q", 7000, 0, 0.9),
]  # fmt: skip
"""A timestamp half a second older than the one before it in its partition, in the last step of a backlog."""


def _table(readings: Sequence[Reading]) -> pa.Table:
    now, rows = NOW, []
    for offset, (partition, unit, kind, after, lag, x) in enumerate(readings):
        now += after
        place = {"_partition": partition, "_offset": offset, "_row": 0, "_timestamp": now - lag % 1000}
        rows.append({**place, "unit": f"{unit}{partition}", "at": now - lag, "property": kind, "x": x})
    return pa.Table.from_pylist(rows, schema=pa.schema([*IDENTITY, *READING]))


def _said(p: Pipeline, table: pa.Table, splits: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return rows and alerts as sorted text."""
    frame, alerts = replay(p, table, splits=splits, after="90s")
    rows = frame.drop("processed_at").with_columns(pl.selectors.float().round(4)).rows()
    return sorted(map(str, rows)), sorted(f"{a.key} {a.time} {a.rule} {a.transition} {a.id}" for a in alerts)


@pytest.mark.parametrize("which", STAGES)
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(readings=READINGS, cuts=st.sets(st.integers(1, 19), max_size=8), muted=st.integers(0, 90_000))
def test_any_split_gives_the_same_rows_and_alerts(
    which: str, readings: list[Reading], cuts: set[int], muted: int
) -> None:
    p, table, n = _pipeline(which, silences={"a0": NOW + muted}), _table(readings), len(readings)
    some = [b - a for a, b in pairwise([0, *sorted(c for c in cuts if c < n), n])]
    rows, alerts = _said(p, table, [1] * n)
    for splits in ([n], some):
        assert _said(p, table, splits) == (rows, alerts)


def _caught_up(p: Pipeline, table: pa.Table, cuts: Sequence[tuple[int, int]]) -> tuple[list[str], list[str]]:
    """Process the table as a shard's backlog: steps of so many rows of each partition, then steps by the wall clock.

    The clock follows the partition that is furthest behind, as in `StepClock`.
    """
    machine, wall = Machine(p), table["_timestamp"].cast(pa.int64()).to_pylist()[-1] + 500
    left = {n: table.filter(pc.equal(table["_partition"], n)) for n in (0, 1)}
    newest, now, outcomes = {0: 0, 1: 0}, 0, []
    for counts in [*cuts, (len(table), len(table))]:
        taken = {n: left[n].slice(0, count) for n, count in enumerate(counts)}
        left = {n: left[n].slice(count) for n, count in enumerate(counts)}
        batch = pa.concat_tables(taken.values()).combine_chunks()
        if not len(batch):
            continue
        newest |= {n: max([newest[n], *t["_timestamp"].cast(pa.int64()).to_pylist()]) for n, t in taken.items()}
        now = max(now, min([wall, *(newest[n] for n, rest in left.items() if len(rest))]))
        outcomes.append(machine.step(batch.to_batches()[0], now, wall=wall))
    outcomes += [machine.step(empty(READING), wall + late, wall=wall + late) for late in (0, 90_000)]
    rows = [row | {"processed_at": None} for o in outcomes for row in o.results.to_pylist()]
    alerts = [f"{a.key} {a.time} {a.rule} {a.transition} {a.id}" for o in outcomes for a in o.alerts]
    return sorted(map(str, rows)), sorted(alerts)


@pytest.mark.parametrize("which", ["sorted", "grid"])
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(readings=READINGS, cuts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
@example(readings=BACK, cuts=[(3, 1), (3, 0)])
def test_a_backlog_of_two_partitions_gives_the_same_however_they_are_read(
    which: str, readings: list[Reading], cuts: list[tuple[int, int]]
) -> None:
    p, table = _pipeline(which), _table(readings)
    assert _caught_up(p, table, cuts) == _caught_up(p, table, ())


def test_a_silence_that_begins_and_ends_inside_a_backlog_is_told() -> None:
    p = _pipeline("silence")
    table = _table(
        [
            (0, "a", "p", 0, 0, 0.1),
            (0, "b", "p", 1000, 0, 0.1),
            (0, "b", "p", 5000, 0, 0.1),
            (0, "a", "p", 1000, 0, 0.1),
        ]
    )
    for splits in ([4], [1, 1, 1, 1], [2, 2]):
        _, alerts = replay(p, table, splits=splits)
        assert [(a.key, a.transition) for a in alerts] == [("a0", "raised"), ("a0", "cleared")]
    for cuts in ((), [(2, 0)], [(1, 0), (1, 0), (1, 0)]):
        _, told = _caught_up(p, table, cuts)
        assert sum(line.startswith("a0") and "cleared" in line for line in told) == 1


MONTH = 30 * 86_400_000


def _stamped(p: Pipeline, rows: Sequence[tuple[int, str, int]], first: int = 0) -> pa.RecordBatch:
    """Make readings of partition 0 from (Kafka's timestamp, unit, event time), with times in ms after `NOW`."""
    made = [
        {"_partition": 0, "_offset": first + n, "_row": 0, "_timestamp": NOW + stamp, "unit": unit, "at": NOW + at,
         "property": "p", "x": 0.1}
        for n, (stamp, unit, at) in enumerate(rows)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(made, schema=pa.schema([*IDENTITY, *p.schema]))


def test_a_timestamp_a_month_ahead_hides_no_silence_of_its_key() -> None:
    p = _pipeline("silence")
    machine = Machine(p)
    machine.step(_stamped(p, [(0, "a", 0), (MONTH, "a", 0), (0, "b", 0)]), NOW, wall=NOW)
    outcome = machine.step(empty(READING), NOW + 6_000, wall=NOW + 6_000)
    assert sorted(a.key for a in outcome.alerts) == ["a", "b"]


def test_a_timestamp_a_month_ahead_makes_nobody_silent_in_a_backlog() -> None:
    p, hour = _pipeline("silence"), 3_600_000
    rows = [(0, "a", 0), (0, "b", 0), (MONTH, "b", 0), (2_000, "a", 0), (4_000, "b", 0)]
    outcome = Machine(p).step(_stamped(p, rows), NOW + 4_000, wall=NOW + hour)
    assert not outcome.alerts


def test_a_timestamp_a_month_ahead_does_not_vouch_for_an_event_time() -> None:
    p = _pipeline("sorted")
    outcome = Machine(p).step(_stamped(p, [(MONTH, "a", MONTH), (0, "a", 0)]), NOW, wall=NOW)
    assert [(r.offset, r.error) for r in outcome.refused] == [(0, "FromTheFuture")]
    untimed = _pipeline("sorted", event_time=None)
    outcome = Machine(untimed).step(_stamped(untimed, [(MONTH, "a", 0), (0, "a", 0)]), NOW, wall=NOW)
    assert [(r.offset, r.error) for r in outcome.refused] == [(0, "FromTheFuture")]
    assert "ahead of this machine's clock" in outcome.refused[0].message
