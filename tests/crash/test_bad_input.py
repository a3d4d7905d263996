"""Bad input to a running shard: each kind has its defined outcome, and none shifts an offset, stops the stream or is lost."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash import fuzz
from tests.crash.conftest import MakeJob
from tests.crash.harness import Job, Worker
from tests.crash.job import SCHEMA, TIMED
from tests.crash.load import ARROW, Message, messages, reading
from tests.crash.oracle import judge
from tests.crash.process import ANYWHERE
from tests.support.segments import damage
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.kafka import librdkafka
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original
from tocsin.pipelines.runtime.kafka.redelivery import read_dead_letters

pytestmark = [pytest.mark.crash, pytest.mark.kafka]
START_MS = int(time.time() * 1000) - 3_600_000
DAY_MS = 86_400_000


class Kind(NamedTuple):
    """A kind of bad message, and its expected outcome.

    Args:
        value: the message; `UNIT` in it stands for the unit's number.
        letters: stage, error and row of its dead letters.
        rows: cycles, or ms after the start, that have rows.
        dropped: number of repeated readings.
    """

    value: bytes | None
    letters: Sequence[tuple[str, str, int | None]] = ()
    rows: Sequence[int] = ()
    dropped: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


def _json(text: str = "", **changed: Any) -> bytes:
    """Encode a unit's fourth reading with changed fields, and `text` before the closing brace. A field of "-" is left out."""
    whole = json.dumps({name: value for name, value in (reading(0, 4, 0.5005) | changed).items() if value != "-"})
    return (whole[:-1] + text + "}").replace('"unit": 0', '"unit": UNIT').encode()


def _stream(*cycles: int, unit: int, **columns: pa.Array) -> bytes:
    batch = pa.RecordBatch.from_pylist([reading(unit, cycle, 0.5005) for cycle in cycles], schema=SCHEMA)
    for name, column in columns.items():
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, name, column)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _dead(error: str, stage: str = "decode", row: int | None = None) -> list[tuple[str, str, int | None]]:
    return [(stage, error, row)]


