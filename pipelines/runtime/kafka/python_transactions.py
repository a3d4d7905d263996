"""`Transactions` of kafka-python."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.transactions import REQUEST_BYTES, Message, fenced
from tocsin.pipelines.runtime.telemetry import failpoints

FENCING = (ProducerFencedError, InvalidProducerEpochError)
END_S = 20


class PythonTransactions:
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
