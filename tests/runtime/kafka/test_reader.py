"""The Reader on Apache Kafka: polls are complete and have their ends; it never jumps silently and returns no aborted record."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Literal

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from tests.conftest import CreateTopic
from tests.support.segments import BASE_OFFSET, CRC, LAST_RECORD, damage
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import ConfigError, PositionLost, RecordsCorrupt
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.kafka import corruption as damage_module
from tocsin.pipelines.runtime.kafka import reader as reader_module
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False)])
OPTIONS = dict[str, str]()


@pytest.fixture
def two(create_topic: CreateTopic) -> str:
    """A topic of two partitions."""
    return create_topic(partitions=2)


@pytest.fixture(autouse=True, params=[librdkafka.LIBRDKAFKA, librdkafka.KAFKA_PYTHON])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The client of each reader."""
    monkeypatch.setitem(OPTIONS, librdkafka.CLIENT, request.param)
    return str(request.param)


def _reader(
    kafka: KafkaServer,
    topic: str,
    partitions: Sequence[int] = (0, 1),
    max_records: int = 500,
    on_gap: Literal["stop", "skip"] = "stop",
) -> Reader:
    codec = Codec(topic=topic, schema=SCHEMA)
    options = OPTIONS | {"bootstrap_servers": kafka.bootstrap_servers}
    return Reader(options, topic, partitions, codec, max_records, on_gap)


def _send(producer: KafkaProducer, topic: str, partition: int, values: Sequence[object]) -> None:
    for value in values:
        producer.send(topic, json.dumps(value).encode(), partition=partition)
    producer.flush()


@pytest.fixture
def producer(kafka: KafkaServer) -> Iterator[KafkaProducer]:
    made = clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, linger_ms=5)
    yield made
    made.close(timeout=5)


def _drain(reader: Reader, ends: dict[int, int]) -> list[Poll]:
    """Poll until these offsets are reached. Returns the polls."""
    polls, reached = list[Poll](), dict[int, int]()
    for _ in range(100):
        if any(reached.get(p, 0) < end for p, end in ends.items()) and (poll := reader.poll(200)):
            polls.append(poll)
            reached |= poll.ends
    assert reached == ends
    return polls


def test_polls_are_the_log_in_order_with_their_ends_and_what_is_behind(
    kafka: KafkaServer, two: str, producer: KafkaProducer
) -> None:
    _send(producer, two, 0, [{"unit": n} for n in range(25)])
    _send(producer, two, 1, [{"unit": n} for n in range(100, 110)] + ["not a reading"])
    reader = _reader(kafka, two, max_records=10)
    reader.seek({0: 3, 1: 0})
    polls = _drain(reader, {0: 25, 1: 11})
    reader.close()
    for partition, units in ((0, list(range(3, 25))), (1, list(range(100, 110)))):
        got = [r["unit"] for p in polls for r in p.table.to_pylist() if r["_partition"] == partition]
        assert got == units
    for poll in polls:
        places = [(r["_partition"], r["_offset"]) for r in poll.table.to_pylist()]
        assert places == sorted(places) and len(places) <= 10
        assert all(offset < poll.ends[partition] for partition, offset in places)
    (dead,) = [d for p in polls for d in p.dead_letters]
    assert (dead.partition, dead.offset) == (1, 10)
    assert not any(polls[-1].behind.values()) and any(polls[0].behind.values())


def test_it_reads_its_own_partitions_alone(kafka: KafkaServer, two: str, producer: KafkaProducer) -> None:
    _send(producer, two, 0, [{"unit": 1}])
    _send(producer, two, 1, [{"unit": 2}])
    reader = _reader(kafka, two, partitions=[1])
    reader.seek({1: 0})
    (poll,) = _drain(reader, {1: 1})
    assert poll.table["unit"].to_pylist() == [2]
    assert reader.log().end == {1: 1}
    reader.close()