def _kinds(unit: int) -> dict[str, Kind]:
    """Return the kinds of messages that may be the fourth reading of a unit. Only streams use `unit`; JSON has `UNIT`."""
    whole, odd = _stream(4, 5, unit=unit), pa.array(["4", "5"])
    return {
        "not JSON": Kind(b"unit=1;cycle=4", _dead("Malformed")),
        "two objects": Kind(_json() + _json(cycle=5), _dead("Malformed")),
        "two objects on two lines": Kind(_json() + b"\n" + _json(cycle=5), _dead("Malformed")),
        "raw newlines between fields": Kind(_json().replace(b", ", b",\r\n"), rows=[4]),
        "a raw newline in a text": Kind(_json(', "x": "a\nb"'), _dead("Malformed")),
        "empty": Kind(b"", _dead("EmptyValue")),
        "null": Kind(None, _dead("EmptyValue")),
        "a missing sensor": Kind(_json(load="-"), _dead("SchemaMismatch")),
        "an extra sensor": Kind(_json(pressure=7), rows=[4]),
        "a sensor twice": Kind(_json(', "heat": 0.9'), _dead("SchemaMismatch")),
        "a null sensor": Kind(_json(heat=None), _dead("BadValue")),
        "NaN": Kind(_json(heat=float("nan")), _dead("Malformed")),
        "infinity": Kind(_json(heat=float("-inf")), _dead("Malformed")),
        "more than a double": Kind(_json(', "x": 1e400'), _dead("Malformed")),
        "more than a network's float": Kind(_json(heat=1e39), _dead("BadValue", "last", 0)),
        "a string for a number": Kind(_json(heat="0.5"), _dead("BadValue")),
        "64-bit overflow": Kind(_json(cycle=2**63), _dead("BadValue")),
        "a cycle below all that is counted": Kind(_json(cycle=-(2**62)), _dead("BadValue", "sorted", 0)),
        "deep nesting": Kind(_json(', "x": ' + "[" * 100_000 + "]" * 100_000), _dead("Malformed")),
        "not UTF-8": Kind(_json(', "x": "y"').replace(b"y", b"\xff"), _dead("Malformed")),
        "half a surrogate pair": Kind(_json(', "x": "\\ud800"'), _dead("Malformed")),
        "20 MB": Kind(_json(x="y" * 20_000_000), _dead("TooLarge")),
        "a repeated cycle": Kind(_json(cycle=3), dropped=1),
        "out of order": Kind(_json(cycle=2), _dead("TooLate", "sorted", 0)),
        "unknown content-type": Kind(_json(), _dead("UnknownContentType"), headers=[("content-type", b"text/csv\xff")]),
        "a content-type without a value": Kind(_json(), rows=[4], headers=[("content-type", fuzz.NULL)]),
        "a truncated stream": Kind(whole[:-100], _dead("Malformed"), headers=ARROW),
        "a stream without its end": Kind(whole[:-8], _dead("Malformed"), headers=ARROW),
        "a stream of another schema": Kind(
            _stream(4, 5, unit=unit, heat=odd), _dead("SchemaMismatch"), headers=ARROW
        ),
        "a stream without rows": Kind(_stream(unit=unit), _dead("EmptyValue"), headers=ARROW),
        "a stream of which one row is bad": Kind(
            _stream(4, 5, 6, unit=unit, heat=pa.array([0.5, float("nan"), 0.5])),
            _dead("BadValue", row=1), rows=[4, 6], headers=ARROW,
        ),
        "JSON that says it is a stream": Kind(_json(), _dead("Malformed"), headers=ARROW),
        "headers with names of ours": Kind(
            b"x", _dead("Malformed"),
            headers=[("a", b"\xff"), ("tocsin-row", b"y"), ("tocsin-replay", fuzz.NULL), ("tocsin-dead-size", b"z"),
                     ("tocsin-dead-sha256", b"0" * 64), ("__connect.errors.topic", b"in"), ("none", fuzz.NULL), ("a", b"")],
        ),
        "a header's name that is not UTF-8": Kind(_json(), rows=[4], headers=[(fuzz.Name("a"), b"\xff")]),
        "a header's name that is not UTF-8 on an old reading": Kind(
            _json(cycle=2), _dead("TooLate", "sorted", 0), headers=[(fuzz.Name("a"), b"\xff")]
        ),
        "a header of 600 KB": Kind(b"x", _dead("Malformed"), headers=[("a", b"\xff" * 600_000), ("none", fuzz.NULL)]),
    }  # fmt: skip


def _originals(job: Job) -> Mapping[tuple[int, int], Sequence[DeadLetter]]:
    """Return the dead letters with their original records by partition and offset, also those kept in the lake."""
    store, found = (
        OriginalStore(job.lake.files, "", job.lake.place()),
        defaultdict[tuple[int, int], list[DeadLetter]](list),
    )
    for x in read_dead_letters(job.kafka, f"{job.topic}.dlq"):
        found[x.dead_letter.partition, x.dead_letter.offset].append(load_original(x.dead_letter, store))
    return found


def _is_original(letter: DeadLetter, record: ConsumerRecord) -> bool:
    """Return whether a dead letter carries its record unchanged."""
    return (letter.key, letter.value, letter.headers, letter.timestamp) == (
        record.key,
        record.value,
        tuple(record.headers),
        record.timestamp,
    )


def _table(job: Job) -> pl.DataFrame:
    return pl.read_delta(job.lake.uri(job.name))


def _see(job: Job, kinds: Mapping[str, Kind], worker: Worker) -> None:
    """Check that exactly the expected dead letters exist, byte for byte, and that the counts are right."""
    letters, missing = dict(_originals(job)), []
    for record in job.read(job.topic):
        kind = kinds.get((record.key or b"").rstrip(b"\xff").decode(), Kind(b""))
        found = letters.pop((record.partition, record.offset), [])
        if [(x.stage, x.error, x.row) for x in found] != list(kind.letters):
            missing.append(f"{record.key}: expected {kind.letters}, got {[str(x)[:200] for x in found]}")
        assert all(_is_original(letter, record) for letter in found), record.key
    assert (missing, letters) == ([], {})
    assert worker.counts["dead_letters"] == sum(len(kind.letters) for kind in kinds.values())
    assert worker.counts["duplicates"] == sum(kind.dropped for kind in kinds.values())


