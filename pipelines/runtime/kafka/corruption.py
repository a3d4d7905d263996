"""Corruption: ranges of a topic's log that can't be read any more, and how far each one extends."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients

UNREADABLE = (CorruptRecordError, struct.error)
"""What the client raises for bytes that are not records. Polled again, it would spin forever."""
PATIENCE_S, ANSWERS = 5.0, 20
"""An offset counts as damaged once the broker has returned nothing there for `PATIENCE_S` s, and for `ANSWERS` times as long as it
takes to answer another request."""


class Corruption(NamedTuple):
    """Offsets from `start` up to `end` (exclusive) that can't be read, and why; `end` is None if it is unknown."""

    partition: int
    start: int
    end: int | None
    why: str


class Displaced(CorruptRecordError):
    """A batch that does not begin where the one before it ends. No checksum protects a batch's base offset.

    Args:
        base: the base offset in its header.
        end: the next offset after it, according to its header.
    """

    def __init__(self, tp: TopicPartition, start: int, base: int, end: int) -> None:
        super().__init__(f"a batch whose header gives base offset {base}")
        self.base, self.end = base, end
        self.damage = Corruption(tp.partition, start, None, f"a batch whose header gives base offset {base}")


class _Lenient(bytearray):
    """Bytes whose slices decode invalid UTF-8 to U+FFFD."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _Lenient(part) if isinstance(at, slice) else part

    def decode(self, *_: str) -> str:
        return super().decode("utf-8", "replace")


class _Batch(DefaultRecordBatch):
    """Reads headers whose names are not valid UTF-8, a producer's fault. The client would never get past such a batch."""

    __slots__ = ()

    def _maybe_uncompress(self) -> None:
        try:
            super()._maybe_uncompress()
        except (UnsupportedCodecError, MemoryError):
            raise
        except Exception as reason:  # each codec's library raises its own
            raise CorruptRecordError(f"a batch that does not decompress: {reason}") from reason

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = _Lenient(self._buffer)  # type: ignore[misc, has-type]
            return super()._read_msg()


class _Chain:
    """A fetch's batches, one after the other.

    Args:
        strict: the first batch must not begin before `start` either.
    """

    def __init__(self, batches: MemoryRecords, tp: TopicPartition, start: int, strict: bool) -> None:
        self._batches, self._tp, self._start = batches, tp, start
        self._first = not strict
        self._ahead: Any = None

    def next_batch(self) -> Any:
        """The next batch; None if there is none.

        Raises:
            Displaced: it does not begin where it should. The first batch may begin earlier. Compaction leaves holes, so a batch
                may begin later if the batch behind it agrees. If that batch is not in this fetch, use `hole` to decide.
        """
        batch, self._ahead = self._ahead, None
        if batch is None:
            batch = self._batches.next_batch()
        if batch is not None and batch.magic == 2:
            if batch.base_offset > self._start:
                self._ahead = self._batches.next_batch()
            later = self._ahead is not None and self._ahead.magic == 2 and self._ahead.base_offset >= batch.next_offset
            early = batch.base_offset < self._start and not self._first
            if early or (batch.base_offset > self._start and not later):
                raise Displaced(self._tp, self._start, batch.base_offset, batch.next_offset)
            self._start, self._first = batch.next_offset, False
            batch.__class__ = _Batch
        return batch


class _ChainedRecords(Fetcher.PartitionRecords):
    strict = False

    def _unpack_records(self, tp: TopicPartition, records: MemoryRecords, *more: Any) -> Any:
        return super()._unpack_records(tp, _Chain(records, tp, self.fetch_offset, self.strict), *more)


class _StrictRecords(_ChainedRecords):
    strict = True


def with_checked_batches(consumer: KafkaConsumer, *, strict: bool = False) -> KafkaConsumer:
    """Make a consumer check that each batch follows the previous one. Compaction may have left holes between them.

    Header names that are not valid UTF-8 are read, too, with U+FFFD for invalid bytes.

    Args:
        strict: no batch may begin before the offset that was sought.
    """
    consumer._fetcher.PartitionRecords = _StrictRecords if strict else _ChainedRecords
    return consumer