def test_the_end_of_a_transaction_moves_the_position_and_aborted_readings_are_not_seen(
    kafka: KafkaServer, two: str
) -> None:
    transactional = clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, transactional_id=two)
    transactional.init_transactions()
    for unit, end in ((1, "commit"), (2, "abort"), (3, "commit")):
        transactional.begin_transaction()
        _send(transactional, two, 0, [{"unit": unit}])
        getattr(transactional, f"{end}_transaction")()
    transactional.close(timeout=5)
    reader = _reader(kafka, two, partitions=[0])
    reader.seek({0: 0})
    polls = _drain(reader, {0: 6})  # three readings, three markers
    assert [u for p in polls for u in p.table["unit"].to_pylist()] == [1, 3]
    assert reader.poll(100) is None
    reader.close()


def test_what_follows_the_end_of_a_transaction_is_read_however_late_the_next_poll_comes(
    kafka: KafkaServer, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "CAREFUL_S", (0.01, 0.01))
    with closing(clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, transactional_id=two)) as producer:
        producer.init_transactions()
        for unit in range(3):
            producer.begin_transaction()
            _send(producer, two, 0, [{"unit": unit}, {"unit": unit}])
            producer.commit_transaction()
    reader, units = _reader(kafka, two), list[int]()
    reader.seek({0: 0, 1: 0})
    for _ in range(100):
        if len(units) < 6:
            units += poll.table["unit"].to_pylist() if (poll := reader.poll(100)) else []
            time.sleep(0.05)  # longer than it reads with care
    reader.close()
    assert units == [0, 0, 1, 1, 2, 2]


def test_a_position_outside_the_log_is_an_error_and_no_jump(
    kafka: KafkaServer, two: str, producer: KafkaProducer
) -> None:
    _send(producer, two, 0, [{"unit": 1}])
    reader = _reader(kafka, two, partitions=[0])
    reader.seek({0: 99})
    with pytest.raises(PositionLost, match=r"expected offsets .*99.* inside the log") as lost:
        _drain(reader, {0: 100})
    assert "\n" not in str(lost.value)
    reader.close()


DAMAGES = {
    "a record": (LAST_RECORD, "failed crc check"),
    "the checksum": (CRC, "failed crc check"),
    "a length that hides what follows": (8, "nothing, although the log continues"),
}
"""The damaged byte of the batch, and the text of the error."""


