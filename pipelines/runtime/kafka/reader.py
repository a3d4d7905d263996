"""The Reader fetches a poll of records and decodes it to one Arrow batch. It stores no position: a new one can start anywhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError, for_code

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError, PositionLost, RecordsCorrupt, Refused, Unavailable
from tocsin.pipelines.runtime.declare.records import Readable, Records, TracedPoll
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.kafka.corruption import (
    UNREADABLE,
    Corruption,
    Displaced,
    find_corruption,
    hole,
    is_readable,
    with_checked_batches,
)
from tocsin.pipelines.runtime.kafka.originals import Originals
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.kafka.dense_log import DenseLog

log = logging.getLogger(__name__)
LAG_S = 1.0
CAREFUL_S = (1.0, 60.0)
"""How long kafka-python reads after librdkafka was in doubt: the least, and the most after doubts in a row."""
SILENT_S = 30.0
"""If a log that has more records returns none for this long, the reader checks it for corruption."""
RESTORED_S = 60.0
"""How often the reader checks whether a damaged partition has been restored."""


@dataclass(frozen=True)
class Poll:
    """One poll, decoded.

    Args:
        table: identity columns, then the reading's; sorted by partition, then offset.
        dead_letters: what could not be decoded.
        ends: partition -> next offset to read after this poll. It may lie behind records that are not visible to us.
        behind: partition -> records in the log after this poll.
        damaged: partition -> what is wrong with it. A damaged partition is not read until it is restored.
        traces: the records, if some of them have a trace context.
    """

    table: pa.RecordBatch
    dead_letters: Sequence[DeadLetter]
    ends: Mapping[int, int]
    behind: Mapping[int, int]
    damaged: Mapping[int, str] = field(default_factory=dict)
    traces: TracedPoll | None = None


@dataclass(frozen=True)
class TopicState:
    """The input topic's identity, and each partition's first and next offset."""

    topic_id: str
    begin: Mapping[int, int]
    end: Mapping[int, int]


class RecordSource(Protocol):
    """Where a shard gets its records: a `Reader`, or one in another process."""

    def log(self, shards: int = 0) -> TopicState: ...
    def seek(self, positions: Mapping[int, int]) -> None: ...
    def distrust(self, until: Mapping[int, int]) -> None: ...
    def poll(self, timeout_ms: int) -> Poll | None: ...
    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]: ...
    def close(self) -> None: ...


class Reader:
    """Reads fixed partitions of one topic.

    Guarantee: no group and no stored position. It starts where `seek` says. A position outside the log is an error, never a
    silent jump. A damaged partition stops where the damage begins, and the others continue; it is an error once none is left.
    With `on_gap` "skip" a dead letter stands for what can't be read, and the partition continues, too.
    Records of aborted transactions are not returned. A slow shard slows the reader down: the clients' prefetch is bounded.

    librdkafka reads as long as offsets follow one another, which is the rule for a log that is not written in transactions nor
    compacted. Where they do not, kafka-python reads on, which shows each batch and so can tell a hole from damage.
    librdkafka 2.16 ends the process at some damaged batches: it reads on inside the batch, and an assertion fails. So a shard whose
    last owner ended without a checkpoint calls `distrust`.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        partitions: Sequence[int],
        codec: Codec,
        max_records: int,
        on_gap: Literal["stop", "skip"] = "stop",
    ) -> None:
        self._options, self._topic, self._codec = dict(options), topic, codec
        self._max_records, self._on_gap = max_records, on_gap
        self._assigned = [TopicPartition(topic, p) for p in sorted(partitions)]
        self._reading = self._assigned
        self._ends: dict[int, int] = {}
        self._high_watermarks: dict[int, int] = {}
        self._ends_read_at = 0.0
        self._final_error: RecordsCorrupt | Refused | None = None  # kafka-python would spin if it were polled again
        self._damaged: dict[int, tuple[int, RecordsCorrupt]] = {}  # with the offset where the damage begins
        self._next_check_at = 0.0
        self._progress_at: dict[int, float] = {}
        self._must_seek = False
        self._dense = _dense_log(self._options, topic, max_records)
        self._is_dense = False
        self._careful_s, self._careful_until = CAREFUL_S[0], 0.0
        self._careful_to: Mapping[int, int] = {}
        self._originals = Originals(self._options, topic)

    @cached_property
    def _consumer(self) -> KafkaConsumer:
        return self._open()

    def _open(self) -> KafkaConsumer:
        consumer = clients.consumer(
            self._options,
            max_poll_records=self._max_records,
            max_partition_fetch_bytes=8 << 20,
            fetch_max_wait_ms=100,
            receive_buffer_bytes=1 << 20,
        )
        consumer.assign(self._reading)
        return with_checked_batches(consumer)

    def log(self, shards: int = 0) -> TopicState:
        """The topic's identity and offsets.

        Args:
            shards: of the pipeline. Partitions that were added to the topic, and that belong with ours by p mod shards, are
                ours from now on. 0: the partitions stay as they are.

        Raises:
            Unavailable: no broker answers.
            ConfigError: there is no such topic.
            Refused: this user may not see it.
        """
        where = f"topic {self._topic}"
        with clients.admin(self._options) as admin:
            (described,) = admin.describe_topics([self._topic])
        if code := described.get("error_code"):
            kind = for_code(code)
            if kind is UnknownTopicOrPartitionError:
                raise ConfigError(f"{where}: expected it to exist, got none; create it first")
            raise permanent(kind(), where) or Unavailable(
                f"{where}: expected its offsets, got {kind.__name__}; try again"
            )
        if shards:
            owned = {tp.partition for tp in self._assigned}
            added = [p for p in range(len(described["partitions"])) if p % shards in {o % shards for o in owned}]
            self._assigned = [TopicPartition(self._topic, p) for p in sorted(owned.union(added))]
        begin = self._consumer.beginning_offsets(self._assigned)
        end = self._consumer.end_offsets(self._assigned)
        return TopicState(str(described.get("topic_id") or ""), _by_partition(begin), _by_partition(end))

    def seek(self, positions: Mapping[int, int]) -> None:
        """Seek to each partition's next offset. Partitions that are not named are not read."""
        self._damaged, self._final_error = {}, None
        self._seek_all(positions)

    def distrust(self, until: Mapping[int, int]) -> None:
        """Read with kafka-python alone up to these offsets."""
        self._careful_to = dict(until)

    def _seek_all(self, positions: Mapping[int, int]) -> None:
        self._ends = dict(positions)  # first: if the broker is away, the next poll seeks to these
        if self._dense and self._is_dense:
            self._dense.stop()
            self._is_dense = False
        self._progress_at = dict.fromkeys(self._ends, time.monotonic())
        reading = [TopicPartition(self._topic, p) for p in sorted(positions)]
        if reading != self._reading:  # not by pausing them: kafka-python 3.0.12 may then never fetch them again
            self._consumer.assign(reading)
            self._reading = reading
        for tp in reading:
            self._consumer.seek(tp, positions[tp.partition])

    def at(self, ms: int) -> dict[int, int]:
        """Each partition's first offset at or after a time, ms since the epoch; its end if no record is that new."""
        found = self._consumer.offsets_for_times(dict.fromkeys(self._assigned, max(ms, 0)))
        end = self._consumer.end_offsets(self._assigned)  # an open transaction may hold it back
        return {tp.partition: min(found[tp].offset, end[tp]) if found.get(tp) else end[tp] for tp in self._assigned}

    def poll(self, timeout_ms: int) -> Poll | None:
        """The next records, decoded; None if none came within the time.

        Raises:
            PositionLost: the position is no longer inside the log.
            RecordsCorrupt: every partition is damaged; all records before the damage have been returned.
            Refused: the log can't be read until a person changes something, such as a right or a codec.
            Unavailable, KafkaError: the broker, or a registry that decoding needs, does not answer; the next call continues where
            this one was to begin.
        """
        try:
            if self._must_seek:  # the client may have advanced past records that were not returned
                self._seek_all(self._ends)
                self._must_seek = False
            return self._poll(timeout_ms)
        except (Unavailable, KafkaError):
            self._read_carefully()
            raise

    def _poll(self, timeout_ms: int) -> Poll | None:
        if self._final_error:
            raise self._final_error
        if restored := self._restored():
            log.info("%s: partitions %s can be read again", self._topic, sorted(restored))
            self._seek_all(self._ends | restored)
            return self._empty_poll()
        if found := self._hidden_corruption():
            return self._pass_over(found)
        if self._dense is None or self._is_careful():
            if self._is_dense:
                self._seek_all(self._ends)
            if self._dense:
                self._dense.rest()
            return self._poll_carefully(timeout_ms)
        if not self._is_dense:
            self._dense.seek(self._ends)
            self._is_dense = True
        return self._poll_dense(self._dense, timeout_ms)

    def _is_careful(self) -> bool:
        return (
            bool(self._damaged)
            or time.monotonic() < self._careful_until
            or any(at < self._careful_to.get(p, 0) for p, at in self._ends.items())
        )

    def _poll_dense(self, dense: DenseLog, timeout_ms: int) -> Poll | None:
        """Read with librdkafka."""
        fetched = dense.poll(timeout_ms)
        polled = self._decoded(fetched.records, fetched.ends)
        if fetched.doubt:
            now, (least, most) = time.monotonic(), CAREFUL_S
            self._careful_s = min(2 * self._careful_s, most) if now < self._careful_until + most else least
            self._read_carefully()
            log.debug("%s%s; reading batch by batch for %g s", self._topic, fetched.doubt, self._careful_s)
        return polled

    def _read_carefully(self) -> None:
        """Read with kafka-python until it has moved on, and for `_careful_s` from there."""
        self._must_seek, self._careful_until = True, math.inf

    def _poll_carefully(self, timeout_ms: int) -> Poll | None:
        """Read with kafka-python, which shows each batch."""
        try:
            fetched = self._consumer.poll(timeout_ms=timeout_ms)
        except OffsetOutOfRangeError as reason:
            raise PositionLost(
                f"{self._topic}: expected offsets {self._ends} inside the log, got {reason}; see `--on-gap`"
            ) from reason
        except Displaced as displaced:
            if not hole(self._options, self._topic, displaced):
                return self._pass_over(displaced.damage)
            self._reopen({displaced.damage.partition: displaced.base})
            return None
        except UNREADABLE:
            self._reopen({})
            return self._pass_over(find_corruption(self._options, self._topic, self._ends))
        except KafkaError as reason:
            if refused := permanent(reason, f"{self._topic}, records from {self._ends} on"):
                self._final_error = refused
                raise refused from reason
            raise
        records = [record for tp in sorted(fetched) for record in fetched[tp]]
        ends = {tp.partition: self._consumer.position(tp) for tp in self._reading}
        moved = {p: e for p, e in ends.items() if e is not None and e != self._ends.get(p)}
        if moved and self._careful_until == math.inf:
            self._careful_until = time.monotonic() + self._careful_s
        return self._decoded(records, moved)

    def _decoded(self, records: Records | Sequence[Readable], moved: Mapping[int, int]) -> Poll | None:
        if not moved:
            return None
        records = records if isinstance(records, Records) else Records.of(records)
        table, dead_letters = self._codec.decode(records)  # first: if a registry does not answer, these are read again
        self._ends |= moved
        self._progress_at |= dict.fromkeys(moved, time.monotonic())
        return Poll(table, dead_letters, moved, self._behind(), self._damage_messages, TracedPoll.of(records))

    @property
    def _damage_messages(self) -> dict[int, str]:
        return {partition: str(error) for partition, (_, error) in self._damaged.items()}

    def _empty_poll(self, *dead_letters: DeadLetter, ends: Mapping[int, int] | None = None) -> Poll:
        """A poll without records."""
        table, _ = self._codec.decode([])
        return Poll(table, dead_letters, ends or {}, self._behind(), self._damage_messages)

    def _reopen(self, at: dict[int, int]) -> None:
        """Continue with a new consumer. The old one would hit the same unreadable records again."""
        self._consumer.close()
        del self._consumer  # opened when next needed, since opening may fail
        self._seek_all(self._ends | at)

    def _restored(self) -> dict[int, int]:
        """Damaged partitions that can be read again, with their offsets. Checked every `RESTORED_S`."""
        if not self._damaged or time.monotonic() < self._next_check_at:
            return {}
        self._next_check_at = time.monotonic() + RESTORED_S
        with suppress(Unavailable):
            found = {p: at for p, (at, _) in self._damaged.items() if is_readable(self._options, self._topic, p, at)}
            self._damaged = {p: d for p, d in self._damaged.items() if p not in found}
            return found
        return {}

    def _behind(self) -> dict[int, int]:
        """Records in the log behind those returned, of each partition whose end is known."""
        if (
            time.monotonic() - self._ends_read_at > LAG_S
        ):  # a fetch reports it, too, but as of long before its last record
            self._ends_read_at = time.monotonic()
            with suppress(KafkaError):
                self._high_watermarks |= _by_partition(self._consumer.end_offsets(self._reading, timeout_ms=1000))
        for p, high in self._fetched_highs().items():
            self._high_watermarks[p] = max(high, self._high_watermarks.get(p, 0))
        return {p: max(high - self._ends[p], 0) for p, high in self._high_watermarks.items() if p in self._ends}

    def _fetched_highs(self) -> dict[int, int]:
        """Each partition's high watermark as of its last fetch, where there was one."""
        if self._dense and self._is_dense:
            return self._dense.high_watermarks()
        return {tp.partition: high for tp in self._reading if (high := self._consumer.highwater(tp))}

    def _hidden_corruption(self) -> Corruption | None:
        """Corruption that hides records from the broker itself. It then returns neither a record nor an error, forever."""
        now, highs = time.monotonic(), self._fetched_highs()
        silent = {p: e for p, e in self._ends.items() if highs.get(p, 0) > e and now - self._progress_at[p] > SILENT_S}
        self._progress_at |= dict.fromkeys(silent, now)
        if silent and self._is_dense:  # librdkafka does not return to a partition after some errors
            self._read_carefully()
        try:
            return find_corruption(self._options, self._topic, silent) if silent else None
        except Unavailable:  # which explains why no record came
            return None

    def _pass_over(self, found: Corruption | None) -> Poll | None:
        """Skip corruption with a dead letter, stop reading its partition, or raise if no other is left; None without corruption."""
        if found is None:
            return None
        partition, start, end, why = found
        error = RecordsCorrupt(
            f"{self._topic}[{partition}]@{start}: expected records as they were written, got {why}; restore the partition "
            f"from a replica" + (f", or continue from {end} with `--on-gap skip`" if end else "")
        )
        if end is None or self._on_gap == "stop":
            self._damaged[partition] = start, error
            self._next_check_at = time.monotonic() + RESTORED_S
            if not (remaining := {p: at for p, at in self._ends.items() if p != partition}):
                self._final_error = error
                raise error
            log.error("%s", error)
            self._seek_all(remaining)
            return self._empty_poll()
        log.error("skipped: %s", error)
        self._ends[partition], self._careful_s = end, CAREFUL_S[1]
        self._read_carefully()
        gap = DeadLetter.gap(error, self._topic, partition, start, stage="read")
        return self._empty_poll(gap, ends={partition: end})

    def originals(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        return self._originals.read(offsets)

    def close(self) -> None:
        """Close the connections."""
        if self._dense:
            self._dense.close()
        if "_consumer" in vars(self):  # a cached property: a reader that was never used has no connection
            self._consumer.close()
        self._originals.close()


def _dense_log(options: Mapping[str, Any], topic: str, max_records: int) -> DenseLog | None:
    if not librdkafka.chosen(options):
        return None
    from tocsin.pipelines.runtime.kafka.dense_log import DenseLog

    return DenseLog(options, topic, max_records)


def _by_partition(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {tp.partition: offset for tp, offset in offsets.items()}
