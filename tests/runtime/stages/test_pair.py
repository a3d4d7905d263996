"""Joins in time against a loop over arrivals that keeps everything, for any order of arrival and any steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome
from tocsin.pipelines.runtime.stages import Pair

NOW = 1_767_225_600_000
READING = pa.schema(
    [
        pa.field("rig", pa.string(), nullable=False),
        pa.field("view", pa.string()),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
        pa.field("file", pa.binary(), nullable=False),
    ]
)
TOLERANCE, WAIT = 40, 500


class Row(NamedTuple):
    """A reading: its number, rig, view and time in ms."""

    number: int
    rig: str
    view: str
    at: int


class Seen(Stage):
    """Adds a tensor."""

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return rows.with_tensors(seen=rows.column("x")[:, None].float())


class Flat(Stage):
    """Writes the partner's tensor to a column."""

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        assert torch.equal(rows.tensors["paired"], ~rows.tensors["other_seen"].eq(0).all(1))
        return rows.with_columns({"other_seen": pa.array(rows.tensors["other_seen"][:, 0].numpy())})


def declared(late: int = 0) -> Pipeline:
    return Pipeline(
        name="pairs",
        topic="pairs",
        schema=READING,
        key="rig",
        event_time="at",
        stages=[
            Seen(),
            Pair(
                by="view",
                sources=("one", "two"),
                columns=["x", "file"],
                tensors=["seen"],
                tolerance=f"{TOLERANCE}ms",
                late=f"{late}ms",
                wait=f"{WAIT}ms",
            ),
            Flat(),
        ],
        results=pa.schema(
            [
                ("x", pa.float64()),
                ("file", pa.binary()),
                ("other_x", pa.float64()),
                ("other_file", pa.binary()),
                ("other_seen", pa.float32()),
                ("apart", pa.int64()),
            ]
        ),
    )


def batch(rows: Sequence[Row]) -> pa.RecordBatch:
    records = [
        {
            "_partition": 0,
            "_offset": row.number,
            "_row": 0,
            "_timestamp": NOW,
            "rig": row.rig,
            "view": row.view,
            "at": NOW + row.at,
            "x": float(row.number + 1),
            "file": b"%d" % row.number,
        }
        for row in rows
    ]
    return pa.RecordBatch.from_pylist(records, schema=pa.schema([*IDENTITY, *READING]))


