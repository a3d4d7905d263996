"""The fast way through a log: librdkafka, as long as every offset follows the one before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, Message, TopicPartition

from tocsin.pipelines.runtime.declare.records import Headers, Records
from tocsin.pipelines.runtime.kafka import librdkafka

log = logging.getLogger(__name__)
NO_TIMESTAMP, NOWHERE = -1, -1
MOST = 1_000_000
"""The most messages that `consume` takes."""
_NO_HEADERS: Headers = ()


@dataclass(frozen=True)
class Fetched:
    """What a poll returned.

    Args:
        ends: partition -> next offset to read, of the partitions that moved.
        doubt: why the log cannot be read this way beyond these records; empty if it can.
    """

    records: Records
    ends: Mapping[int, int]
    doubt: str = ""


class DenseLog:
    """Reads partitions of one topic whose records have consecutive offsets.

    librdkafka skips transaction markers, aborted records and the holes that compaction leaves, and returns a batch whose base
    offset is damaged as if it were sound: it does not say which it was. So anything but the next offset is a doubt, and so is
    any error: the caller reads on from there in a way that can tell.

    Guarantee: the records before a doubt are those that the log holds, each once.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, max_records: int) -> None:
        self._options, self._topic, self._max_records = options, topic, max_records
        self._consumer: Any = None
        self._ends: dict[int, int] = {}
        self._lost = ""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Read these partitions from these offsets on."""
        self._consumer = self._consumer or librdkafka.consumer(
            self._options,
            **{
                "fetch.wait.max.ms": 100,
                "fetch.message.max.bytes": 2 << 20,
                "queued.max.messages.kbytes": 8 << 10,
                "fetch.queue.backoff.ms": 5,
                "error_cb": self._fail,
            },
        )
        self._ends, self._lost = dict(positions), ""
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])

    def stop(self) -> None:
        """Fetch nothing until the next `seek`."""
        if self._consumer:
            self._consumer.unassign()

    def rest(self) -> None:
        """Serve events while stopped. They would pile up."""
        if self._consumer:
            self._consumer.poll(0)

    def poll(self, timeout_ms: int) -> Fetched:
        """The next records."""
        first = self._consumer.poll(timeout_ms / 1000)
        if first is None:
            return Fetched(Records.of([]), {}, self._lost)
        # `consume` alone would wait for `max_records`, or for the whole time.
        found = [first, *self._consumer.consume(min(self._max_records - 1, MOST), 0)]
        # An event without a topic concerns the group, which is not used.
        messages = [m for m in found if m.topic() is not None]
        return self._checked(messages) if messages else Fetched(Records.of([]), {}, self._lost)

    def high_watermarks(self) -> dict[int, int]:
        """Each partition's end as of its last fetch."""
        found = {
            p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), cached=True) for p in self._ends
        }
        return {p: high for p, (_, high) in found.items() if high > 0}

    def close(self) -> None:
        if self._consumer:
            self._consumer.close()
            self._consumer = None

    def _fail(self, reason: Any) -> None:
        """Called by `poll` for an error that concerns no partition, such as a broker that is away."""
        if self._lost != (said := reason.str()):
            log.info("%s: librdkafka: %s", self._topic, said)
        self._lost = said

    def _checked(self, messages: list[Message]) -> Fetched:
        """The messages before the first of each partition that is in doubt, sorted by partition."""
        errors, headers = [m.error() for m in messages], _headers(messages)
        places = [(m.partition(), NOWHERE if (offset := m.offset()) is None else offset) for m in messages]
        partitions, offsets = np.array(places, np.int64).T
        is_record = np.array([error is None for error in errors], bool)
        is_odd = np.array(
            [h is None or not (e is None or _is_end(e)) for e, h in zip(errors, headers, strict=True)], bool
        )
        ends, doubt, sound = dict[int, int](), self._lost, list[Any]()
        for partition in np.unique(partitions).tolist():
            own = np.flatnonzero(partitions == partition)
            # The end of a partition is an event, too; its offset is the next one.
            before = np.cumsum(is_record[own]) - is_record[own]
            wrong = np.flatnonzero((offsets[own] != self._ends[partition] + before) | is_odd[own])
            if len(wrong):
                at = int(own[wrong[0]])
                doubt = (
                    doubt or f"[{partition}]@{self._ends[partition] + int(before[wrong[0]])}: {_found(messages[at])}"
                )
                own = own[: wrong[0]]
            if len(records := own[is_record[own]]):
                ends[partition] = int(offsets[records[-1]]) + 1
                sound.append(records)
        self._ends |= ends
        if not sound:
            return Fetched(Records.of([]), ends, doubt)
        order = np.concatenate(sound)
        if len(order) < len(messages) or (np.diff(order) < 0).any():
            messages, headers = ([column[i] for i in order.tolist()] for column in (messages, headers))
        stamps = np.array([m.timestamp() for m in messages], np.int64)
        records = Records(
            self._topic,
            partitions[order],
            offsets[order],
            np.where(stamps[:, 0] == TIMESTAMP_NOT_AVAILABLE, NO_TIMESTAMP, stamps[:, 1]),
            [m.value() for m in messages],
            headers,
            [m.key() for m in messages],
        )
        return Fetched(records, ends, doubt)


def _headers(messages: Sequence[Message]) -> list[Any]:
    """Each message's headers; None if a name is not valid UTF-8.

    For such a name confluent-kafka 2.16 returns a broken list together with an error. A call from Python code may take the list and
    crash on it later. A call from C reports the error, and it must not be repeated: the message keeps the broken list.
    """
    found, each = list[Any](), map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(headers or _NO_HEADERS for headers in each)
        except SystemError:
            found.append(None)
    return found


def _is_end(error: Any) -> bool:
    return bool(error.code() == KafkaError._PARTITION_EOF)


def _found(message: Any) -> str:
    """What came instead of the next record."""
    if error := message.error():
        return f"offset {message.offset()}, {error.name()}"
    return f"offset {message.offset()}"
