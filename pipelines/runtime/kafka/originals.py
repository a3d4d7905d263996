"""Reads single records again, for the dead letters of rows that a stage rejects."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from tocsin.pipelines.runtime.declare.errors import PositionLost, Unavailable
from tocsin.pipelines.runtime.declare.records import Readable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.corruption import UNREADABLE, with_checked_batches

ORIGINALS_S = 20
FAR = 5000
"""A gap of more records than this is cheaper to seek over than to read through."""


class Originals:
    """Records of one topic as they are in the log. Its consumer is its own: the stream's positions stay as they are."""

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._options, self._topic = options, topic
        self._consumer: KafkaConsumer | None = None

    def read(self, offsets: Mapping[int, Sequence[int]]) -> list[Readable]:
        """The records at these offsets, by partition.

        Raises:
            PositionLost: one of them is no longer in the log, or is damaged.
            Unavailable: the broker does not return them within 20 s.
        """
        self._consumer = self._consumer or with_checked_batches(clients.consumer(self._options))
        found: list[Readable] = []
        for partition, requested in offsets.items():
            tp, remaining = TopicPartition(self._topic, partition), deque(sorted(set(requested)))
            self._consumer.assign([tp])
            self._consumer.seek(tp, remaining[0])
            give_up = time.monotonic() + ORIGINALS_S
            while remaining:
                try:
                    records = self._consumer.poll(timeout_ms=1000).get(tp, [])
                except OffsetOutOfRangeError as reason:
                    raise PositionLost(
                        f"{self._topic}[{partition}]@{remaining[0]}: expected the refused record, got {reason}"
                    ) from reason
                except UNREADABLE as reason:  # skipped corruption may lie between two of them
                    if self._consumer.position(tp) >= remaining[0]:
                        raise PositionLost(
                            f"{self._topic}[{partition}]@{remaining[0]}: expected the refused record, got damage: {reason}"
                        ) from reason
                    self._consumer.seek(tp, remaining[0])
                    continue
                for record in records:
                    if remaining and record.offset > remaining[0]:
                        raise PositionLost(
                            f"{self._topic}[{partition}]@{remaining[0]}: expected the refused record, got none in the log"
                        )
                    if remaining and record.offset == remaining[0]:
                        found.append(record)
                        remaining.popleft()
                if remaining and remaining[0] - self._consumer.position(tp) > FAR:
                    self._consumer.seek(tp, remaining[0])
                if time.monotonic() > give_up:
                    raise Unavailable(
                        f"{self._topic}[{partition}]@{remaining[0]}: expected the refused record in {ORIGINALS_S} s, "
                        "got none; is the broker up?"
                    )
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._consumer:
            self._consumer.close()