@pytest.mark.parametrize(("at", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damage_in_the_log_is_an_error_or_a_dead_letter_and_what_surrounds_it_is_read(
    kafka: KafkaServer,
    topic: str,
    producer: KafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    says: str,
) -> None:
    monkeypatch.setattr(reader_module, "SILENT_S", 0.5)
    monkeypatch.setattr(damage_module, "PATIENCE_S", 0.3)
    units = iter(range(322))
    for size in (5, 7, 300, 4, 6):
        _send(producer, topic, 0, [{"unit": unit} for unit in islice(units, size)])
    lost = damage(kafka, topic, 20, at)

    stopping = _reader(kafka, topic, partitions=[0], max_records=100)
    stopping.seek({0: 0})
    with pytest.raises(RecordsCorrupt, match=says) as line:
        _drain(stopping, {0: 322})
    assert str(line.value).startswith(f"{topic}[0]@{lost.first}: expected ") and "\n" not in str(line.value)
    with pytest.raises(RecordsCorrupt):  # a shard has several polls in flight
        stopping.poll(100)
    stopping.close()

    skipping = _reader(kafka, topic, partitions=[0], max_records=100, on_gap="skip")
    skipping.seek({0: 0})
    polls = _drain(skipping, {0: 322})
    (letter,) = [d for p in polls for d in p.dead_letters]
    assert (letter.offset, letter.stage, letter.error, letter.value) == (lost.first, "read", "RecordsCorrupt", None)
    (end,) = map(int, re.findall(r"continue from (\d+) with", letter.message))
    # A wrong length misleads the broker, too, up to the next entry of its index.
    assert end == lost.last + 1 if at != 8 else end > lost.last
    rows = [(r["_offset"], r["unit"]) for p in polls for r in p.table.to_pylist()]
    assert rows == [(n, n) for n in range(322) if not lost.first <= n < end]
    if at != 8:
        around = [lost.first - 1, lost.last + 1]
        assert [r.offset for r in skipping.originals({0: around})] == around
    skipping.close()


@pytest.mark.parametrize("at", [0, BASE_OFFSET], ids=["beyond the log", "inside the log"])
@pytest.mark.parametrize("on_gap", ["stop", "skip"])
def test_a_batch_that_lies_about_its_offset_is_an_error_and_never_a_wrong_offset(
    kafka: KafkaServer, topic: str, producer: KafkaProducer, at: int, on_gap: Literal["stop", "skip"]
) -> None:
    for size in (12, 30, 200):
        _send(producer, topic, 0, [{"unit": unit} for unit in range(size)])
    lie = damage(kafka, topic, 12, at)
    assert lie.first == 12
    reader = _reader(kafka, topic, partitions=[0], max_records=10, on_gap=on_gap)
    reader.seek({0: 0})
    polls = [poll for poll in (reader.poll(500), reader.poll(500)) if poll]
    assert [r["_offset"] for p in polls for r in p.table.to_pylist()] == list(range(12))
    with pytest.raises(
        RecordsCorrupt, match=r"@12: expected .*, got a batch whose header gives base offset \d+"
    ) as lost:
        _drain(reader, {0: 242})
    assert "on-gap" not in str(lost.value)  # the extent of the damage is unknown
    reader.close()


def test_a_silent_log_that_is_sound_is_no_damage(
    kafka: KafkaServer, topic: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "SILENT_S", 0.2)
    open_one = clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, transactional_id=topic)
    open_one.init_transactions()
    open_one.begin_transaction()
    _send(open_one, topic, 0, [{"unit": 1}])
    reader = _reader(kafka, topic, partitions=[0])
    reader.seek({0: 0})
    give_up = time.monotonic() + 2
    while time.monotonic() < give_up:
        assert reader.poll(100) is None
    open_one.commit_transaction()
    open_one.close(timeout=5)
    polls = _drain(reader, {0: 2})
    assert [unit for poll in polls for unit in poll.table["unit"].to_pylist()] == [1]
    reader.close()


def test_originals_are_the_records_as_they_are(kafka: KafkaServer, two: str, producer: KafkaProducer) -> None:
    _send(producer, two, 0, [{"unit": n} for n in range(20)])
    _send(producer, two, 1, ["x"])
    reader = _reader(kafka, two)
    found = reader.originals({0: [7, 3, 7], 1: [0]})
    assert [(r.partition, r.offset, r.value) for r in found] == [
        (0, 3, b'{"unit": 3}'),
        (0, 7, b'{"unit": 7}'),
        (1, 0, b'"x"'),
    ]
    reader.close()


def test_a_topic_that_is_not_there_is_one_line(kafka: KafkaServer) -> None:
    reader = _reader(kafka, "nowhere", partitions=[0])
    with pytest.raises(ConfigError, match=r"topic nowhere: expected it to exist, got .*; create it first") as refused:
        reader.log()
    assert "\n" not in str(refused.value)
    reader.close()


def test_a_batch_that_does_not_decompress_is_damage_whatever_its_codec_raises() -> None:
    for codec in (DefaultRecordBatch.CODEC_GZIP, DefaultRecordBatch.CODEC_SNAPPY, DefaultRecordBatch.CODEC_LZ4, 4):
        builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 20)
        assert builder.append(0, 1, None, b"x" * 1000, []) is not None
        raw = builder.build()
        raw[70:] = bytes(len(raw) - 70)
        struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
        batch = damage_module._Chain(MemoryRecords(bytes(raw)), TopicPartition("in", 0), 0, False).next_batch()
        assert batch.validate_crc()
        with pytest.raises(CorruptRecordError, match="a batch that does not decompress"):
            list(batch)


