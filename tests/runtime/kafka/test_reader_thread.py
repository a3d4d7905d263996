"""A reader's thread: it reads ahead, but not far; a seek drops what was read before it; errors come in order, and pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka.reader_thread import AHEAD, ReaderThread


class Numbers:
    """A reader whose polls are numbers from the position on. `fails` are those before which it raises once."""

    def __init__(self, *fails: int) -> None:
        self.next, self.seeks, self.closed, self._fails = 0, 0, False, set(fails)
        self.away = False
        self.threads = set[str]()

    def log(self, shards: int = 0) -> int:
        self.threads.add(threading.current_thread().name)
        return shards

    def seek(self, positions: Mapping[int, int]) -> None:
        self.seeks += 1
        if self.away:
            raise Unavailable("away")
        self.next = positions[0]

    def poll(self, timeout_ms: int) -> int | None:
        self.threads.add(threading.current_thread().name)
        if self.next in self._fails:
            self._fails.remove(self.next)
            raise Unavailable(f"before {self.next}")
        self.next += 1
        return self.next - 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def numbers() -> Numbers:
    return Numbers(3)


@pytest.fixture
def reader(numbers: Numbers) -> Iterator[Any]:
    made: Any = ReaderThread(numbers)  # type: ignore[arg-type]
    yield made
    if not numbers.closed:
        made.close()


def test_it_reads_ahead_but_not_far_and_an_error_keeps_its_place(numbers: Numbers, reader: Any) -> None:
    assert reader.log(7) == 7
    assert reader.poll(20) is None  # nothing is read before the first seek
    reader.seek({0: 0})
    time.sleep(0.1)
    assert numbers.next == AHEAD
    assert [reader.poll(1000) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Unavailable, match="before 3"):
        reader.poll(1000)
    assert [reader.poll(1000) for _ in range(3)] == [3, 4, 5]
    assert len(numbers.threads) == 1  # a client is used by one thread alone


def test_a_seek_drops_what_was_read_before_it(reader: Any) -> None:
    reader.seek({0: 10})
    assert reader.poll(1000) == 10
    time.sleep(0.05)
    reader.seek({0: 100})
    assert [reader.poll(1000) for _ in range(5)] == [100, 101, 102, 103, 104]


def test_a_seek_that_failed_is_done_before_the_next_poll(numbers: Numbers, reader: Any) -> None:
    numbers.away = True
    with pytest.raises(Unavailable, match="away"):
        reader.seek({0: 50})
    with pytest.raises(Unavailable, match="away"):
        reader.poll(1000)
    numbers.away = False
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:  # errors that were read ahead come first
        try:
            assert reader.poll(1000) == 50
            break
        except Unavailable:
            pass
    assert reader.poll(1000) == 51


def test_its_end_closes_the_reader(numbers: Numbers, reader: Any) -> None:
    reader.seek({0: 0})
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