class Naive:
    """Keeps every row and looks at all of them after each arrival."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.accepted: list[Row] = []
        self.passed: list[tuple[Row, Row | None]] = []
        self.refused: list[int] = []

    def add(self, row: Row) -> None:
        mine = [r for r in self.accepted if (r.rig, r.view) == (row.rig, row.view)]
        through = max((r.at for r, _ in self.passed if r.rig == row.rig), default=None)
        floor = max((r.at for r in mine), default=row.at) - self.late
        if row.view == "one" and through is not None:
            if row.at == through:
                return
            floor = max(floor, through + 1)
        if row.at < floor:
            self.refused.append(row.number)
        elif all(r.at != row.at for r in mine):
            self.accepted.append(row)
            self.look(row.rig)

    def first_passed(self) -> list[Row]:
        return [row for row, _ in self.passed]

    def look(self, rig: str, *, silent: bool = False) -> None:
        firsts, seconds = ([r for r in self.accepted if (r.rig, r.view) == (rig, view)] for view in ("one", "two"))
        for row in sorted((r for r in firsts if r not in self.first_passed()), key=lambda r: r.at):
            near = sorted((abs(s.at - row.at), s.at, s.number) for s in seconds if abs(s.at - row.at) <= TOLERANCE)
            reach = near[0][0] if near else TOLERANCE
            settled = max((s.at for s in seconds), default=-(10**9)) - self.late >= row.at + reach
            given_up = max(r.at for r in firsts) - self.late >= row.at + TOLERANCE + WAIT
            if not (settled or given_up or silent):
                return
            partner = next(s for s in seconds if s.number == near[0][2]) if near else None
            self.passed.append((row, partner))


arrivals = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["one", "two"]), st.integers(0, 60)), min_size=1, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(arrivals, st.sampled_from([0, 60, 200]), st.data())
def test_any_steps_join_as_a_loop_over_all_arrivals_does(
    drawn: list[tuple[str, str, int]], late: int, data: st.DataObject
) -> None:
    # Times go on with the number of the row, so that most rows are in time; equal times occur.
    rows = [Row(n, rig, view, 15 * n + 10 * off) for n, (rig, view, off) in enumerate(drawn)]
    naive = Naive(late)
    for row in rows:
        naive.add(row)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    machine, outcomes = Machine(declared(late)), list[StepOutcome]()
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        outcomes.append(machine.step(batch(rows[start:end]), NOW))
    for rig in "ab":
        naive.look(rig, silent=True)
    outcomes.append(machine.step(batch([]), NOW + WAIT + 1))
    results = [row for outcome in outcomes for row in outcome.results.to_pylist()]
    got = [(row["offset"], row["other_x"], row["other_file"], row["other_seen"], row["apart"]) for row in results]
    expected = [
        (r.number, s and s.number + 1.0, s and b"%d" % s.number, s.number + 1.0 if s else 0.0, s and s.at - r.at)
        for r, s in naive.passed
    ]
    # Rows that wait for the key's silence come in the order of keys, not of arrival.
    assert sorted(got) == sorted(expected)
    assert all(row["file"] == b"%d" % row["offset"] for row in results)
    assert sorted(r.offset for o in outcomes for r in o.refused) == sorted(naive.refused)


def joined(rows: Sequence[Row], *, late: int = 0) -> tuple[list[tuple[int, float | None]], StepOutcome]:
    outcome = Machine(declared(late)).step(batch(rows), NOW)
    return [(row["offset"], row["other_x"]) for row in outcome.results.to_pylist()], outcome


def test_a_row_waits_for_a_nearer_partner_and_no_longer() -> None:
    rows = [Row(0, "a", "two", 80), Row(1, "a", "one", 100)]
    assert joined(rows)[0] == []  # one at 110 would be nearer
    assert joined([*rows, Row(2, "a", "two", 110)])[0] == [(1, 3.0)]
    assert joined([*rows, Row(2, "a", "two", 130)])[0] == [(1, 1.0)]
    assert joined([Row(0, "a", "two", 100), Row(1, "a", "one", 100)])[0] == [(1, 1.0)]  # nothing is nearer


def test_of_two_partners_equally_near_the_earlier_is_taken() -> None:
    assert joined([Row(0, "a", "two", 80), Row(1, "a", "one", 100), Row(2, "a", "two", 120)])[0] == [(1, 1.0)]


def test_a_row_without_a_partner_passes_alone_and_is_counted() -> None:
    found, outcome = joined([Row(0, "a", "one", 100), Row(1, "a", "two", 200)])
    assert found == [(0, None)] and outcome.counts["unpaired"] == 1
    found, outcome = joined([Row(0, "a", "one", 100), Row(1, "a", "one", 100 + TOLERANCE + WAIT)])
    assert found == [(0, None)]  # the second source sends nothing


def test_partners_of_nobody_are_dropped_and_counted_once() -> None:
    _, outcome = joined([*(Row(n, "a", "two", 100 * n) for n in range(20)), Row(20, "a", "one", 1900)])
    assert outcome.counts["unused"] == 19  # the last one is the partner of the first row


def test_a_source_that_sends_alone_is_not_kept_for_ever() -> None:
    _, outcome = joined([Row(n, "a", "two", 100 * n) for n in range(100)])
    assert outcome.counts["unused"] >= 100 - (WAIT + 2 * TOLERANCE) // 100 - 1


def test_late_and_unknown_rows_become_dead_letters() -> None:
    rows = [Row(0, "a", "one", 100), Row(1, "a", "two", 100), Row(2, "a", "one", 90), Row(3, "a", "three", 100)]
    _, outcome = joined(rows)
    assert [(r.offset, r.error) for r in outcome.refused] == [(3, "BadValue"), (2, "TooLate")]
    assert "expected view 'one' or 'two', got 'three'" in outcome.refused[0].message


def test_equal_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected two sources"):
        Pair(by="view", sources=("one", "one"))
