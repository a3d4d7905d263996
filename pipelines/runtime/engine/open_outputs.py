"""Outputs that a crashed broker left open: they become visible together with their journal record, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import GAP, DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher, fingerprint
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.unended import unended

log = logging.getLogger(__name__)


@dataclass
class OpenOutputs:
    """What the shard's producer wrote in transactions that a broker counted as complete without ending them; see `unended`.

    The shard's owner believed them committed. Until one of them is ended in a partition, nobody sees its records there.

    Args:
        records: the records that are open, by partition.
    """

    publisher: ShardPublisher
    pipeline: Pipeline
    journal: TopicPartition
    records: Mapping[TopicPartition, Sequence[ConsumerRecord]]

    @classmethod
    def find(cls, config: ShardConfig, pipeline: Pipeline, publisher: ShardPublisher) -> OpenOutputs:
        """Look for them, once earlier owners are fenced."""
        counts = clients.partitions(config.kafka, {pipeline.alerts, pipeline.dead_letters})
        outputs = [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
        journal = TopicPartition(pipeline.journal, config.shard)
        producer = names.transactional_id(pipeline.name, config.shard)
        return cls(publisher, pipeline, journal, unended(config.kafka, producer, [*outputs, journal]))

    def end_with_journal(self, stored: Journal | None) -> bool:
        """If a journal record is open, commit it with its outputs if they are complete, and abort them if not.

        Args:
            stored: the newest committed record.

        Returns:
            Whether a journal record was open.
        """
        if not (records := self.records.get(self.journal)):
            return False
        claimed = Journal.load(records[-1].value)
        before = (stored and stored.since(claimed.base)) or Journal(claimed.base)
        found = self._fingerprints()
        counted = Journal(claimed.base, sent=before.sent, digest=before.digest)
        counted.count_published(found)
        self._end(commit=(counted.sent, counted.digest) == (claimed.sent, claimed.digest))
        return True

    def end_after_rerun(self, published: Collection[int], base: Mapping[int, int]) -> None:
        """Commit the outputs if the journal names any of them, and abort them if it does not.

        Args:
            published: fingerprints of what the journal's steps gave again.
            base: the offsets of the checkpoint that the journal builds on. Outputs of earlier records are in no journal any more.
        """
        if self.records:
            earlier = any(offset < base.get(partition, 0) for partition, offset in self._origins())
            self._end(commit=earlier or not set(published).isdisjoint(self._fingerprints()))

    def _outputs(self) -> list[Alert | DeadLetter]:
        found: list[Alert | DeadLetter] = []
        for tp, records in self.records.items():
            if tp.topic == self.pipeline.alerts:
                found += [Alert.read(record.headers, record.value) for record in records]
            elif tp.topic == self.pipeline.dead_letters:
                found += [letter for letter in map(DeadLetter.read, records) if letter.stage != GAP]
        return found

    def _fingerprints(self) -> list[int]:
        return [fingerprint(output) for output in self._outputs()]

    def _origins(self) -> list[tuple[int, int]]:
        """The partition and offset of the record that caused each output; none for an alert of a timer."""
        places = [
            (output.partition, output.offset)
            if isinstance(output, DeadLetter)
            else (output.data["partition"], output.data["offset"])
            for output in self._outputs()
        ]
        return [(partition, offset) for partition, offset in places if offset is not None]

    def _end(self, *, commit: bool) -> None:
        log.warning(
            "%s[%d]: a broker ended transactions in name only; %d alerts and dead letters that nobody can see yet are %s",
            self.pipeline.journal,
            self.journal.partition,
            len(self._outputs()),
            "published now" if commit else "withdrawn, and published again if they are due",
        )
        self.publisher.end(self.records, commit=commit)
        self.records = {}
