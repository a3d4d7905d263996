"""Outputs that a crashed broker left open: they become visible together with their journal record, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import GAP, DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine import journal
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher, fingerprint
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.unended import unended

log = logging.getLogger(__name__)


def end_open_outputs(config: ShardConfig, pipeline: Pipeline, publisher: ShardPublisher) -> None:
    """End what earlier owners wrote in transactions that a broker counted as complete without ending them; see `unended`.

    Nobody sees these records yet. They are committed if the journal names exactly their alerts and dead letters, whether its own
    record is open, too, or was committed by a later transaction. Otherwise they are aborted, and recovery publishes again what is
    due. Call it once earlier owners are fenced, and before the journal is read.
    """
    counts = clients.partitions(config.kafka, {pipeline.alerts, pipeline.dead_letters})
    own_journal = TopicPartition(pipeline.journal, config.shard)
    partitions = [TopicPartition(topic, p) for topic, count in counts.items() for p in range(count)]
    found = unended(config.kafka, names.transactional_id(pipeline.name, config.shard), [*partitions, own_journal])
    if not found:
        return
    outputs = _outputs(pipeline, found)
    committed = journal.history(config.kafka, pipeline.journal, config.shard)
    fingerprints = [fingerprint(output) for output in outputs]
    if own := found.get(own_journal):
        newest = Journal.load(own[-1].value)
        commit = _names(committed[-1] if committed else Journal(newest.base), newest, fingerprints)
    else:
        pairs = ((earlier, later) for i, earlier in enumerate(committed) for later in committed[i + 1 :])
        commit = any(_names(earlier, later, fingerprints) for earlier, later in pairs)
    log.warning(
        "%s/%d: a broker ended transactions in name only; %d alerts and dead letters that nobody can see yet are %s",
        pipeline.name,
        config.shard,
        len(outputs),
        "published now" if commit else "withdrawn, and published again if they are due",
    )
    publisher.end(found, commit=commit)


def _outputs(
    pipeline: Pipeline, records: Mapping[TopicPartition, Sequence[ConsumerRecord]]
) -> list[Alert | DeadLetter]:
    """The alerts and dead letters that the journal counts."""
    found: list[Alert | DeadLetter] = []
    for tp, in_partition in records.items():
        if tp.topic == pipeline.alerts:
            found += [Alert.read(record.headers, record.value) for record in in_partition]
        elif tp.topic == pipeline.dead_letters:
            found += [letter for letter in map(DeadLetter.read, in_partition) if letter.stage != GAP]
    return found


def _names(earlier: Journal, later: Journal, fingerprints: Sequence[int]) -> bool:
    """Whether the later of two journal records names exactly these outputs beyond the earlier one's."""
    if (before := earlier.since(later.base)) is None:
        return False
    counted = Journal(later.base, sent=before.sent, digest=before.digest)
    counted.count_published(fingerprints)
    return (counted.sent, counted.digest) == (later.sent, later.digest)
