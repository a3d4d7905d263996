"""The grid against a loop over readings that shares no code with it, for any split into steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Pipeline
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome, empty
from tocsin.pipelines.runtime.stages.inactivity import Inactivity
from tocsin.pipelines.runtime.stages.resample import Resample

NOW = 1_767_225_600_000  # a whole minute
MINUTE = 60_000
TIME = pa.timestamp("ms", tz="UTC")
READING = pa.schema(
    [
        pa.field("room", pa.string(), nullable=False),
        pa.field("property", pa.string(), nullable=False),
        pa.field("at", TIME, nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
COLUMNS = [f"{p}{part}" for p in ("co2", "t") for part in ("", "_mean", "_slope", "_age")]
Reading = tuple[str, str, int, float]
"""Room, property, ms after `NOW`, value."""


def pipeline(**options: Any) -> Pipeline:
    given = {"late": "3min", "slope": "2min", "gap": "4min", "wait": "10min"} | options
    return Pipeline(
        name="rooms",
        topic="sensors.rooms",
        schema=READING,
        key="room",
        event_time="at",
        max_skew="1d",
        stages=[Resample("1min", ("co2", "t"), **given)],
        results=pa.schema([("room", pa.string()), *((c, pa.float64()) for c in COLUMNS)]),
    )


def run(
    p: Pipeline, readings: Sequence[Reading], cuts: Iterable[int] = (), ticks: Sequence[int] = ()
) -> list[StepOutcome]:
    """Run steps of readings at `NOW`, then a step without readings at each of `ticks`, in ms after `NOW`."""
    machine, schema = Machine(p), pa.schema([*IDENTITY, *READING])
    bounds = [0, *sorted(c for c in set(cuts) if 0 < c < len(readings)), len(readings)]
    outcomes = []
    for a, b in pairwise(bounds):
        rows = [
            {"_partition": 0, "_offset": a + i, "_row": 0, "_timestamp": NOW, "room": room, "property": kind, "at": NOW + at,
             "value": value}
            for i, (room, kind, at, value) in enumerate(readings[a:b])
        ]  # fmt: skip
        outcomes.append(machine.step(pa.RecordBatch.from_pylist(rows, schema=schema), NOW))
    return outcomes + [machine.step(empty(READING), NOW + tick) for tick in ticks]


def table(outcomes: Sequence[StepOutcome]) -> dict[tuple[str, int], list[float | None]]:
    """Return rows by room and minute after `NOW`."""
    rows = [row for o in outcomes for row in o.results.to_pylist()]
    found = {
        (row["room"], round((row["event_time"].timestamp() * 1000 - NOW) / MINUTE)): [row[c] for c in COLUMNS]
        for row in rows
    }
    assert len(found) == len(rows)
    assert all(row["offset"] is None and row["key"] == row["room"] for row in rows)
    return found


def refused(outcomes: Sequence[StepOutcome]) -> list[tuple[str, int]]:
    return sorted((r.error, r.offset) for o in outcomes for r in o.refused)


class Oracle:
    """Computes the rows reading by reading: late 3 min, slope over 2 min, gap of 4 min."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.late: list[tuple[str, int]] = []
        self.duplicates = 0
        self.rows: dict[tuple[str, int], list[float | None]] = {}
        rooms: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
        newest: dict[str, int] = {}
        for offset, (room, kind, at, value) in enumerate(readings):
            reached = newest.get(room, -(10**9))
            first_open = (reached - 3 * MINUTE) // MINUTE * MINUTE
            if at >= first_open and (kind, at) in {(k, t) for k, t, _ in rooms[room]}:
                self.duplicates += 1
            elif at < first_open:
                self.late.append(("TooLate", offset))
            else:
                rooms[room].append((kind, at, value))
            newest[room] = max(reached, at)
        for room, kept in rooms.items():
            self._grid(room, kept, (newest[room] - 3 * MINUTE) // MINUTE)

    def _grid(self, room: str, kept: list[tuple[str, int, float]], upto: int) -> None:
        with_reading = {at // MINUTE for _, at, _ in kept}
        for minute in range(min(with_reading), upto):
            if not any(minute - back in with_reading for back in range(5)):
                continue
            end, row = (minute + 1) * MINUTE, []
            for kind in ("co2", "t"):
                before = sorted((at, value) for k, at, value in kept if k == kind and at < end)
                inside = [value for at, value in before if at >= end - MINUTE]
                row.append(before[-1][1] if before else None)
                row.append(math.fsum(inside) / len(inside) if inside else None)
                row.append(self._slope([(at / 1000, value) for at, value in before if at >= end - 2 * MINUTE]))
                row.append((end - before[-1][0]) / 1000 if before else None)
            self.rows[room, minute + 1] = row

    @staticmethod
    def _slope(points: list[tuple[float, float]]) -> float | None:
        if len(points) < 2:
            return None
        x, y = (math.fsum(c) / len(points) for c in zip(*points, strict=True))
        return math.fsum((a - x) * (b - y) for a, b in points) / math.fsum((a - x) ** 2 for a, _ in points)


READINGS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["co2", "t"]), st.integers(0, 40).map(lambda n: n * 20_000), st.integers(0, 9)
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@example(readings=[("a", "co2", 20_000 * n, 0) for n in (6, 16, 6, 18)], cuts=set())  # repeated in the oldest open step
@given(readings=READINGS, cuts=st.sets(st.integers(1, 59), max_size=20))
def test_rows_late_ones_and_duplicates_are_those_of_a_loop_whatever_the_steps(
    readings: list[Reading], cuts: set[int]
) -> None:
    outcomes, oracle = run(pipeline(), readings, cuts), Oracle(readings)
    found = table(outcomes)
    assert found.keys() == oracle.rows.keys()
    for place, row in oracle.rows.items():
        assert found[place] == pytest.approx(row, abs=1e-9, nan_ok=True), place
    assert refused(outcomes) == oracle.late
    assert sum(o.counts["duplicates"] for o in outcomes) == oracle.duplicates


@settings(max_examples=50, deadline=None)
@given(readings=READINGS, cuts=st.sets(st.integers(1, 59), max_size=20))
def test_the_split_into_steps_changes_no_bit(readings: list[Reading], cuts: set[int]) -> None:
    readings = [(room, kind, at, value / 7) for room, kind, at, value in readings]
    assert table(run(pipeline(), readings, cuts)) == table(run(pipeline(), readings))


def test_a_silent_property_or_room_holds_no_other() -> None:
    readings = [("a", "t", 0, 20.0), ("b", "co2", 0, 400.0)]
    readings += [("a", "co2", n * MINUTE, 500.0 + n) for n in range(8)]
    found = table(run(pipeline(), readings))
    assert [minute for room, minute in found if room == "a"] == [1, 2, 3, 4]
    assert found["a", 4][:4] == [503.0, 503.0, 1 / 60, 60.0]
    assert found["a", 4][4:] == [20.0, None, None, 240.0]
    assert ("b", 1) not in found


def test_a_silent_rooms_steps_are_closed_by_the_clock_once_and_what_comes_for_them_is_late() -> None:
    p, readings = pipeline(), [("a", "co2", 0, 1.0), ("a", "co2", MINUTE, 2.0)]
    outcomes = run(p, readings, ticks=[9 * MINUTE, 10 * MINUTE, 30 * MINUTE])
    assert [len(o.results) for o in outcomes] == [0, 0, 2, 0]
    assert [row[0] for row in table(outcomes).values()] == [1.0, 2.0]
    machine, schema = Machine(p), pa.schema([*IDENTITY, *READING])

    def come(offset: int, at: int, now: int) -> StepOutcome:
        row = {
            "_partition": 0,
            "_offset": offset,
            "_row": 0,
            "_timestamp": NOW,
            "room": "a",
            "property": "co2",
            "at": NOW + at,
        }
        return machine.step(pa.RecordBatch.from_pylist([row | {"value": 1.0}], schema=schema), NOW + now)

    come(0, 0, 0)
    assert len(machine.step(empty(READING), NOW + 10 * MINUTE).results) == 1
    again, late, next_ = come(1, 0, 11 * MINUTE), come(2, 30_000, 11 * MINUTE), come(3, MINUTE, 11 * MINUTE)
    assert again.counts["duplicates"] == 1
    assert refused([again, late, next_]) == [("TooLate", 2)]


def test_a_long_gap_is_not_filled_and_a_short_one_is() -> None:
    readings = [("a", "co2", minute * MINUTE, 1.0) for minute in (0, 3, 60, 70)]
    found = table(run(pipeline(), readings))
    assert [minute for _, minute in found] == [*range(1, 9), *range(61, 66)]
    assert [found["a", minute][1] for minute in (1, 2, 4, 8)] == [1.0, None, 1.0, None]


def test_a_property_that_is_not_listed_is_counted_and_left_out() -> None:
    outcomes = run(pipeline(), [("a", "lux", 0, 1.0), ("a", "co2", 0, 1.0), ("a", "lux", 9 * MINUTE, 1.0)])
    assert sum(o.counts["ignored"] for o in outcomes) == 2
    assert table(outcomes) == {}


def test_more_readings_in_open_steps_than_there_is_room_for_are_dead_letters_and_a_backlog_is_not() -> None:
    p = pipeline(most=8)
    burst = [("a", "co2", 100 * n, float(n)) for n in range(10)]
    outcomes = run(p, burst)
    assert refused(outcomes) == [("TooMany", 8), ("TooMany", 9)]
    assert "most 8 readings of a key in open steps" in outcomes[0].refused[0].message
    backlog = [("a", "co2", n * MINUTE, float(n)) for n in range(500)]
    outcomes = run(p, backlog)
    assert refused(outcomes) == []
    assert len(table(outcomes)) == 496


def test_two_readings_of_different_properties_at_one_time_are_no_duplicates() -> None:
    outcomes = run(pipeline(), [("a", "co2", 0, 1.0), ("a", "t", 0, 2.0), ("a", "t", 0, 3.0)], ticks=[10 * MINUTE])
    assert sum(o.counts["duplicates"] for o in outcomes) == 1
    ((_, row),) = table(outcomes).items()
    assert (row[0], row[4]) == (1.0, 2.0)


def test_a_key_of_old_readings_that_came_just_now_is_not_silent() -> None:
    p = pipeline()
    results = pa.schema([*p.results, ("silent", pa.bool_())])
    machine = Machine(replace(p, stages=[*p.stages, Inactivity("15min")], results=results))
    schema = pa.schema([*IDENTITY, *READING])

    def come(room: str, offset: int, now: int) -> StepOutcome:
        rows = [
            {"_partition": 0, "_offset": offset + n, "_row": 0, "_timestamp": NOW, "room": room, "property": "co2",
             "at": NOW - (60 - n) * MINUTE, "value": 1.0}
            for n in range(20)
        ]  # fmt: skip
        return machine.step(pa.RecordBatch.from_pylist(rows, schema=schema), now, wall=NOW)

    # In its first step, a job does not know the newest timestamp of its log yet: its clock is 0.
    assert [o.results["silent"].to_pylist().count(True) for o in (come("a", 0, 0), come("b", 20, NOW))] == [0, 0]
    silent = machine.step(empty(READING), NOW + 26 * MINUTE).results
    assert silent["silent"].to_pylist().count(True) <= 2
    late = machine.step(empty(READING), NOW + 60 * MINUTE).results
    assert {row["room"] for o in (silent, late) for row in o.to_pylist() if row["silent"]} == {"a", "b"}


@pytest.mark.parametrize("wait", ["1min", "5min", "10min"])
def test_a_silence_counts_from_the_last_reading_and_rows_that_the_clock_closes_later_do_not_end_it(wait: str) -> None:
    p = pipeline(wait=wait)
    results = pa.schema([*p.results, ("silent", pa.bool_())])
    rule = AlertRule(name="silent", severity="warning", when=pl.col("silent"))
    p = replace(p, stages=[*p.stages, Inactivity("5min")], results=results, rules=[rule])
    readings = [("a", "co2", n * MINUTE + second * 1000, 1.0) for n in range(6) for second in (0, 50)]
    ticks = range(MINUTE, 60 * MINUTE, MINUTE)
    _, *outcomes = run(p, readings, ticks=ticks)
    rang = [(tick, a.transition) for tick, o in zip(ticks, outcomes, strict=True) for a in o.alerts]
    assert rang == [(5 * MINUTE, "raised")]
    silent = [row["silent"] for o in outcomes for row in o.results.to_pylist()].count(True)
    assert silent == (1 + 4 if wait == "10min" else 1)  # four minutes were open


def test_readings_that_make_no_row_yet_are_heard() -> None:
    p = pipeline(late="0s")
    p = replace(p, stages=[*p.stages, Inactivity("30s")], results=pa.schema([*p.results, ("silent", pa.bool_())]))
    machine, schema = Machine(p), pa.schema([*IDENTITY, *READING])
    for n, at in enumerate(range(0, 10 * MINUTE, 20_000)):
        row = {"_partition": 0, "_offset": n, "_row": 0, "_timestamp": NOW + at, "room": "a", "property": "co2"}
        reading = pa.RecordBatch.from_pylist([row | {"at": NOW + at, "value": 1.0}], schema=schema)
        for outcome in (machine.step(reading, NOW + at), machine.step(empty(READING), NOW + at + 15_000)):
            assert not any(outcome.results["silent"].to_pylist())
