"""`Transactions` of librdkafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered
from confluent_kafka import TopicPartition as NativePartition
from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.kafka.transactions import REQUEST_BYTES, KafkaPythonTransactions, Message, fenced
from tocsin.pipelines.runtime.kafka.unended import unended
from tocsin.pipelines.runtime.telemetry import failpoints

CALL_S, BEGIN_S, CLOSE_S = 5.0, 60.0, 5.0
CONFIRM_S, AGAIN_S = 10.0, 0.05
NO_PARTITION = -1
FENCING = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


class NativeTransactions:
    """`Transactions` of librdkafka. Its calls end when the broker answers, or when the broker must have aborted."""

    def __init__(self, options: Mapping[str, Any], name: str, *, group: str) -> None:
        self._options, self._name, self._group_id = options, name, group
        self._failed: KafkaError | None = None
        self._touched = set[TopicPartition]()
        self._group: Consumer = librdkafka.consumer(options, **{"group.id": group})
        self._producer = self._open()

    def _open(self) -> Producer:
        return librdkafka.producer(
            self._options,
            **{
                "transactional.id": self._name,
                "transaction.timeout.ms": 15_000,
                "linger.ms": 0,
                "message.max.bytes": REQUEST_BYTES,
                "queue.buffering.max.kbytes": 2_000_000,
                "queue.buffering.max.messages": 0,  # no limit: a transaction is sent whole
            },
        )

    def begin(self) -> None:
        with self._errors():
            self._producer.init_transactions(BEGIN_S)

    def commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        producer, self._failed, self._touched = self._producer, None, set()
        with self._errors():
            producer.begin_transaction()
            for m in messages:
                partition = NO_PARTITION if m.partition is None else m.partition
                producer.produce(m.topic, m.value, m.key, partition, self._delivered, headers=list(m.headers))
            failpoints.point("alerts.sent")
            _patiently(lambda: producer.commit_transaction(CALL_S))
        if positions:
            # Beside the transaction, for only lag tools read them: `send_offsets_to_transaction` was seen to hang after a broker's
            # restart.
            offsets = [NativePartition(tp.topic, tp.partition, offset) for tp, offset in positions.items()]
            self._group.commit(offsets=offsets, asynchronous=True)
        return self._touched

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        # librdkafka cannot add a partition without a record.
        self._close_producer()
        other = KafkaPythonTransactions(self._options, self._name, group=self._group_id)
        with closing(other):
            other.begin()
            other.end(partitions, commit=commit)
        self._producer = self._open()
        self.begin()

    def confirm(self, partitions: Collection[TopicPartition]) -> None:
        # To end it here, `end` would have to fence this producer's successor, too, if there is one.
        give_up = time.monotonic() + CONFIRM_S
        with clients.admin(self._options) as admin:
            while left := unended(admin, self._options, self._name, partitions):
                if time.monotonic() > give_up:
                    raise Unavailable(
                        f"{self._name}: expected the broker to end what it has committed in {sorted(left)}, got no end; start again"
                    )
                time.sleep(AGAIN_S)

    def close(self) -> None:
        self._close_producer()
        self._group.close()

    def _close_producer(self) -> None:
        # It aborts what is open, which a broker that is away never answers.
        closing = threading.Thread(target=self._producer.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _delivered(self, reason: KafkaError | None, message: Delivered) -> None:
        self._failed = self._failed or reason
        self._touched.add(TopicPartition(message.topic(), message.partition()))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise librdkafka's errors as ours."""
        try:
            yield
        except KafkaException as reason:
            error = reason.args[0]
            if error.code() in FENCING:
                raise fenced(self._name, reason) from reason
            if self._failed is not None and self._failed.code() > 0:
                raise librdkafka.error(self._failed) from reason
            if error.code() > 0:
                raise librdkafka.error(error) from reason
            raise Unavailable(
                f"{self._name}: expected a transaction to end, got {error.str()}; start again"
            ) from reason


def _patiently(call: Callable[[], None]) -> None:
    """Repeat a call that has not ended yet. It ends with an error once the transaction is too old."""
    while True:
        try:
            return call()
        except KafkaException as reason:
            if not reason.args[0].retriable():
                raise