def test_each_kind_of_bad_message_has_its_end_and_its_neighbours_are_judged(make_job: MakeJob) -> None:
    job, kinds, sent = make_job(), {}, list[Message]()
    for unit, name in enumerate(_kinds(0), 1000):
        kinds[name] = kind = _kinds(unit)[name]
        good = [_json(cycle=cycle) for cycle in (1, 2, 3, 9)]
        for value, key, headers in [
            *((value, None, []) for value in good[:3]),
            (kind.value, f"{name}".encode() + b"\xff", list(kind.headers)),
            (good[3], None, []),
        ]:
            content = value and value.replace(b"UNIT", b"%d" % unit)
            sent.append(Message(unit % 2, content, headers, START_MS + 10 * len(sent), key))
    worker = job.start()
    with fuzz.null_headers():
        job.send(sent)
    job.finish(worker)

    rows = Counter[tuple[int, int]](zip(*(_table(job)[name] for name in ("unit", "cycle")), strict=True))
    expected = [(unit, cycle) for unit, k in enumerate(kinds.values(), 1000) for cycle in (3, *k.rows, 9)]
    assert rows == Counter(expected)
    _see(job, kinds, worker)
    (large,) = [x for x in read_dead_letters(job.kafka, f"{job.topic}.dlq") if x.dead_letter.error == "TooLarge"]
    assert large.dead_letter.value is None and large.dead_letter.size == len(kinds["20 MB"].value or b"")
    assert "Traceback" not in worker.said


def _timed(unit: str, after_ms: int, **changed: Any) -> bytes:
    return json.dumps({"unit": unit, "at": START_MS + after_ms, "heat": 0.5, **changed}).encode()


def _late(unit: str, rows: int) -> bytes:
    late = [{"unit": unit, "at": START_MS - 60_000 + n, "heat": 0.5} for n in range(rows)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TIMED) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(late, schema=TIMED))
    return sink.getvalue().to_pybytes()


TIMES = {
    "out of order": Kind(_timed("out of order", 500), rows=[500]),
    "repeated": Kind(_timed("repeated", 1000), dropped=1),
    "too late": Kind(_timed("too late", -60_000), _dead("TooLate", "sorted", 0)),
    "from 2099": Kind(_timed("from 2099", 73 * 365 * DAY_MS), _dead("FromTheFuture", "event time", 0)),
    "from before 1700": Kind(_timed("from before 1700", -330 * 365 * DAY_MS), _dead("BadValue")),
    "without an offset": Kind(_timed("without an offset", 0, at="2026-01-31T12:00:00"), _dead("BadValue")),
    "two MB of key": Kind(_timed("u" * 2_000_000, 1500, heat=1), _dead("BadValue", "key", 0)),
    "one MB of text": Kind(_timed("one MB of text", 1500, heat=1, note="x" * 1_100_000), rows=[1500]),
    "150 late rows": Kind(_late("150 late rows", 150), _dead("TooLate", "sorted"), headers=ARROW),
}


def test_each_kind_of_bad_time_has_its_end_and_its_neighbours_are_on_time(make_job: MakeJob) -> None:
    job, sent = make_job(factory="tests.crash.job:timed"), list[Message]()
    for name, kind in TIMES.items():
        good = [_timed(name, after) for after in (0, 1000, 5000)]
        for value, key, headers in [
            (good[0], None, []),
            (good[1], None, []),
            (kind.value, name, kind.headers),
            (good[2], None, []),
        ]:
            sent.append(Message(0, value, list(headers), START_MS + 10 * len(sent), key and key.encode() + b"\xff"))
    worker = job.start()
    job.send(sent)
    expected = Counter((name, after) for name, k in TIMES.items() for after in (0, 1000, *k.rows, 5000))
    job.drain(worker)
    until(
        lambda: _table(job).height >= expected.total(), "the last reading of each unit to be let through", worker=worker
    )
    worker.stop()

    table = _table(job)
    after = (table["event_time"].dt.epoch("ms") - START_MS).to_list()
    assert Counter(zip(table["unit"], after, strict=True)) == expected
    _see(job, TIMES, worker)
    raised, _ = job.read(f"alerts.{job.name}")
    assert orjson.loads(raised.value)["note"] == "x" * 1000