def test_of_damage_in_one_partition_the_others_are_told_and_read_on(
    kafka: KafkaServer, two: str, producer: KafkaProducer
) -> None:
    for partition in (0, 1):
        for _ in range(2):
            _send(producer, two, partition, [{"unit": n} for n in range(20)])
    lost = damage(kafka, two, 20)
    reader = _reader(kafka, two)
    reader.seek({0: 0, 1: 0})
    polls = _drain(reader, {0: lost.first, 1: 40})
    told = next((poll for poll in (reader.poll(200) for _ in range(5)) if poll), polls[-1])
    assert [*told.damaged] == [0] and told.damaged[0].startswith(f"{two}[0]@{lost.first}: expected records")
    _send(producer, two, 1, [{"unit": 99}])
    (poll,) = _drain(reader, {1: 41})
    assert poll.table["unit"].to_pylist() == [99]
    assert [*poll.damaged] == [0] and 0 not in poll.behind
    reader.close()


def _compacted(kafka: KafkaServer, topic: str, producer: KafkaProducer) -> list[int]:
    """Fill a topic, let the broker compact it, and turn compaction off. Returns the remaining offsets."""
    options = {"bootstrap_servers": kafka.bootstrap_servers}
    compact = {
        "cleanup.policy": "compact",
        "segment.ms": "50",
        "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0",
        "delete.retention.ms": "0",
    }
    with KafkaAdminClient(**options) as admin:
        (node,) = admin.describe_cluster()["brokers"]
        broker = partial(ConfigResource, ConfigResourceType.BROKER, str(node["broker_id"]))
        admin.alter_configs([broker({"log.cleaner.backoff.ms": "100"})])
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, compact)])
        for n in range(60):
            producer.send(
                topic, json.dumps({"unit": n}).encode(), key=str(n % 7 if n % 10 else n).encode(), partition=0
            )
            producer.flush()
            time.sleep(0.06 if n % 4 == 0 else 0)
        give_up = time.monotonic() + 30
        while len(_left(kafka, topic)) > 40:
            assert time.monotonic() < give_up, "expected the broker to compact within 30 s"
            time.sleep(0.2)
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": "delete"})])
        admin.alter_configs([broker({"log.cleaner.backoff.ms": "15000"})])  # other tests share the broker
    return _left(kafka, topic)


def _left(kafka: KafkaServer, topic: str) -> list[int]:
    consumer, tp = clients.consumer({"bootstrap_servers": kafka.bootstrap_servers}), TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek(tp, 0)
    end, found = consumer.end_offsets([tp])[tp], list[int]()
    while consumer.position(tp) < end:
        found += [r.offset for r in consumer.poll(500).get(tp, [])]
    consumer.close()
    return found


@pytest.mark.parametrize("most", [8 << 20, 1], ids=["many batches a fetch", "one batch a fetch"])
def test_what_compaction_has_left_is_read_and_looks_like_no_damage(
    kafka: KafkaServer, topic: str, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    left = _compacted(kafka, topic, producer)
    made = clients.consumer
    monkeypatch.setattr(
        clients, "consumer", lambda options, **more: made(options, **more | {"max_partition_fetch_bytes": most})
    )
    for start in (0, next(n for n in range(60) if n not in left)):  # also from inside a hole
        reader = _reader(kafka, topic, partitions=[0])
        reader.seek({0: start})
        polls = _drain(reader, {0: 60})
        found = [r["_offset"] for p in polls for r in p.table.to_pylist()]
        later = _left(kafka, topic)  # a running compaction may end meanwhile
        assert found == sorted(found) and min(found) >= start
        assert {n for n in later if n >= start} <= set(found) <= set(left)
        assert not any(p.damaged or p.dead_letters for p in polls)
        assert damage_module.find_corruption({"bootstrap_servers": kafka.bootstrap_servers}, topic, {0: start}) is None
        reader.close()
