"""Damage: places in a topic's log that can't be read any more, and how far each one goes."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from pipelines.runtime import clients
from pipelines.runtime.errors import Unavailable

UNREADABLE = (CorruptRecordError, struct.error)
"""What the client raises for bytes that are no records; asked again, it would spin without end."""
PATIENCE_S = 5.0


class Damage(NamedTuple):
    """Offsets from `start` up to `end` (not included) that can't be read, and why; no `end` if there is no telling."""

    partition: int
    start: int
    end: int | None
    why: str


class Displaced(CorruptRecordError):
    """A batch that does not begin where the one before it ends: the one thing of it that no checksum protects."""

    def __init__(self, tp: TopicPartition, start: int, base: int) -> None:
        super().__init__(f"a batch that says it begins at {base}")
        self.damage = Damage(tp.partition, start, None, f"a batch that says it begins at {base}")


class _Lenient(bytearray):
    """Bytes of which text is cut that may be no UTF-8."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return _Lenient(part) if isinstance(at, slice) else part

    def decode(self, *_: str) -> str:
        return super().decode("utf-8", "replace")


class _Batch(DefaultRecordBatch):
    """Reads a header whose name is no UTF-8: a producer's fault, for which the client would never get past the batch."""

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
    """A fetch's batches, one after the other."""

    def __init__(self, batches: MemoryRecords, tp: TopicPartition, start: int) -> None:
        self._batches, self._tp, self._start = batches, tp, start
        self._first = True

    def next_batch(self) -> Any:
        """The next batch; None: there is none.

        Raises:
            Displaced: it does not begin where it should; the first one may begin before.
        """
        batch = self._batches.next_batch()
        if batch is not None and batch.magic == 2:
            if batch.base_offset > self._start or (batch.base_offset < self._start and not self._first):
                raise Displaced(self._tp, self._start, batch.base_offset)
            self._start, self._first = batch.next_offset, False
            batch.__class__ = _Batch
        return batch


class _ChainedRecords(Fetcher.PartitionRecords):
    def _unpack_records(self, tp: TopicPartition, records: MemoryRecords, *more: Any) -> Any:
        return super()._unpack_records(tp, _Chain(records, tp, self.fetch_offset), *more)


def chained(consumer: KafkaConsumer) -> KafkaConsumer:
    """Have a consumer check that batches follow on each other, as they do in a log that is not compacted.

    Names of headers that are no UTF-8 are read, too, with U+FFFD for what is none.
    """
    consumer._fetcher.PartitionRecords = _ChainedRecords
    return consumer


def damage(options: Mapping[str, Any], topic: str, positions: Mapping[int, int]) -> Damage | None:
    """The damage that begins at one of these positions; None: there is none, it was on the way and not in the log.

    Raises:
        Unavailable: the broker does not answer.
    """
    # One byte: a fetch brings one batch.
    with closing(chained(clients.consumer(options, max_partition_fetch_bytes=1, fetch_max_wait_ms=100))) as consumer:
        for partition, start in positions.items():
            try:
                if found := _damage(consumer, TopicPartition(topic, partition), start):
                    return found
            except KafkaError as reason:
                raise Unavailable(
                    f"{topic}[{partition}]@{start}: expected an answer, got {reason!r}; is the broker up?"
                ) from reason
    return None


def _damage(consumer: KafkaConsumer, tp: TopicPartition, start: int) -> Damage | None:
    consumer.assign([tp])
    log_end = consumer.end_offsets([tp])[tp]
    if (found := _failure(consumer, tp, start, log_end)) is None:
        return None
    if isinstance(found, Displaced):
        return found.damage
    # One by one, since all that a damaged batch says of its length may be damaged too; silence takes too long for that.
    end, step = start + 1, 1
    while why := _failure(consumer, tp, end, log_end):
        step = 2 * step if isinstance(why, TimeoutError) else 1
        end += step
    end = bisect_left(range(end), True, end - step + 1, end, key=lambda at: not _failure(consumer, tp, at, log_end))
    return Damage(tp.partition, start, end, " ".join(str(found).split()))


def _failure(consumer: KafkaConsumer, tp: TopicPartition, at: int, log_end: int) -> Exception | None:
    """Why nothing can be read at an offset; None: it can, or the log ends there."""
    consumer.seek(tp, at)
    give_up = time.monotonic() + PATIENCE_S
    while at < log_end and consumer.position(tp) == at:
        try:
            consumer.poll(timeout_ms=100)
        except UNREADABLE as reason:
            return reason
        if time.monotonic() > give_up:
            consumer.end_offsets([tp])  # raises if the broker is silent altogether
            return TimeoutError("nothing, though the log goes on")
    return None
