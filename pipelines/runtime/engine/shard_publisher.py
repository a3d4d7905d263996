"""Publishes a shard's alerts, dead letters and journal to Kafka in one transaction, and its positions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kafka import TopicPartition

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter, Refusal
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.journal_topic import key
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, store_original
from tocsin.pipelines.runtime.kafka.publisher import Publisher
from tocsin.pipelines.runtime.kafka.topics import restore_outputs
from tocsin.pipelines.runtime.kafka.transactions import Message
from tocsin.pipelines.runtime.lake.retry import LakeRetry
from tocsin.pipelines.runtime.lake.storage import Lake


class ShardPublisher(Publisher):
    """One shard's publisher.

    The transactional id belongs to the shard, not to the worker. A stalled worker with its own id could still commit.
    """

    def __init__(self, options: Mapping[str, Any], pipeline: Pipeline, shard: int, lake: Lake) -> None:
        self._pipeline, self._shard = pipeline, shard
        self.lake_retry = LakeRetry(lake)
        self._originals = OriginalStore(lake.files, "", lake.place())
        restore_outputs(options, pipeline)
        super().__init__(options, names.transactional_id(pipeline.name, shard), group=names.lag_group(pipeline.name))

    def send(
        self,
        alerts: Sequence[Alert],
        dead_letters: Sequence[DeadLetter],
        journal: Journal,
        positions: Mapping[int, int],
        on_committed: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a transaction with all of these; see `publish`. The journal is serialized at the time of the call.

        Args:
            positions: partition of the input topic -> next offset; see `publish`.
        """
        place, record = journal.append()
        entry = Message(self._pipeline.journal, key(self._shard, place), record, partition=self._shard)

        def prepare() -> list[Message]:
            sent = [] if self._pipeline.shadow_of else dead_letters  # the other pipeline sends them
            stored = self.lake_retry.through(
                lambda: [store_original(dead_letter, self._originals) for dead_letter in sent]
            )
            return [*self._messages(alerts, stored), entry]

        offsets = {TopicPartition(self._pipeline.topic, p): offset for p, offset in positions.items()}
        self.publish(prepare, offsets, on_committed)

    def _messages(self, alerts: Sequence[Alert], dead_letters: Sequence[DeadLetter]) -> Iterator[Message]:
        p = self._pipeline
        for alert in alerts:
            yield Message(p.alerts, alert.key.encode(), alert.value(), alert.headers())
        for dead_letter in dead_letters:
            # The client rejects a record with neither key nor value.
            value = b"" if dead_letter.key is dead_letter.value is None else dead_letter.value
            yield Message(p.dead_letters, dead_letter.key, value, dead_letter.headers_out())


def fingerprint(output: Alert | DeadLetter | Refusal) -> int:
    """A 64-bit hash by which recovery checks that a re-run gives the same output."""
    if isinstance(output, Alert):
        return int(output.id[:16], 16)
    identity = f"{output.partition}/{output.offset}/{output.row}/{output.stage}/{output.error}".encode()
    return zlib.crc32(identity) << 32 | zlib.crc32(identity[::-1])
