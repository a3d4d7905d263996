"""Steps are defined by offsets: the steps of a journal come out the same in whatever polls the records arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.machine import empty
from tocsin.pipelines.runtime.engine.step_buffer import StepBuffer, StepInput
from tocsin.pipelines.runtime.kafka.reader import Poll

SCHEMA = pa.schema([("unit", pa.int64())])
EMPTY = empty(SCHEMA)


@dataclass(frozen=True)
class Message:
    """The content of one offset: rows, and perhaps a dead letter. With neither, it is a transaction's marker."""

    rows: int
    dead: bool


Log = list[list[Message]]
"""Messages by partition. A message's index is its offset."""


def _table(rows: Sequence[tuple[int, int, int]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    partition, offset, row = (list(c) for c in columns)
    values = [partition, offset, row, offset, [1000 * o + r for o, r in zip(offset, row, strict=True)]]
    arrays = [pa.array(v, pa.int64()).cast(f.type) for v, f in zip(values, EMPTY.schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=EMPTY.schema)


def _dead(partition: int, offset: int) -> DeadLetter:
    return DeadLetter(
        topic="t",
        partition=partition,
        offset=offset,
        row=None,
        stage="decode",
        error="BadValue",
        message="",
        timestamp=0,
        key=None,
        value=None,
        headers=(),
    )


def _poll(log: Log, spans: dict[int, tuple[int, int]]) -> Poll:
    """Make a poll of `spans`: partition -> first offset and end."""
    rows, dead = [], []
    for p, (start, end) in sorted(spans.items()):
        for offset in range(start, end):
            rows += [(p, offset, r) for r in range(log[p][offset].rows)]
            dead += [_dead(p, offset)] if log[p][offset].dead else []
    return Poll(_table(rows), dead, {p: end for p, (_, end) in spans.items()}, 0)


def _polls(log: Log, cuts: Sequence[list[int]]) -> list[Poll]:
    """Split the whole log into polls. `cuts[p]` are the offsets of partition p where polls end."""
    reached = [[0, *sorted(min(c, len(log[p])) for c in cuts[p]), len(log[p])] for p in range(len(log))]
    polls = []
    for n in range(max(map(len, reached)) - 1):
        spans = {p: (r[n], r[n + 1]) for p, r in enumerate(reached) if n + 1 < len(r) and r[n + 1] > r[n]}
        polls += [_poll(log, spans)] if spans else []
    return polls


MESSAGE = st.builds(Message, rows=st.sampled_from([0, 1, 1, 1, 2, 5]), dead=st.sampled_from([False, False, True]))
LOG = st.lists(st.lists(MESSAGE, max_size=15), min_size=1, max_size=3)
CUTS = st.lists(st.lists(st.integers(0, 15), max_size=6), min_size=3, max_size=3)


def _taken(log: Log, cuts: Sequence[list[int]], rows: Sequence[int]) -> list[StepInput]:
    """Return the steps of a live shard: after each poll, it takes as many rows as it wants."""
    buffer, wanted, steps = StepBuffer(EMPTY), iter(rows * 200), []
    for poll in _polls(log, cuts):
        buffer.put(poll)
        steps.append(buffer.take(next(wanted)))
    while buffer:
        steps.append(buffer.take(next(wanted)))
    return steps


@settings(max_examples=300, deadline=None)
@given(LOG, CUTS, CUTS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_same_steps_come_out_of_other_polls(
    log: Log, cuts: list[list[int]], others: list[list[int]], rows: list[int]
) -> None:
    steps = _taken(log, cuts, rows)
    again, polls = StepBuffer(EMPTY), iter(_polls(log, others))
    for step in steps:
        while not again.covers(step.ends):
            again.put(next(polls))
        assert again.take_until(step.ends) == step
    assert not again.rows


@settings(max_examples=300, deadline=None)
@given(LOG, CUTS, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_steps_are_the_whole_log_once_in_order_and_never_part_a_message(
    log: Log, cuts: list[list[int]], rows: list[int]
) -> None:
    steps = _taken(log, cuts, rows)
    for p, messages in enumerate(log):
        expected = [(o, r) for o, m in enumerate(messages) for r in range(m.rows)]
        got = [(t["_offset"], t["_row"]) for step in steps for t in step.table.to_pylist() if t["_partition"] == p]
        assert got == expected
        letters = [d.offset for step in steps for d in step.dead_letters if d.partition == p]
        assert letters == [o for o, m in enumerate(messages) if m.dead]
        ends = [step.ends[p] for step in steps if p in step.ends]
        assert ends == sorted(ends) and (ends[-1] if ends else 0) == len(messages)
        for step, (before, end) in zip((s for s in steps if p in s.ends), pairwise([0, *ends]), strict=True):
            offsets = {t["_offset"] for t in step.table.to_pylist() if t["_partition"] == p}
            assert all(before <= o < end for o in offsets)
    for step, wanted in zip(steps, rows * 200, strict=False):
        partitions = step.table["_partition"].to_pylist()
        assert partitions == sorted(partitions)
        assert step.table.num_rows < wanted + 5  # messages are not split


def test_a_poll_that_only_moves_on_makes_a_step_without_rows() -> None:
    buffer = StepBuffer(EMPTY)
    buffer.put(_poll([[Message(0, False)] * 3], {0: (0, 3)}))
    assert buffer and buffer.rows == 0
    assert buffer.take(10) == StepInput(EMPTY, [], {0: 3})
    assert not buffer


def test_nothing_waiting_makes_a_tick() -> None:
    assert StepBuffer(EMPTY).take(10) == StepInput(EMPTY, [], {})
    assert StepBuffer(EMPTY).take_until({}) == StepInput(EMPTY, [], {})


def test_a_tick_of_the_journal_leaves_what_waits() -> None:
    buffer = StepBuffer(EMPTY)
    buffer.put(_poll([[Message(1, False), Message(0, False)]], {0: (0, 1)}))
    buffer.put(_poll([[Message(1, False), Message(0, False)]], {0: (1, 2)}))
    assert buffer.take_until({}) == StepInput(EMPTY, [], {})
    assert buffer.rows == 1 and buffer.covers({0: 2})


def test_a_timestamp_ahead_of_the_walls_clock_does_not_say_how_far_a_partition_has_been_read() -> None:
    table = _table([(0, 5, 0), (0, 90, 0), (0, 7, 0), (1, 90, 0)])  # a row's timestamp is its offset
    assert StepInput(table, (), {0: 91, 1: 91, 2: 3}).newest({0: 6, 2: 4}, 50) == {0: 7, 1: 50, 2: 4}
