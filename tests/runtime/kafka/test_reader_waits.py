"""A registry that decoding needs does not answer: the reader returns to where it was, and the shard waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import Refused, TocsinError, Unavailable, Undecoded
from tocsin.pipelines.runtime.declare.records import Record
from tocsin.pipelines.runtime.engine.patient_source import PatientSource
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader

SCHEMA = pa.schema([pa.field("unit", pa.int64(), nullable=False)])
PLACE = TopicPartition("plant", 0)


class Log:
    """A consumer of a log in memory."""

    def __init__(self, records: int) -> None:
        self._records = [
            Record("plant", 0, n, 1_700_000_000_000, b"k", b'{"unit": %d}' % n, ()) for n in range(records)
        ]
        self._at = 0

    def seek(self, _: TopicPartition, offset: int) -> None:
        self._at = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        start, self._at = self._at, min(self._at + 3, len(self._records))
        return {PLACE: self._records[start : self._at]}

    def position(self, _: TopicPartition) -> int:
        return self._at

    def end_offsets(self, _: Any, timeout_ms: int = 0) -> dict[TopicPartition, int]:
        return {PLACE: len(self._records)}

    def highwater(self, _: TopicPartition) -> int:
        return len(self._records)

    def close(self) -> None:
        pass


class Dependent(Codec):
    """A codec that needs something outside: it raises `trouble` instead of decoding."""

    trouble: TocsinError | None = None

    def decode(self, records: Any) -> tuple[pa.RecordBatch, list[DeadLetter]]:
        if self.trouble and len(records):
            raise self.trouble
        return super().decode(records)


class Late:
    """A source whose next polls are these."""

    def __init__(self, *polls: Poll | Exception | None) -> None:
        self._polls = iter(polls)

    def poll(self, timeout_ms: int) -> Poll | None:
        polled = next(self._polls)
        if isinstance(polled, Exception):
            raise polled
        return polled

    def seek(self, positions: Any) -> None:
        pass


@pytest.fixture
def codec() -> Dependent:
    return Dependent(topic="plant", schema=SCHEMA)


@pytest.fixture
def reader(codec: Dependent) -> Reader:
    made = Reader({"client": "kafka-python"}, "plant", [0], codec, 3)
    vars(made)["_consumer"] = Log(7)
    made.seek({0: 0})
    return made


def _units(polls: Sequence[Any]) -> list[int]:
    return [unit for poll in polls if poll for unit in poll.table["unit"].to_pylist()]


def test_records_that_could_not_be_decoded_are_read_again(reader: Reader, codec: Dependent) -> None:
    polls = [reader.poll(0)]
    codec.trouble = Unavailable("schema registry: expected an answer, got none; wait")
    for _ in range(3):
        with pytest.raises(Unavailable):
            reader.poll(0)
    codec.trouble = None
    polls += [reader.poll(0) for _ in range(3)]
    assert _units(polls) == [*range(7)]
    assert [poll.ends for poll in polls if poll] == [{0: 3}, {0: 6}, {0: 7}]


def test_a_shard_waits_and_says_for_what(reader: Reader, codec: Dependent) -> None:
    source = PatientSource(reader, "plant/0")
    codec.trouble = Unavailable("schema registry: expected an answer, got none; wait")
    assert [source.poll(1) for _ in range(3)] == [None] * 3
    assert source.why == "Unavailable: schema registry: expected an answer, got none; wait"
    codec.trouble = None
    assert _units([source.poll(1) for _ in range(4)]) == [*range(7)]
    assert source.why == ""


def test_records_that_wait_to_be_decoded_are_known_until_they_come(codec: Dependent) -> None:
    """While the reader tries again, polls return nothing."""
    some = Poll(codec.decode([])[0], (), {0: 3}, {0: 0})
    source: Any = PatientSource(
        Late(Undecoded("a"), None, Unavailable("b"), None, some, Unavailable("c"), None), "plant/0"
    )  # type: ignore[arg-type]
    found = list[tuple[bool, str]]()
    for _ in range(7):
        source.poll(0)
        found.append((source.undecoded, source.why))
    waits, again = (True, "Undecoded: a"), (True, "Unavailable: b")
    assert found == [waits, waits, again, again, (False, ""), (False, "Unavailable: c"), (False, "")]


def test_after_a_seek_other_records_come(codec: Dependent) -> None:
    source: Any = PatientSource(Late(Undecoded("a")), "plant/0")  # type: ignore[arg-type]
    source.poll(0)
    source.seek({0: 9})
    assert not source.undecoded


def test_a_login_that_is_refused_is_no_outage(reader: Reader, codec: Dependent) -> None:
    codec.trouble = Refused("schema registry: expected it to accept the login, got HTTP 401; correct it")
    with pytest.raises(Refused):
        PatientSource(reader, "plant/0").poll(1)
