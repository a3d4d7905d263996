"""The transactional producer behind the publisher: kafka-python's, or librdkafka's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tocsin.pipelines.runtime.declare.errors import Fenced
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.kafka.topics import LARGEST
from tocsin.pipelines.runtime.telemetry import failpoints

FENCING = (ProducerFencedError, InvalidProducerEpochError)
REQUEST_BYTES = 2 * LARGEST
END_S = 20


class Message(NamedTuple):
    """A record to publish; without a `partition` its key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


class Transactions(Protocol):
    """Commits transactions under one transactional id, one at a time.

    Guarantee: a `read_committed` consumer sees the messages of one `commit` all or not at all. Once another process has called
    `begin` with the same id, no further message of this one becomes visible. The group's positions follow.
    """

    def begin(self) -> None:
        """Fence the id's earlier producers, and abort what they left open."""

    def commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """Commit messages, and a group's positions where there are any. Returns the messages' partitions.

        Raises:
            Fenced: another process has the id now.
            KafkaError, Unavailable: the outcome is open.
        """

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        """End what an earlier transaction of this id left open in these partitions; see `unended`.

        Raises:
            Unavailable: it is ended, but this process may have lost the id meanwhile. Recover again.
        """

    def confirm(self, partitions: Collection[TopicPartition]) -> None:
        """Make sure that the broker has ended what was committed in these partitions; see `unended`.

        Raises:
            Fenced: another process has the id now.
            KafkaError, Unavailable: it has not; only recovery can end it.
        """

    def close(self) -> None:
        """Close the connections, within seconds."""


def transactions(options: Mapping[str, Any], name: str, *, group: str) -> Transactions:
    """The transactions of a transactional id, by the client that the options choose."""
    if librdkafka.chosen(options):
        from tocsin.pipelines.runtime.kafka.native_transactions import NativeTransactions

        return NativeTransactions(options, name, group=group)
    return KafkaPythonTransactions(options, name, group=group)


def fenced(name: str, reason: Exception) -> Fenced:
    """The error of a producer whose transactional id another one has taken over."""
    return Fenced(
        f"{name}: expected to own the shard, got {reason!r}: another process owns it now, or this one stalled for longer than a "
        "transaction may last"
    )


class KafkaPythonTransactions:
    """`Transactions` of kafka-python."""

    def __init__(self, options: Mapping[str, Any], name: str, *, group: str) -> None:
        self._name, self._group = name, group
        self._producer: KafkaProducer = clients.producer(
            options, transactional_id=name, linger_ms=0, max_request_size=REQUEST_BYTES
        )

    def begin(self) -> None:
        with self._fencing():
            self._producer.init_transactions()

    def commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        producer = self._producer
        with self._fencing():
            producer.begin_transaction()
            sent = [
                producer.send(m.topic, key=m.key, value=m.value, headers=list(m.headers), partition=m.partition)
                for m in messages
            ]
            failpoints.point("alerts.sent")
            if positions:
                offsets = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in positions.items()}
                producer.send_offsets_to_transaction(offsets, self._group)
            producer.commit_transaction()
            return {TopicPartition(at.topic, at.partition) for at in (future.get(timeout=0) for future in sent)}

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        producer = self._producer
        with self._fencing():
            producer.begin_transaction()
            # A commit needs no record of its own. An abort without one would add no partition.
            if commit:
                for tp in partitions:
                    producer._transaction_manager.maybe_add_partition_to_transaction(tp)
                producer.commit_transaction()
            else:
                sent = [producer.send(tp.topic, key=b"", value=b"", partition=tp.partition) for tp in partitions]
                producer.flush(END_S)
                for future in sent:
                    future.get(timeout=0)
                producer.abort_transaction()

    def confirm(self, partitions: Collection[TopicPartition]) -> None:
        self.end(partitions, commit=True)  # where nothing is open, that changes nothing

    def close(self) -> None:
        self._producer.close(timeout=5)

    @contextmanager
    def _fencing(self) -> Iterator[None]:
        """Raise `Fenced` for fencing errors. A client that notices fencing in a later call names it only in the error's text."""
        try:
            yield
        except KafkaError as reason:
            if isinstance(reason, FENCING) or any(kind.__name__ in str(reason) for kind in FENCING):
                raise fenced(self._name, reason) from reason
            raise
