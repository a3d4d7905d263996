"""Transactions that publish messages to any topics and commit a group's positions, all or nothing, beside the steps."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tocsin.pipelines.runtime.declare.errors import Fenced, Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.topics import LARGEST
from tocsin.pipelines.runtime.telemetry import failpoints

FENCING = (ProducerFencedError, InvalidProducerEpochError)
POLL_S = 0.5
SLOW_S = 1.0
"""After a transaction that took longer, the broker may have been restarted, and may have ended this one or the one before in name
only; see `unended`. Both are committed, so they are ended once more. Where nothing is open, that changes nothing."""
TRANSACTION_S = 20
"""The broker aborts a transaction that is older than 15 s."""


class Message(NamedTuple):
    """A record to publish; without a `partition` its key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


class Publisher:
    """A transactional producer.

    Guarantee: a `read_committed` consumer sees the messages of one `publish` all or not at all. Once another process has opened
    a publisher with the same id, no further message of this one becomes visible.

    Args:
        options: of kafka-python's clients.
        name: the transactional id; errors begin with it.
        group: whose positions are committed, too, for operators' lag tools.
    """

    def __init__(self, options: Mapping[str, Any], name: str, *, group: str) -> None:
        self._name, self._group = name, group
        self._in_flight: Future[None] | None = None
        self._give_up = 0.0
        self._touched = set[TopicPartition]()
        self.patience = clients.Patience(options)
        self._producer: KafkaProducer = clients.producer(
            options, transactional_id=name, linger_ms=0, max_request_size=2 * LARGEST
        )
        with closed_on_error(self), self._fencing():
            self._producer.init_transactions()

    def publish(
        self,
        prepare: Callable[[], Sequence[Message]],
        positions: Mapping[TopicPartition, int],
        committed: Callable[[], None],
    ) -> None:
        """Begin a transaction in its own thread. `settle` reports how it ended. Only one runs at a time.

        Args:
            prepare: returns the messages. Called in that thread before the transaction begins; may take long.
            positions: of the group. Empty: they stay as they are, which makes an alert 2 ms faster.
            committed: called in that thread after the commit.
        """
        self.settle(wait=True)
        self._in_flight = in_flight = Future[None]()
        self._give_up = math.inf  # no limit until the transaction begins

        def run() -> None:
            try:
                messages = prepare()
                self._give_up = time.monotonic() + TRANSACTION_S
                self._commit(messages, positions)
                committed()
            except BaseException as reason:
                in_flight.set_exception(reason)
            else:
                in_flight.set_result(None)

        # A daemon: a hanging transaction must not keep the process from exiting.
        threading.Thread(target=copy_context().run, args=(run,), name="publisher", daemon=True).start()

    def settle(self, *, wait: bool) -> None:
        """Check how the transaction ended, if it has; with `wait`, wait for its end.

        Raises:
            Fenced: another process owns the shard now. Any other error leaves the outcome open; only recovery can determine it.
        """
        remaining = self._give_up - time.monotonic()
        if self._in_flight is None or not (wait or self._in_flight.done() or remaining <= 0):
            return
        while True:
            try:  # with a timeout: the client waits forever, and was seen never to wake after a broker restart
                self._in_flight.result(min(max(self._give_up - time.monotonic(), 0), POLL_S))
                break
            except TimeoutError as reason:
                if time.monotonic() < self._give_up:
                    continue
                if not self.patience.lasts():  # while Kafka is away, recovery would have to wait, too
                    raise Unavailable(
                        f"{self._name}: expected a transaction to end within {TRANSACTION_S} s, got no answer; start again"
                    ) from reason
                self._give_up = time.monotonic() + TRANSACTION_S
        self._in_flight, self.patience.waiting = None, False

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        """End what an earlier transaction of this id left open in these partitions; see `unended`."""
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
                producer.flush(TRANSACTION_S)
                for future in sent:
                    future.get(timeout=0)
                producer.abort_transaction()

    def _commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> None:
        producer, began = self._producer, time.monotonic()
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
            touched = {TopicPartition(at.topic, at.partition) for at in (future.get(timeout=0) for future in sent)}
        before, self._touched = self._touched, touched
        if time.monotonic() - began > SLOW_S:
            self.end(before | touched, commit=True)

    @contextmanager
    def _fencing(self) -> Iterator[None]:
        """Raise `Fenced` for fencing errors. A client that notices fencing in a later call names it only in the error's text."""
        try:
            yield
        except KafkaError as reason:
            if isinstance(reason, FENCING) or any(kind.__name__ in str(reason) for kind in FENCING):
                raise Fenced(
                    f"{self._name}: expected to own the shard, got {reason!r}: another process owns it now, or this one "
                    "stalled for longer than a transaction may last"
                ) from reason
            raise

    def close(self) -> None:
        """Close the connection."""
        self._producer.close(timeout=5)
