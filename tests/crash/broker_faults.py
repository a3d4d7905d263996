"""What a crashed broker does to a transaction: it counts it as complete, and ends it in some of its partitions or in none.

Each fault is applied in the shard's process, to one transaction with alerts; the process then dies. Records that are written
without adding their partition to the transaction get no marker, as after the broker's fault. A broker that verifies each
partition would refuse them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from tocsin.pipelines.runtime.engine.journal import CONTINUED
from tocsin.pipelines.runtime.engine.journal_topic import key
from tocsin.pipelines.runtime.kafka.python_transactions import PythonTransactions
from tocsin.pipelines.runtime.kafka.transactions import Message

UNVERIFIED = {"transaction.partition.verification.enable": "false"}
"""Settings of a broker to which the faults can be done."""
DELTA_S = 2.0
"""In which a checkpoint is committed."""
NTH = 3
"""The transaction with alerts that the fault befalls."""


def in_none() -> None:
    """The broker ends the transaction in no partition."""
    _befall(lambda producer, send, messages: send(messages, lambda _: False))


def in_none_and_some_alerts_are_missing() -> None:
    """As `in_none`, and an alert did not reach the broker: in truth the transaction was aborted."""

    def fault(producer: PythonTransactions, send: Send, messages: Sequence[Message]) -> None:
        lost = next(m for m in messages if _is_alert(m))
        send([m for m in messages if m is not lost], lambda _: False)

    _befall(fault)


def in_the_journal_alone() -> None:
    """The broker ends the transaction in the journal alone, as with the next transaction, which had no alerts."""
    _befall(lambda producer, send, messages: send(messages, lambda topic: topic.startswith("_tocsin.")))


def in_none_and_the_next_is_aborted() -> None:
    """The broker ends the transaction in no partition. The next one writes to the journal alone, and its owner dies."""

    def fault(producer: PythonTransactions, send: Send, messages: Sequence[Message]) -> None:
        send(messages, lambda _: False)
        _abort(producer, messages)

    _befall(fault)


def in_none_while_the_checkpoint_is_committed() -> None:
    """The broker ends a checkpoint's transaction in no partition. The checkpoint is in the table before its owner dies."""

    def fault(producer: PythonTransactions, send: Send, messages: Sequence[Message]) -> None:
        send(messages, lambda _: False)
        threading.Timer(DELTA_S, os.kill, (os.getpid(), signal.SIGKILL)).start()
        raise Unended

    _befall(fault, marks=True)


def in_none_while_the_checkpoint_is_committed_and_the_next_is_aborted() -> None:
    """As above, and the next transaction writes to the journal alone before its owner dies."""

    def fault(producer: PythonTransactions, send: Send, messages: Sequence[Message]) -> None:
        send(messages, lambda _: False)
        threading.Timer(DELTA_S, _abort, (producer, messages)).start()
        raise Unended

    _befall(fault, marks=True)


class Unended(Exception):
    """The transaction is over for its owner, which goes on until it is killed."""


FAULTS = {
    "in-none": in_none,
    "in-none-incomplete": in_none_and_some_alerts_are_missing,
    "in-the-journal": in_the_journal_alone,
    "in-none-and-marked": in_none_while_the_checkpoint_is_committed,
    "in-none-and-marked-then-aborted": in_none_while_the_checkpoint_is_committed_and_the_next_is_aborted,
    "in-none-then-aborted": in_none_and_the_next_is_aborted,
}
Send = Callable[[Sequence[Message], Callable[[str], bool]], None]
"""Writes messages, and ends their transaction in the topics for which the function is true."""


@contextmanager
def ended_only_in(producer: PythonTransactions, ends: Callable[[str], bool]) -> Iterator[None]:
    """Transactions of the body end only in the topics for which `ends` is true."""
    manager = producer._producer._transaction_manager
    add, may_send = manager.maybe_add_partition_to_transaction, manager.is_send_to_partition_allowed
    manager.maybe_add_partition_to_transaction = lambda tp: add(tp) if ends(tp.topic) else None
    manager.is_send_to_partition_allowed = lambda tp: may_send(tp) if ends(tp.topic) else True
    try:
        yield
    finally:
        manager.maybe_add_partition_to_transaction, manager.is_send_to_partition_allowed = add, may_send


def _befall(fault: Callable[[PythonTransactions, Send, Sequence[Message]], None], *, marks: bool = False) -> None:
    """Have a fault befall a transaction with alerts; with `marks` one that marks a checkpoint, too, and no other follows it."""
    original, seen = PythonTransactions.commit, 0

    def commit(producer: PythonTransactions, messages: Sequence[Message], positions: Any) -> None:
        nonlocal seen
        if seen > NTH:
            time.sleep(60)  # until it is killed
        befalls = any(map(_is_alert, messages)) and (bool(positions) or not marks)
        seen += befalls
        if seen < NTH or not befalls:
            return original(producer, messages, positions)

        def send(messages: Sequence[Message], ends: Callable[[str], bool]) -> None:
            with ended_only_in(producer, ends):
                original(producer, messages, {})

        time.sleep(0.5)  # a broker lets a transaction begin only when the one before has ended in all its partitions
        try:
            fault(producer, send, messages)
        except Unended:
            seen += 1
            return None
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    PythonTransactions.commit = commit  # type: ignore[method-assign]


def _abort(producer: PythonTransactions, messages: Sequence[Message]) -> None:
    """Die in a transaction that has written the next journal record alone."""
    (journal,) = [m for m in messages if m.topic.startswith("_tocsin.")]
    assert journal.key and journal.value and journal.partition is not None
    stored = orjson.loads(journal.value)
    place, first = stored.get("place", 0) + 1, stored.get("first", 0) + len(stored["items"])
    following = stored | {"version": CONTINUED, "place": place, "first": first, "items": []}
    producer._producer.begin_transaction()
    producer._producer.send(
        journal.topic,
        key=key(journal.partition, place),
        value=orjson.dumps(following),
        partition=journal.partition,
    )
    producer._producer.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alert(message: Message) -> bool:
    return message.topic.startswith("alerts.")
