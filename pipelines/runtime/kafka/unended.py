"""Finds the records of transactions that a broker has counted as complete without ending them.

A broker that is killed just after it has decided to commit, and is restarted at once, may take the partitions for deleted: Apache
Kafka 4.3.1 does, as the only broker of a cluster, after about one of four such kills. It then writes no marker into them. The
records stay invisible until the same producer ends its next transaction in their partition. That end decides about them, too,
and it need not be the same in each partition: an alert would become visible without its journal record.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    TransactionalIdNotFoundError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from kafka.record import MemoryRecords

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.telemetry import progress

log = logging.getLogger(__name__)
HIDDEN = (AuthorizationError, TransactionalIdNotFoundError, UnknownTopicOrPartitionError, UnsupportedVersionError)
"""Answers of brokers that do not show producers, or not to this user."""


def unended(
    admin: KafkaAdminClient,
    options: Mapping[str, Any],
    transactional_id: str,
    partitions: Collection[TopicPartition],
) -> dict[TopicPartition, list[ConsumerRecord]]:
    """The records of an id's producer that are still open, by partition. Topics that this user may not read are left out.

    Call it after the id was fenced: the coordinator has then ended every transaction that it knows.

    Raises:
        Unavailable: a broker does not answer.
    """
    starts = dict[TopicPartition, int]()
    try:
        if (producer := _producer(admin, transactional_id)) is None:
            return {}
        for topic in sorted({tp.topic for tp in partitions}):
            starts |= _starts(admin, [tp for tp in partitions if tp.topic == topic], producer)
        return {tp: _records(options, tp, start, producer) for tp, start in starts.items()}
    except KafkaError as reason:
        raise Unavailable(
            f"{transactional_id}: expected to hear of its open transactions, got {reason!r}; is the broker up?"
        ) from reason


def _producer(admin: KafkaAdminClient, transactional_id: str) -> int | None:
    """The id's producer id; None if the broker does not say."""
    try:
        return int(admin.describe_transactions([transactional_id])[transactional_id].producer_id)
    except HIDDEN as reason:
        log.info("%s: what a crashed broker left open is not looked for: %r", transactional_id, reason)
        return None


def _starts(admin: KafkaAdminClient, partitions: Sequence[TopicPartition], producer: int) -> dict[TopicPartition, int]:
    """The first open offset of a producer in each partition of a topic where there is one."""
    try:
        producers = admin.describe_producers(partitions)
    except HIDDEN as reason:
        log.info("topic %s: what a crashed broker left open is not looked for: %r", partitions[0].topic, reason)
        return {}
    return {
        tp: state.current_transaction_start_offset
        for tp, found in producers.items()
        for state in found.active_producers
        if state.producer_id == producer and state.current_transaction_start_offset >= 0
    }


def _records(options: Mapping[str, Any], tp: TopicPartition, start: int, producer: int) -> list[ConsumerRecord]:
    """A producer's records from an offset on, open or not."""
    own = list[range]()

    class Noting(Fetcher.PartitionRecords):
        def _unpack_records(self, tp: TopicPartition, records: MemoryRecords, *more: Any) -> Any:
            return super()._unpack_records(tp, _Batches(records, producer, own), *more)

    with closing(clients.consumer(options, isolation_level="read_uncommitted")) as consumer:
        consumer._fetcher.PartitionRecords = Noting
        consumer.assign([tp])
        begin, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
        found = list[ConsumerRecord]()
        for record in clients.read(consumer, tp, max(start, begin), end):
            found.append(record)
            progress.made()  # only for records: a broker that returns none must not look alive
    offsets = set[int]().union(*own)
    return [record for record in found if record.offset in offsets]


class _Batches:
    """A fetch's batches, one after the other. Notes the offsets of those that a producer has written."""

    def __init__(self, batches: MemoryRecords, producer: int, own: list[range]) -> None:
        self._batches, self._producer, self._own = batches, producer, own

    def next_batch(self) -> Any:
        """The next batch; None if there is none."""
        batch = self._batches.next_batch()
        if batch is not None and batch.magic == 2 and batch.producer_id == self._producer:
            self._own.append(range(batch.base_offset, batch.next_offset))
        return batch
