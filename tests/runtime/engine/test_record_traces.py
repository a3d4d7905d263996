"""The trace contexts of records: kept as long as a row may cause an alert, and no longer."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest

from tests.crash.job import SCHEMA, pipeline
from tests.crash.load import reading
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.declare.records import TracedPoll
from tocsin.pipelines.runtime.declare.stores import PendingStore
from tocsin.pipelines.runtime.engine import record_traces
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.record_traces import RecordTraces, divided
from tocsin.pipelines.runtime.kafka.reader import Poll

LATE = 2
"""Cycles that a unit's reading waits."""


def _parent(offset: int) -> str:
    return f"00-{offset + 1:032x}-{offset + 1:016x}-01"


def _poll(offsets: range, *, partition: int = 0, end: int | None = None, read_at: int = 5) -> Poll:
    """A poll of these offsets, of which all even ones came with a context and 9 with an invalid one."""
    headers = [
        [
            ("x", None),
            *([("traceparent", _parent(n).encode())] if n % 2 == 0 else [("traceparent", b"9")] if n == 9 else []),
        ]
        for n in offsets
    ]
    traced = TracedPoll(np.full(len(offsets), partition), np.array(offsets), headers, read_at)
    return Poll(empty(SCHEMA), [], {partition: offsets.stop if end is None else end}, {}, traces=traced)


def _machine(cycles: int, partition: int = 0, late: int = LATE) -> Machine:
    """A machine that has processed the offsets before `cycles` of a partition. The last `late` of them wait."""
    machine = Machine(pipeline({"name": "job", "topic": "readings", "late": late}, None))
    rows = [
        {"_partition": partition, "_offset": n, "_row": 0, "_timestamp": 1000 * n, **reading(1, n, 0.9)}
        for n in range(cycles)
    ]
    machine.step(pa.RecordBatch.from_pylist(rows, schema=pa.schema([*IDENTITY, *SCHEMA])), 1000 * cycles)
    return machine


def _known(traces: RecordTraces, offsets: range, partition: int = 0) -> list[int]:
    return [offset for offset in offsets if traces.get(partition, offset)]


def test_a_record_has_the_context_that_it_came_with() -> None:
    traces = RecordTraces()
    assert not traces
    traces.add(_poll(range(3, 10), read_at=7))
    traces.add(_poll(range(20, 30), partition=1, read_at=8))
    found = traces.get(0, 4)
    assert found and (found.context.traceparent, found.read_at) == (_parent(4), 7)
    found = traces.get(1, 28)
    assert found and (found.context.traceparent, found.read_at) == (_parent(28), 8)
    unknown = [(0, 2), (0, 3), (0, 9), (0, 10), (1, 4), (1, 30), (2, 4)]
    assert [traces.get(*place) for place in unknown] == [None] * len(unknown)


def test_a_poll_without_any_is_not_kept() -> None:
    traces = RecordTraces()
    traces.add(Poll(empty(SCHEMA), [], {0: 3}, {}))
    assert not traces


def test_what_waits_or_was_not_processed_is_kept_and_all_else_is_dropped() -> None:
    traces, machine = RecordTraces(), _machine(cycles=10)
    for offsets in (range(6), range(6, 12), range(12, 20)):
        traces.add(_poll(offsets))
    traces.prune(machine, {0: 10})  # within the second poll
    assert _known(traces, range(20)) == [6, 8, 10, 12, 14, 16, 18]
    traces.prune(machine, {0: 12})
    assert _known(traces, range(20)) == [8, 12, 14, 16, 18]
    traces.prune(machine, {0: 20})
    assert _known(traces, range(20)) == [8]
    traces.facts(_machine(cycles=20))
    assert not traces


def test_rows_of_another_partition_wait_for_themselves() -> None:
    traces = RecordTraces()
    for partition in (0, 1):
        traces.add(_poll(range(10), partition=partition))
    traces.prune(_machine(cycles=10, partition=1), {0: 10, 1: 10})
    assert (_known(traces, range(10)), _known(traces, range(10), 1)) == ([], [8])


def test_rows_that_left_are_dropped_once_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_traces, "FEW", 3)
    traces = RecordTraces()
    for cycles in (10, 12, 14, 16):
        traces.add(_poll(range(cycles - 2, cycles)))
        traces.prune(_machine(cycles), {0: cycles})
        assert traces.get(0, cycles - 2) and len(traces._waiting) < 3


def test_of_too_many_that_wait_the_oldest_lose_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_traces, "FEW", 1)
    monkeypatch.setattr(record_traces, "MOST", 2)
    traces = RecordTraces()
    traces.add(_poll(range(20)))
    traces.add(_poll(range(20, 30)))
    traces.prune(_machine(cycles=20, late=8), {0: 20})
    assert _known(traces, range(30)) == [16, 18, *range(20, 30, 2)]  # what was not processed yet is not counted


def test_a_snapshot_holds_the_contexts_of_what_waits() -> None:
    traces, machine = RecordTraces(), _machine(cycles=10)
    traces.add(_poll(range(8)))
    traces.add(_poll(range(8, 14)))
    traces.prune(machine, {0: 10})
    facts = traces.facts(machine)
    assert facts == {"traces": [(0, 8, 5, _parent(8), ""), (0, 9, 5, "9", "")]}  # checked once an alert needs it
    again = RecordTraces({"now": 3, **orjson.loads(orjson.dumps(facts))})
    assert again.get(0, 8) == traces.get(0, 8)
    assert _known(again, range(14)) == [8]
    assert again.facts(machine) == facts
    assert _known(traces, range(14)) == [8, 10, 12]


def test_a_snapshot_without_any_says_nothing_of_them() -> None:
    traces = RecordTraces()
    assert traces.facts(_machine(cycles=10)) == {}
    traces.add(_poll(range(5)))
    assert traces.facts(_machine(cycles=10)) == {}
    assert not RecordTraces({}) and not RecordTraces({"now": 3})


def test_rows_that_a_timer_made_belong_to_no_record() -> None:
    machine = _machine(cycles=10)
    (store,) = [s for s in machine._state._stores.values() if isinstance(s, PendingStore)]
    assert store.rows
    store.rows = store.rows.with_columns({"_offset": pa.array([None, 8], pa.int64())})
    traces = RecordTraces()
    traces.add(_poll(range(10)))
    assert [entry[1] for entry in traces.facts(machine)["traces"]] == [8]


def test_contexts_move_with_their_partitions_to_other_shards() -> None:
    facts = [{"traces": [[0, 8, 5, "a", ""], [2, 8, 5, "b", ""]]}, {"now": 1}, {"traces": [[3, 8, 5, "c", ""]]}]
    assert divided(facts, 2) == [{"traces": [*facts[0]["traces"]]}, {"traces": [*facts[2]["traces"]]}]
