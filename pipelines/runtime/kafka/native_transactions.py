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
from tocsin.pipelines.runtime.kafka.python_transactions import PythonTransactions
from tocsin.pipelines.runtime.kafka.transactions import REQUEST_BYTES, Message, fenced
from tocsin.pipelines.runtime.kafka.unended import unended
from tocsin.pipelines.runtime.telemetry import failpoints

CALL_S, BEGIN_S, CLOSE_S = 5.0, 60.0, 5.0
CONFIRM_S, AGAIN_S = 10.0, 0.05
LIFE_MS = 120_000
"""The broker aborts a transaction that is older, and librdkafka gives up messages that it could not deliver for so long. So this is
how long a broker may be away in the middle of a transaction. If a shard's owner dies and has no successor, which would end its
transaction, subscribers wait as long for the alerts behind it."""
NO_PARTITION = -1
UNUSABLE = {KafkaError._FATAL, KafkaError._STATE}
FENCING = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


class NativeTransactions:
    """`Transactions` of librdkafka. While the broker is away, `commit` waits."""

    def __init__(self, options: Mapping[str, Any], name: str, *, group: str) -> None:
        self._options, self._name, self._group_id = options, name, group
        self._failed: KafkaError | None = None
        self._touched = set[TopicPartition]()
        self._lost = ""
        self._group: Consumer = librdkafka.consumer(options, **{"group.id": group})
        self._producer: Producer = librdkafka.producer(
            options,
            **{
                "transactional.id": self._name,
                "transaction.timeout.ms": LIFE_MS,
                "linger.ms": 0,
                "message.max.bytes": REQUEST_BYTES,
                "queue.buffering.max.kbytes": 2_000_000,
                "queue.buffering.max.messages": 0,  # no limit: a transaction is sent whole
                "error_cb": self._fail,
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
            self._group.poll(0)  # serves the events since the last commit
            self._group.commit(offsets=offsets, asynchronous=True)
        return self._touched

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        # librdkafka cannot add a partition without a record. kafka-python becomes the owner of the id for that, which may fence a
        # successor of this process. So only another recovery can tell what is left to do.
        with closing(PythonTransactions(self._options, self._name, group=self._group_id)) as other:
            other.begin()
            other.end(partitions, commit=commit)
        raise Unavailable(f"{self._name}: ended what a crashed broker had left open; recovering again")

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
        if "_producer" not in vars(self):
            return
        # Without `Producer.close`, which would abort what is open, perhaps only once a successor has the id.
        clients: list[Any] = [self._group, self._producer]
        del self._group, self._producer

        def close() -> None:
            clients.pop()
            clients.pop().close()  # waits for the group's coordinator

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _fail(self, reason: KafkaError) -> None:
        """Called by the producer for an error that concerns no message, such as a broker that is away."""
        self._lost = reason.str()

    def _delivered(self, reason: KafkaError | None, message: Delivered) -> None:
        self._failed = self._failed or reason
        self._touched.add(TopicPartition(message.topic(), message.partition()))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise librdkafka's errors as ours."""
        try:
            yield
        except KafkaException as reason:
            error = self._cause(reason.args[0])
            if error.code() in FENCING:
                raise fenced(self._name, reason) from reason
            if self._failed is not None and self._failed.code() > 0:
                raise librdkafka.error(self._failed) from reason
            if error.code() > 0:
                raise librdkafka.error(error) from reason
            self._producer.poll(0)  # calls `_fail`
            because = f": {self._lost}" if self._lost else ""
            raise Unavailable(
                f"{self._name}: expected a transaction to end, got {error.str()}{because}; start again"
            ) from reason

    def _cause(self, error: KafkaError) -> KafkaError:
        """Why a producer is unusable. A call names it only if it is about transactions."""
        if error.code() not in UNUSABLE:
            return error
        try:
            self._producer.commit_transaction(0)
        except KafkaException as reason:
            return reason.args[0] if reason.args[0].code() in FENCING else error
        return error


def _patiently(call: Callable[[], None]) -> None:
    """Repeat a call that has not ended yet. It ends with an error once the transaction is too old."""
    while True:
        try:
            return call()
        except KafkaException as reason:
            if not reason.args[0].retriable():
                raise