def test_among_as_many_good_messages_every_fuzzed_one_is_judged_or_found_again_through_a_kill(
    make_job: MakeJob,
) -> None:
    count, units = 10_000, 400
    job = make_job(rows=512, every="200ms")
    sent = list(
        fuzz.shuffled(fuzz.mutants(count, seed=7), fuzz.good(count, seed=7, units=units), seed=7, start_ms=START_MS)
    )
    with fuzz.null_headers():
        job.send(sent[:count])
        worker = job.start()
        rows, alerts = worker.fall(ANYWHERE)
        worker = job.start()
        job.send(sent[count:])
    job.finish(worker)
    print(f"killed with {rows} rows and {alerts} alerts in flight")

    records = job.read(job.topic)
    expected = judge(records, readings=fuzz.readings)
    assert job.differences(expected) == []
    good = Counter(u for u in _table(job)["unit"] if 0 <= u - fuzz.FIRST_GOOD < units)
    assert good == Counter({fuzz.FIRST_GOOD + n: count // units - 2 for n in range(units)})  # a window takes 3
    letters = _originals(job)
    for record in records:
        assert all(_is_original(x, record) for x in letters.get((record.partition, record.offset), ()))
    bad = [r for r in records if r.key != b"good" and (r.partition, r.offset) in letters]
    valid = [identity for identity, _ in expected.rows if identity[3] < fuzz.FIRST_GOOD]
    print(f"{len(bad)} of {count} found again, {len(valid)} rows of others, {expected.dropped} dropped")
    assert len(bad) > 0.8 * count and len(valid) > 100 and expected.dropped


def test_a_damaged_batch_stops_its_partition_with_one_line_or_goes_on_record(
    make_job: MakeJob, kafka: KafkaServer
) -> None:
    job, load = make_job(every="2s"), messages(8)
    job.send(islice(load, 300))
    zeros = next(load)._replace(partition=0, value=bytes(4000))
    job.send([zeros])  # in a batch of its own
    job.send(islice(load, 600))
    records = job.read(job.topic)
    lost = damage(kafka, job.topic, next(r.offset for r in records if r.value == zeros.value))
    rest = [r for r in records if r.partition or not lost.first <= r.offset <= lost.last]
    assert lost.first == lost.last > 0 and len(rest) < len(records)
    # librdkafka ends the process at this batch. Once an owner has ended without a checkpoint, kafka-python reads.
    native = librdkafka.chosen(job.shards_kafka)

    ends = job.ends()
    reached = {0: lost.first, 1: ends[1]}  # up to the damage, and all of the other partition
    for _ in range(2 if native else 0):  # the first start takes a checkpoint
        assert job.start().ended() == -signal.SIGABRT
    stopped = job.start()
    until(lambda: job.drained(reached), "the rest to be in the table", worker=stopped)
    stopped.stop()
    line = next(line for line in stopped.said.splitlines() if "restore the partition" in line)
    assert line.startswith(f"{job.topic}[0]@{lost.first}: ")
    assert f"continue from {lost.last + 1} with `--on-gap skip`" in line
    assert {p: job.stored(f"{job.topic}/{p}") for p in range(2)} == reached
    assert job.differences(judge(r for r in records if r.offset < reached[r.partition])) == []

    if native:
        assert job.start(on_gap="skip").ended() == -signal.SIGABRT
    skipping = job.start(on_gap="skip")
    gap = (0, lost.first, None)
    until(lambda: gap in job.letters(), "the gap on record", worker=skipping)
    skipping.kill()  # the next process re-runs the step that skipped the gap
    job.finish(job.start(on_gap="skip"))
    expected = judge(rest)
    expected.letters[gap] += 1
    assert job.differences(expected) == []
    (letter,) = _originals(job)[0, lost.first]
    assert (letter.stage, letter.error) == ("read", "RecordsCorrupt")
