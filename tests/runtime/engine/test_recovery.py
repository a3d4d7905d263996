"""Recovery after a loss: it stops with a one-line error, or continues and records the gap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest

from tests.crash.harness import Job
from tests.crash.job import SCHEMA, pipeline
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import (
    JournalLost,
    Lost,
    PositionLost,
    SchemaLost,
    SnapshotLost,
    TopicReplaced,
    Unavailable,
)
from tocsin.pipelines.runtime.engine import journal_topic
from tocsin.pipelines.runtime.engine.journal import Journal, StepRecord, checkpoint_name
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.recovery import RecoveryInputs
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.step_buffer import StepInput
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.reader import Reader, TopicState
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable, TableState

OPTIONS = {"name": "job", "topic": "readings"}
LOG = TopicState("uuid-1", {0: 100, 2: 0}, {0: 900, 2: 50})
CHECKPOINT = 3 << 32 | 7


def _found(
    lake: Lake,
    *,
    positions: dict[int, int] | None = None,
    checkpoint: int = CHECKPOINT,
    log: TopicState = LOG,
    on_gap: Literal["stop", "skip"] = "stop",
) -> RecoveryInputs:
    plan = Plan("tests.crash.job:pipeline", OPTIONS)
    config = ShardConfig(plan=plan, lake=lake, kafka={}, shard=0, partitions=[0, 2], on_gap=on_gap)
    return RecoveryInputs(config, "readings", log, TableState(4, positions or {0: 500, 2: 20}, checkpoint))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def _journal(base: int = CHECKPOINT, **ends: int) -> Journal:
    journal = Journal(base)
    journal.add_step(1000, {0: ends.get("end", 600)})
    journal.count_published([11, 12])
    return journal


def _snapshots(lake: Lake) -> Snapshots:
    return Snapshots(lake, "job", 0)


def test_when_all_is_there_it_goes_on_from_r_and_re_runs_the_journal(lake: Lake) -> None:
    found = _found(lake)
    machine = Machine(pipeline(OPTIONS, None))
    _snapshots(lake).write(CHECKPOINT, machine.delta(full=True), {"topic_id": "uuid-1"})
    snapshot = found.snapshot(_snapshots(lake))
    assert snapshot is not None and snapshot.facts == {"topic_id": "uuid-1"}
    assert found.positions("uuid-1") == {0: 500, 2: 20}
    assert found.journal(_journal()) == _journal()
    assert found.gaps == []


def test_at_the_very_start_there_is_nothing_to_restore(lake: Lake) -> None:
    found = _found(lake, checkpoint=0)
    assert found.snapshot(_snapshots(lake)) is None
    assert found.journal(None) == Journal(0)
    assert found.gaps == []


def test_of_a_journal_that_is_older_than_the_checkpoint_nothing_is_re_run(lake: Lake) -> None:
    assert _found(lake).journal(_journal(base=3 << 32 | 6)) == Journal(CHECKPOINT)


def test_of_a_journal_whose_checkpoint_has_landed_the_rest_is_re_run(lake: Lake) -> None:
    journal = _journal(base=3 << 32 | 6)
    journal.mark(CHECKPOINT, "plan")
    journal.add_step(2000, {2: 30})
    rest = Journal(CHECKPOINT)
    rest.add_step(2000, {2: 30})
    assert _found(lake).journal(journal) == rest


def _letter(offset: int, error: str) -> DeadLetter:
    return DeadLetter.of_none("readings", 0, offset, stage="decode", error=error, message="as it was told")


def _step(*units: int, letters: Sequence[DeadLetter] = ()) -> StepInput:
    """A step of one record for each unit, at the offset of that number."""
    table = empty(SCHEMA)
    columns = [pa.array([n if f.name in ("_offset", "unit") else 0 for n in units], pa.int64()) for f in table.schema]
    cast = [column.cast(f.type) for column, f in zip(columns, table.schema, strict=True)]
    return StepInput(pa.record_batch(cast, schema=table.schema), letters, {0: 600})


def test_a_message_whose_schema_was_unknown_is_left_out_again_though_it_is_known_now(lake: Lake) -> None:
    record = StepRecord(1000, {0: 600}, 1000, [(0, 502, "SchemaUnknown")])
    step = _found(lake).as_processed(_step(501, 502, 503), record)
    assert step.table["_offset"].to_pylist() == [501, 503]
    assert step.dead_letters == [_letter(502, "SchemaUnknown")]


def test_a_message_whose_schema_was_known_and_is_gone_is_a_loss(lake: Lake) -> None:
    record, step = StepRecord(1000, {0: 600}, 1000), _step(501, letters=[_letter(502, "SchemaUnknown")])
    line = r"readings\[0\]@502: expected the schema that it was decoded with before, got SchemaUnknown; restore it"
    with pytest.raises(SchemaLost, match=line):
        _found(lake).as_processed(step, record)
    found = _found(lake, on_gap="skip")
    assert found.as_processed(step, record).dead_letters == []
    assert [gap.error for gap in found.gaps] == ["SchemaLost"]


LOSSES: dict[str, tuple[type[Lost], dict[str, Any], str]] = {
    "the topic is another": (
        TopicReplaced,
        {"log": TopicState("uuid-2", LOG.begin, LOG.end)},
        "expected id uuid-1, got uuid-2",
    ),
    "R lies below the log": (PositionLost, {"positions": {0: 40, 2: 20}}, r"readings\[0\]@40: expected .* 100..900"),
    "R lies above the log": (PositionLost, {"positions": {0: 500, 2: 51}}, r"readings\[2\]@51: expected .* 0..50"),
    "the snapshot is gone": (SnapshotLost, {}, f"snapshot {CHECKPOINT} in _state/job/0"),
    "the journal is gone": (
        JournalLost,
        {},
        f"journal that goes with checkpoint {checkpoint_name(CHECKPOINT)}, got none",
    ),
    "the log ends before the journal": (PositionLost, {}, r"readings\[0\]@901: expected the log to reach .* 900"),
}


def _meet(found: RecoveryInputs, loss: str, lake: Lake) -> tuple[dict[int, int], Journal]:
    """Return the positions where recovery continues, and the journal that it re-runs."""
    journal = None if loss == "the journal is gone" else _journal(end=901 if loss.startswith("the log ends") else 600)
    if loss == "the snapshot is gone":
        assert found.snapshot(_snapshots(lake)) is None
    return found.positions("uuid-1"), found.journal(journal)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_stops_with_one_line_that_says_what_to_do(lake: Lake, loss: str) -> None:
    error, given, says = LOSSES[loss]
    with pytest.raises(error, match=says) as lost:
        _meet(_found(lake, **given), loss, lake)
    assert "--on-gap" in str(lost.value) and "\n" not in str(lost.value)


@pytest.mark.parametrize("loss", LOSSES)
def test_or_it_goes_on_inside_the_log_with_the_gap_on_record(lake: Lake, loss: str) -> None:
    error, given, _ = LOSSES[loss]
    found = _found(lake, on_gap="skip", **given)
    positions, todo = _meet(found, loss, lake)
    (gap,) = found.gaps
    assert (gap.stage, gap.error, gap.topic, gap.value) == ("takeover", error.__name__, "readings", None)
    assert all(LOG.begin[p] <= at <= LOG.end[p] for p, at in positions.items()) and positions.keys() == {0, 2}
    if loss == "the topic is another":
        assert (positions, todo) == (dict(LOG.begin), Journal(CHECKPOINT))
    elif error is SnapshotLost:
        assert (positions, todo) == ({0: 500, 2: 20}, _journal())
    elif loss.startswith("R lies below"):
        assert positions == {0: 100, 2: 20}


FAILING = {
    "the broker is gone after the fence": (Reader, "log", Unavailable("Kafka: expected a broker to answer, got none")),
    "the lake does not take the epoch": (ResultsTable, "own", OSError(28, "No space left on device")),
    "the journal does not come": (journal_topic, "newest", Unavailable("Kafka: expected a broker to answer, got none")),
    "the input does not take the position": (
        Reader,
        "seek",
        Unavailable("Kafka: expected a broker to answer, got none"),
    ),
    "the lake does not take the first snapshot": (Snapshots, "write", OSError(28, "No space left on device")),
}


def test_a_takeover_that_fails_and_is_tried_again_leaves_nothing_open(
    kafka: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, at_first = Job(kafka.bootstrap_servers, tmp_path, partitions=1), _threads()
    reader = Reader(job.kafka, job.topic, [0], Codec(topic=job.topic, schema=SCHEMA), 500)
    reader.log()  # opens a connection, which stays
    before = _threads()
    for owner, name, error in FAILING.values():
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, _raises(error))
            with pytest.raises(Unavailable):  # the worker waits and retries
                Shard(job.configs()[0], reader)
        assert not _more_than(before), name
    Shard(job.configs()[0], reader).close()
    assert not _more_than(at_first)


@pytest.mark.parametrize("make", [clients.consumer, clients.producer, clients.admin])
def test_a_client_that_finds_no_broker_leaves_no_thread(make: Callable[..., object]) -> None:
    before = _threads()
    with pytest.raises(Unavailable):
        make({"bootstrap_servers": "127.0.0.1:9", "bootstrap_timeout_ms": 100})
    assert not _more_than(before)


def _threads() -> set[threading.Thread]:
    """Return the threads that hold connections or write checkpoints."""
    return {t for t in threading.enumerate() if t.name.startswith(("kafka", "checkpoint", "publisher"))}


def _more_than(before: set[threading.Thread]) -> list[str]:
    """Return the names of threads that are not in `before`. Waits up to 5 s for threads that are ending."""
    give_up = time.monotonic() + 5
    while (more := _threads() - before) and time.monotonic() < give_up:
        time.sleep(0.02)
    return sorted(t.name for t in more)


def _raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
