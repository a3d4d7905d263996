"""Redelivery of dead letters: each original record is sent once, whoever asks and whatever is killed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tests.conftest import CreateTopic
from tests.crash.harness import MARK_S
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.dead_letter import GAPS, DeadLetter
from tocsin.pipelines.runtime.declare.names import REPLAYED
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, store_original
from tocsin.pipelines.runtime.kafka.redelivery import HEADER, MAX_REPLAYS, Redelivered, read_dead_letters, redeliver
from tocsin.pipelines.runtime.lake.storage import Lake

ARROW = (("content-type", b"application/vnd.apache.arrow.stream"),)


class Desk:
    """A topic with its dead letters, and the lake that keeps large originals."""

    def __init__(self, kafka: KafkaServer, create_topic: CreateTopic, folder: Path) -> None:
        self.options = {"bootstrap_servers": kafka.bootstrap_servers}
        self.topic = create_topic("readings", partitions=3, config={"max.message.bytes": str(32 << 20)})
        self.lake = Lake(str(folder))
        with clients.admin(self.options) as admin:
            admin.create_topics({self.letters: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)

    @property
    def letters(self) -> str:
        return f"{self.topic}.dlq"

    def die(self, *letters: DeadLetter) -> None:
        """Publish dead letters as a shard does."""
        store = OriginalStore(self.lake.files, "", self.lake.place())
        producer = KafkaProducer(**self.options)
        for letter in letters:
            small = store_original(letter, store)
            value = b"" if small.key is small.value is None else small.value
            producer.send(self.letters, key=small.key, value=value, headers=small.headers_out())
        producer.close()

    def letter(self, value: bytes | None = b'{"unit": 1}', **more: object) -> DeadLetter:
        plain = DeadLetter(
            self.topic, 2, 1042, None, "decode", "BadValue", "expected s1, got null", 1_700_000_000_000, b"1", value, ()
        )
        return replace(plain, **more)  # type: ignore[arg-type]

    def again(self, limit: int | None = None, **wanted: object) -> Redelivered:
        def match(x: object) -> bool:
            return all(getattr(x.dead_letter, name) == value for name, value in wanted.items())  # type: ignore[attr-defined]

        return redeliver(self.options, self.lake, self.letters, match, limit)

    def records(self) -> Sequence[ConsumerRecord]:
        """The topic's records. A transaction's become readable some time after its commit, when the broker has marked its end."""
        give_up = time.monotonic() + MARK_S
        while self._ends("read_committed") != self._ends("read_uncommitted") and time.monotonic() < give_up:
            time.sleep(0.02)
        return list(clients.committed(self.options, [self.topic]))

    def _ends(self, level: str) -> dict[TopicPartition, int]:
        with clients.consumer(self.options, isolation_level=level) as consumer:
            partitions = [TopicPartition(self.topic, p) for p in clients.partitions_of(consumer, self.topic)]
            found: dict[TopicPartition, int] = consumer.end_offsets(partitions)
            return found


@pytest.fixture
def desk(kafka: KafkaServer, create_topic: CreateTopic, tmp_path: Path) -> Desk:
    return Desk(kafka, create_topic, tmp_path)


def test_a_record_comes_back_as_it_was_to_its_partition_and_once_only(desk: Desk) -> None:
    desk.die(desk.letter(headers=(("trace", b"7"),)))
    assert desk.again() == Redelivered(sent=1)
    assert desk.again() == Redelivered(before=1)
    (record,) = desk.records()
    assert (record.partition, record.key, record.value, record.timestamp) == (
        2,
        b"1",
        b'{"unit": 1}',
        1_700_000_000_000,
    )
    assert list(record.headers) == [("trace", b"7"), (HEADER, b"1")]


@pytest.mark.parametrize("size", [600_000, 20 << 20], ids=["over 512 KB", "20 MB"])
def test_a_large_original_comes_back_from_the_lake(desk: Desk, size: int) -> None:
    desk.die(desk.letter(b"x" * size), desk.letter(b"{}", key=b"k" * 600_000, offset=1043))
    assert [x.dead_letter.size > 500_000 for x in read_dead_letters(desk.options, desk.letters)] == [True, True]
    assert desk.again() == Redelivered(sent=2)
    assert [(r.key, r.value) for r in desk.records()] == [(b"1", b"x" * size), (b"k" * 600_000, b"{}")]


def test_one_whose_original_is_gone_from_the_lake_is_counted_and_the_others_are_sent(desk: Desk) -> None:
    desk.die(desk.letter(b"x" * 600_000), desk.letter(offset=1043), desk.letter(None, stage="takeover", key=None))
    for file in Path(desk.lake.root, "_dead").iterdir():
        file.unlink()
    assert desk.again() == Redelivered(sent=1, lost=2)


def test_of_a_message_with_many_rows_only_the_dead_one_is_sent(desk: Desk) -> None:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"unit": [1, 2, 3], "cycle": [7, 8, 9]})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    desk.die(desk.letter(sink.getvalue().to_pybytes(), row=1, headers=ARROW))
    assert desk.again() == Redelivered(sent=1)
    (record,) = desk.records()
    assert pa.ipc.open_stream(record.value).read_all().to_pylist() == [{"unit": 2, "cycle": 8}]


def test_a_gap_has_no_original_and_a_header_without_a_value_comes_back_empty(desk: Desk) -> None:
    odd = (("trace", None), (HEADER, b"9" * 5000), ("tocsin-row", b"x"))
    gaps = [desk.letter(None, stage=stage, key=None) for stage in GAPS]
    desk.die(*gaps, desk.letter(headers=odd), desk.letter(headers=((HEADER, None),)))
    assert desk.again() == Redelivered(sent=2, lost=len(GAPS))
    assert [r.headers for r in desk.records()] == [
        [("trace", b""), ("tocsin-row", b"x"), (HEADER, b"1")],
        [(HEADER, b"1")],
    ]


@pytest.mark.parametrize(("key", "value", "comes"), [(b"1", None, None), (None, b"x", b"x"), (None, None, b"")])
def test_what_had_no_key_or_no_value_comes_back_without(
    desk: Desk, key: bytes | None, value: bytes | None, comes: bytes | None
) -> None:
    desk.die(desk.letter(value, key=key))
    desk.again()
    (record,) = desk.records()
    assert (record.key, record.value) == (key, comes)


def test_one_that_has_died_three_times_again_stays(desk: Desk) -> None:
    for n in range(MAX_REPLAYS):
        desk.die(desk.letter(headers=((HEADER, str(n).encode()),) if n else ()))
        assert desk.again().sent == 1
    desk.die(desk.letter(headers=((HEADER, b"3"),)))
    assert desk.again() == Redelivered(before=MAX_REPLAYS, exhausted=1)
    assert [dict(r.headers)[HEADER] for r in desk.records()] == [b"1", b"2", b"3"]


def test_only_what_is_asked_for_is_sent_and_at_most_so_many(desk: Desk) -> None:
    desk.die(*(desk.letter(offset=n, error="TooLate" if n % 2 else "BadValue") for n in range(6)))
    assert desk.again(limit=2, error="TooLate") == Redelivered(sent=2)
    assert desk.again(error="TooLate") == Redelivered(sent=1, before=2)
    assert len(desk.records()) == 3


def test_a_call_that_died_in_the_middle_has_sent_nothing_that_is_seen(desk: Desk) -> None:
    desk.die(desk.letter())
    dead = clients.producer(desk.options, transactional_id=f"tocsin.replay/{desk.letters}")
    dead.init_transactions()
    dead.begin_transaction()
    dead.send(desk.topic, b"half").get(timeout=20)
    dead.flush()
    assert desk.again() == Redelivered(sent=1)
    assert [r.value for r in desk.records()] == [b'{"unit": 1}']
    dead.close(timeout=1)


def test_a_topic_made_anew_has_letters_of_its_own(desk: Desk) -> None:
    desk.die(desk.letter())
    assert desk.again().sent == 1
    with clients.admin(desk.options) as admin:
        admin.delete_topics([desk.letters])
        admin.create_topics({desk.letters: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    desk.die(desk.letter())
    assert desk.again() == Redelivered(sent=1)
    marks = {r.key for r in clients.committed(desk.options, [REPLAYED])}
    assert len(marks) >= 2
