"""A reader in the shard's process: a backlog is read ahead, not far; a seek drops what was read; errors keep their place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.support.waits import until
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka.reader_thread import AHEAD, ReaderThread

BACKLOG = 10


class Table(NamedTuple):
    num_rows: int


class Number(NamedTuple):
    """A poll."""

    number: int
    table: Table
    behind: Mapping[int, int]


class Numbers:
    """A reader whose polls have numbers from the position on, and `rows` rows. Before those of `fails` it raises once."""

    def __init__(self, *fails: int) -> None:
        self.next, self.seeks, self.closed, self._fails = 0, 0, False, set(fails)
        self.away, self.rows, self.behind = False, BACKLOG, 0
        self.threads = set[str]()

    def log(self, shards: int = 0) -> int:
        self.threads.add(threading.current_thread().name)
        return shards

    def seek(self, positions: Mapping[int, int]) -> None:
        self.seeks += 1
        if self.away:
            raise Unavailable("away")
        self.next = positions[0]

    def poll(self, timeout_ms: int) -> Number | None:
        self.threads.add(threading.current_thread().name)
        if self.next in self._fails:
            self._fails.remove(self.next)
            raise Unavailable(f"before {self.next}")
        self.next += 1
        return Number(self.next - 1, Table(self.rows), {0: self.behind})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def numbers() -> Numbers:
    return Numbers(3)


@pytest.fixture
def reader(numbers: Numbers) -> Iterator[Any]:
    made: Any = ReaderThread(numbers, BACKLOG)  # type: ignore[arg-type]
    yield made
    if not numbers.closed:
        made.close()


def _polls(reader: Any, count: int) -> list[int]:
    return [reader.poll(1000).number for _ in range(count)]


def test_it_reads_a_backlog_ahead_but_not_far_and_an_error_keeps_its_place(numbers: Numbers, reader: Any) -> None:
    assert reader.log(7) == 7
    assert reader.poll(20) is None  # nothing is read before the first seek
    reader.seek({0: 0})
    assert _polls(reader, 1) == [0]
    until(lambda: numbers.next == 1 + AHEAD, "polls to be read ahead")
    time.sleep(0.05)
    assert numbers.next == 1 + AHEAD
    assert _polls(reader, 2) == [1, 2]
    with pytest.raises(Unavailable, match="before 3"):
        reader.poll(1000)
    assert _polls(reader, 3) == [3, 4, 5]


def test_without_a_backlog_it_reads_only_when_it_is_asked_for_and_not_for_nothing(
    numbers: Numbers, reader: Any
) -> None:
    numbers.rows = BACKLOG - 1
    reader.seek({0: 0})
    assert reader.poll(0) is None
    assert _polls(reader, 2) == [0, 1]
    time.sleep(0.05)
    assert (numbers.next, numbers.threads) == (2, {"reader"})  # a client is used by one thread alone


def test_few_large_records_show_a_backlog_by_what_is_behind_them(numbers: Numbers, reader: Any) -> None:
    numbers.rows, numbers.behind = 1, BACKLOG
    reader.seek({0: 0})
    assert _polls(reader, 1) == [0]
    until(lambda: numbers.next == 1 + AHEAD, "polls to be read ahead")


def test_a_poll_returns_in_time_while_the_reader_is_busy_and_the_next_one_has_what_it_reads(
    numbers: Numbers, reader: Any
) -> None:
    goes_on, poll = threading.Event(), numbers.poll

    def slow(timeout_ms: int) -> Number | None:
        goes_on.wait()
        return poll(timeout_ms)

    numbers.poll = slow  # type: ignore[method-assign]
    reader.seek({0: 0})
    began = time.monotonic()
    assert reader.poll(50) is None
    assert time.monotonic() - began < 5
    goes_on.set()
    assert _polls(reader, 2) == [0, 1]


def test_what_was_read_ahead_of_a_backlogs_end_comes_first(numbers: Numbers, reader: Any) -> None:
    reader.seek({0: 0})
    assert _polls(reader, 1) == [0]
    numbers.rows = 1
    assert _polls(reader, 2) == [1, 2]
    with pytest.raises(Unavailable, match="before 3"):
        reader.poll(1000)
    assert _polls(reader, 3) == [3, 4, 5]


def test_a_seek_drops_what_was_read_before_it(reader: Any) -> None:
    reader.seek({0: 10})
    assert _polls(reader, 1) == [10]
    reader.seek({0: 100})
    assert _polls(reader, 5) == [100, 101, 102, 103, 104]


def test_a_seek_that_failed_is_done_before_the_next_poll(numbers: Numbers, reader: Any) -> None:
    numbers.away = True
    with pytest.raises(Unavailable, match="away"):
        reader.seek({0: 50})
    with pytest.raises(Unavailable, match="away"):
        reader.poll(1000)
    numbers.away = False
    assert _polls(reader, 2) == [50, 51]


def test_its_end_closes_the_reader(numbers: Numbers, reader: Any) -> None:
    reader.seek({0: 0})
    reader.poll(1000)
    reader.close()
    reader.close()
    assert numbers.closed


class Panic(BaseException):
    """As Polars raises it."""


def test_what_is_no_exception_comes_to_the_shard_too(numbers: Numbers, reader: Any) -> None:
    def panic(*_: object) -> None:
        raise Panic

    numbers.poll = panic  # type: ignore[method-assign, assignment]
    reader.seek({0: 0})
    with pytest.raises(Panic):
        reader.poll(5000)
    numbers.log = panic  # type: ignore[method-assign, assignment]
    with pytest.raises(Panic):
        reader.log()
