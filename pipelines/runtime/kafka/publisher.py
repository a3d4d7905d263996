"""Publishes messages in transactions, and commits a group's positions, beside the steps."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.python_transactions import PythonTransactions
from tocsin.pipelines.runtime.kafka.transactions import Message, Transactions

POLL_S = 0.5
SLOW_S = 1.0
"""After a transaction that took longer, the broker may have been restarted, and may have ended this one or the one before in name
only; see `unended`. Both are committed, so both must have ended; see `Transactions.confirm`."""
TRANSACTION_S = 20
"""How long a transaction may take while Kafka answers."""


class Publisher:
    """Runs one transaction at a time, in a thread of its own. The guarantee is that of `Transactions`.

    Args:
        options: `[kafka]`; see `transactions`.
        name: the transactional id; errors begin with it.
        group: whose positions are committed, too, for operators' lag tools.
    """

    def __init__(self, options: Mapping[str, Any], name: str, *, group: str) -> None:
        self._name = name
        self._in_flight: Future[None] | None = None
        self._give_up = 0.0
        self._touched = set[TopicPartition]()
        self.patience = clients.Patience(options)
        self._transactions = transactions(options, name, group=group)
        with closed_on_error(self):
            self._transactions.begin()

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

    @property
    def busy(self) -> bool:
        """Whether a transaction runs."""
        return self._in_flight is not None and not self._in_flight.done()

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        """End what an earlier transaction of this id left open in these partitions; see `unended`."""
        self._transactions.end(partitions, commit=commit)

    def _commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> None:
        began = time.monotonic()
        touched = self._transactions.commit(messages, positions)
        before, self._touched = self._touched, touched
        if time.monotonic() - began > SLOW_S:
            self._transactions.confirm(before | touched)

    def close(self) -> None:
        """Close the connection."""
        self._transactions.close()


def transactions(options: Mapping[str, Any], name: str, *, group: str) -> Transactions:
    """The transactions of a transactional id, by the client that the options choose."""
    if librdkafka.chosen(options):
        from tocsin.pipelines.runtime.kafka.native_transactions import NativeTransactions

        return NativeTransactions(options, name, group=group)
    return PythonTransactions(options, name, group=group)