def hole(options: Mapping[str, Any], topic: str, found: Displaced) -> bool:
    """Whether a batch begins late because compaction removed the records before it. The log then continues behind it.

    A batch with a damaged offset overlaps the next batch, or reaches past the log's end.

    Raises:
        Unavailable: the broker does not answer.
    """
    tp = TopicPartition(topic, found.damage.partition)
    if found.base < found.damage.start:
        return False
    with closing(with_checked_batches(_one_by_one(options), strict=True)) as consumer, _answering(tp, found.end):
        consumer.assign([tp])
        log_end = consumer.end_offsets([tp])[tp]
        behind = _failure(consumer, tp, found.end, log_end)
        return found.end <= log_end and not (isinstance(behind, Displaced) and behind.base < found.end)


def is_readable(options: Mapping[str, Any], topic: str, partition: int, offset: int) -> bool:
    """Whether the log can be read at an offset.

    Raises:
        Unavailable: the broker does not answer.
    """
    tp = TopicPartition(topic, partition)
    with closing(with_checked_batches(_one_by_one(options))) as consumer, _answering(tp, offset):
        consumer.assign([tp])
        return _failure_unless_hole(options, consumer, tp, offset, consumer.end_offsets([tp])[tp]) is None


def find_corruption(options: Mapping[str, Any], topic: str, positions: Mapping[int, int]) -> Corruption | None:
    """The corruption that begins at one of these positions; None if the log is sound and only the transfer was damaged.

    Raises:
        Unavailable: the broker does not answer.
    """
    with closing(with_checked_batches(_one_by_one(options))) as consumer:
        for partition, start in positions.items():
            tp = TopicPartition(topic, partition)
            with _answering(tp, start):
                if found := _damage(options, consumer, tp, start):
                    return found
    return None


def _one_by_one(options: Mapping[str, Any]) -> KafkaConsumer:
    return clients.consumer(options, max_partition_fetch_bytes=1, fetch_max_wait_ms=100)  # a fetch returns one batch


@contextmanager
def _answering(tp: TopicPartition, offset: int) -> Iterator[None]:
    try:
        yield
    except KafkaError as reason:
        raise Unavailable(
            f"{tp.topic}[{tp.partition}]@{offset}: expected an answer, got {reason!r}; is the broker up?"
        ) from reason


def _damage(options: Mapping[str, Any], consumer: KafkaConsumer, tp: TopicPartition, start: int) -> Corruption | None:
    consumer.assign([tp])
    log_end = consumer.end_offsets([tp])[tp]
    if (found := _failure_unless_hole(options, consumer, tp, start, log_end)) is None:
        return None
    if isinstance(found, Displaced):
        return found.damage
    # Try each offset in turn: a damaged batch's length may be damaged, too. Timeouts are slow, so they double the step.
    end, step = start + 1, 1
    while why := _failure_unless_hole(options, consumer, tp, end, log_end):
        step = 2 * step if isinstance(why, TimeoutError) else 1
        end += step
    readable = lambda at: not _failure_unless_hole(options, consumer, tp, at, log_end)  # noqa: E731
    end = bisect_left(range(end), True, end - step + 1, end, key=readable)
    return Corruption(tp.partition, start, end, " ".join(str(found).split()))


def _failure_unless_hole(
    options: Mapping[str, Any], consumer: KafkaConsumer, tp: TopicPartition, at: int, log_end: int
) -> Exception | None:
    """Why nothing can be read at an offset; None if it can be read, compaction removed it, or the log ends there."""
    found = _failure(consumer, tp, at, log_end)
    return None if isinstance(found, Displaced) and hole(options, tp.topic, found) else found


def _failure(consumer: KafkaConsumer, tp: TopicPartition, at: int, log_end: int) -> Exception | None:
    """Why nothing can be read at an offset; None if it can be read, or the log ends there."""
    consumer.seek(tp, at)
    started = time.monotonic()
    while at < log_end and consumer.position(tp) == at:
        try:
            consumer.poll(timeout_ms=100)
        except UNREADABLE as reason:
            return reason
        if (waited := (asked := time.monotonic()) - started) > PATIENCE_S:
            consumer.end_offsets([tp])  # raises if the broker does not answer at all
            if waited > ANSWERS * (time.monotonic() - asked):  # else the broker is only slow
                return TimeoutError("nothing, although the log continues")
    return None
