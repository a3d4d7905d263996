"""librdkafka reads a dense log; where the next offset is not there, kafka-python reads on, and librdkafka comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pytest
from kafka import KafkaProducer

from tests.conftest import CreateTopic
from tests.crash.fuzz import Name
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka import reader as reader_module
from tocsin.pipelines.runtime.kafka.dense_log import DenseLog, Fetched
from tocsin.pipelines.runtime.kafka.reader import Reader

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False)])
NAME = ("ä", b"1")


@pytest.fixture
def producer(kafka: KafkaServer) -> Iterator[KafkaProducer]:
    made = clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, linger_ms=5)
    yield made
    made.close(timeout=5)


@pytest.fixture
def log(kafka: KafkaServer, create_topic: CreateTopic) -> Iterator[DenseLog]:
    """Of a topic of two partitions."""
    opened = DenseLog({"bootstrap_servers": kafka.bootstrap_servers}, create_topic(partitions=2), 100)
    yield opened
    opened.close()


def _send(producer: KafkaProducer, topic: str, partition: int, *units: int) -> None:
    for unit in units:
        producer.send(topic, json.dumps({"unit": unit}).encode(), partition=partition)
    producer.flush()


def _commit(kafka: KafkaServer, topic: str, unit: int) -> None:
    """Send a reading in a transaction, whose marker takes an offset."""
    transactional = clients.producer({"bootstrap_servers": kafka.bootstrap_servers}, transactional_id=topic)
    transactional.init_transactions()
    transactional.begin_transaction()
    _send(transactional, topic, 0, unit)
    transactional.commit_transaction()
    transactional.close(timeout=5)


def _polls(log: DenseLog, records: int) -> list[Fetched]:
    """Poll until so many records have come, or there is a doubt."""
    found = list[Fetched]()
    for _ in range(50):
        found.append(log.poll(200))
        if found[-1].doubt or sum(len(f.records) for f in found) >= records:
            return found
    raise AssertionError(found)


def test_records_are_columns_in_the_order_of_partitions_and_offsets(log: DenseLog, producer: KafkaProducer) -> None:
    topic = log._topic
    for n in range(20):
        producer.send(topic, b"v%d" % n, b"k%d" % n, [NAME] if n == 7 else None, n % 2, 1000 + n)
    producer.send(topic, None, b"k", partition=1)
    producer.flush()
    log.seek({0: 2, 1: 0})
    found = _polls(log, 19)
    assert not any(f.doubt for f in found)
    assert {p: end for f in found for p, end in f.ends.items()} == {0: 10, 1: 11}
    assert log.high_watermarks() == {0: 10, 1: 11}
    for f in found:
        places = [*zip(f.records.partitions.tolist(), f.records.offsets.tolist(), strict=True)]
        assert places == sorted(places)
    records = sorted((f.records[i] for f in found for i in range(len(f.records))), key=lambda r: r[:3])
    assert [(r.partition, r.offset) for r in records] == [(0, n) for n in range(2, 10)] + [(1, n) for n in range(11)]
    assert [r.value for r in records[:8]] == [b"v%d" % n for n in range(4, 20, 2)]
    assert records[11] == (topic, 1, 3, 1007, b"k7", b"v7", [NAME])
    assert records[-1][4:] == (b"k", None, ())


def test_a_marker_among_the_records_is_a_doubt_and_so_is_one_at_the_end(
    log: DenseLog, kafka: KafkaServer, producer: KafkaProducer
) -> None:
    _send(producer, log._topic, 0, 1, 2)
    _send(producer, log._topic, 1, 5)
    _commit(kafka, log._topic, 3)
    log.seek({0: 0, 1: 0})
    found = _polls(log, 5)
    assert found[-1].doubt == "[0]@3: offset 4, _PARTITION_EOF"
    _send(producer, log._topic, 0, 4)
    log.seek({0: 0})
    found = _polls(log, 5)
    assert found[-1].doubt == "[0]@3: offset 4"
    assert [r.offset for f in found for r in map(f.records.__getitem__, range(len(f.records)))] == [0, 1, 2]


def test_a_position_outside_the_log_is_a_doubt(log: DenseLog) -> None:
    log.seek({0: 7})
    (*_, last) = _polls(log, 1)
    assert last.doubt == "[0]@7: offset 7, _AUTO_OFFSET_RESET"


def test_a_header_whose_name_is_not_utf_8_is_a_doubt_and_those_before_it_are_read(
    log: DenseLog, producer: KafkaProducer
) -> None:
    for n in range(90):  # enough for the interpreter to specialise what reads them
        producer.send(log._topic, b"v", headers=[(Name("a") if n in (60, 61, 75) else "a", b"1")], partition=0)
    producer.flush()
    log.seek({0: 0})
    found = _polls(log, 90)
    assert found[-1].doubt == "[0]@60: offset 60"
    assert sum(len(f.records) for f in found) == 60
    assert {headers for f in found for [headers] in f.records.headers} == {("a", b"1")}


def test_librdkafka_reads_again_once_the_other_client_has_read_past_a_marker(
    kafka: KafkaServer, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch, producer: KafkaProducer
) -> None:
    monkeypatch.setattr(reader_module, "CAREFUL_S", (0.3, 0.3))
    topic = create_topic()
    reader = Reader({"bootstrap_servers": kafka.bootstrap_servers}, topic, [0], Codec(topic=topic, schema=SCHEMA), 100)
    read = _noted(reader, monkeypatch)

    def until(units: int) -> None:
        for _ in range(100):
            if len(read) == units:
                return
            reader.poll(50)
        raise AssertionError(read)

    _send(producer, topic, 0, 1, 2)
    reader.seek({0: 0})
    until(2)
    _commit(kafka, topic, 3)
    until(3)
    _send(producer, topic, 0, 4)
    until(4)
    for _ in range(10):
        reader.poll(50)
    _send(producer, topic, 0, 5)
    until(5)
    reader.close()
    assert [unit for _, unit in read] == [1, 2, 3, 4, 5]
    assert [kind for kind, _ in read] == ["dense", "dense", "dense", "carefully", "dense"]


def test_of_what_may_have_ended_a_process_librdkafka_reads_nothing_and_then_it_reads_again(
    kafka: KafkaServer, create_topic: CreateTopic, monkeypatch: pytest.MonkeyPatch, producer: KafkaProducer
) -> None:
    topic = create_topic()
    reader = Reader({"bootstrap_servers": kafka.bootstrap_servers}, topic, [0], Codec(topic=topic, schema=SCHEMA), 1)
    read = _noted(reader, monkeypatch)
    _send(producer, topic, 0, 1, 2, 3)
    reader.distrust({0: 2})
    reader.seek({0: 0})
    for _ in range(100):
        if len(read) < 3:
            reader.poll(50)
    reader.close()
    assert read == [("carefully", 1), ("carefully", 2), ("dense", 3)]


def _noted(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list to which a reader adds what it reads, with how it read that."""
    read = list[tuple[str, int]]()
    for kind in ("dense", "carefully"):
        poll = getattr(reader, f"_poll_{kind}")

        def noted(*arguments, poll=poll, kind=kind):  # type: ignore[no-untyped-def]
            if polled := poll(*arguments):
                read.extend((kind, unit) for unit in polled.table["unit"].to_pylist())
            return polled

        monkeypatch.setattr(reader, f"_poll_{kind}", noted)
    return read
