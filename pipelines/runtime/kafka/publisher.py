"""What a shard says to Kafka: alarms, dead letters, journal and lag, in one transaction."""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tocsin.pipelines.runtime.declare.errors import Fenced, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.journal import LARGEST, Journal
from tocsin.pipelines.runtime.engine.machine import Refusal
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.dead_letters import DeadLetter, OriginalStore, externalise
from tocsin.pipelines.runtime.kafka.topics import restore_outputs
from tocsin.pipelines.runtime.lake.retry import LakeWaits
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry import failpoints as crash

FENCING = (ProducerFencedError, InvalidProducerEpochError)
LOOK_S = 0.5
TRANSACTION_S = 20
"""The broker aborts a transaction that is older than 15 s."""


class Outbox:
    """One shard's transactional producer.

    Guarantee: what one `send` takes is seen by a `read_committed` consumer all or not at all, together with the journal
    record that says so; and by nobody once another process has opened the same shard's outbox. The transactional id is the
    shard's, not the worker's: a stalled worker with an id of its own could still commit.
    """

    def __init__(self, options: Mapping[str, Any], pipeline: Pipeline, shard: int, lake: Lake) -> None:
        self._pipeline, self._shard = pipeline, shard
        self._flight: Future[None] | None = None
        self._give_up = 0.0
        self.unsaid = 0
        """Alarms in a transaction that has not ended."""
        self.patience = clients.Patience(options)
        self.lake_waits = LakeWaits(lake)
        self._originals = OriginalStore(lake.files, "", lake.place())
        restore_outputs(options, pipeline)
        self._producer: KafkaProducer = clients.producer(
            options, transactional_id=f"{pipeline.name}/{shard}", linger_ms=0, max_request_size=2 * LARGEST
        )
        with closed_on_error(self), self._fencing():
            self._producer.init_transactions()

    def send(
        self,
        alerts: Sequence[Alert],
        letters: Sequence[DeadLetter],
        journal: Journal,
        positions: Mapping[int, int],
        said: Callable[[], None],
    ) -> None:
        """Begin a transaction with all of it, beside the steps; `settle` tells how it ended. One at a time.

        Args:
            positions: of the group that people's lag tools look at; empty: they stay, which makes an alarm 2 ms faster.
            said: called once it is committed, in another thread.
        """
        self.settle(wait=True)
        record, self._flight, self.unsaid = journal.dump(), Future(), len(alerts)
        self._give_up = math.inf  # until the transaction begins: to store large originals may take long
        flight = self._flight

        def run() -> None:
            try:
                stored = self.lake_waits.through(lambda: [externalise(letter, self._originals) for letter in letters])
                self._give_up = time.monotonic() + TRANSACTION_S
                self._commit(alerts, stored, record, positions, said)
            except BaseException as reason:
                flight.set_exception(reason)
            else:
                self.unsaid = 0
                flight.set_result(None)

        # A daemon: one that hangs must not hold the process back.
        threading.Thread(target=copy_context().run, args=(run,), name="outbox", daemon=True).start()

    def settle(self, *, wait: bool) -> None:
        """See how the transaction ended, if there is one and it has, or `wait` for it.

        Raises:
            Fenced: another process owns the shard now. Any other error leaves the outcome open: only a takeover can tell.
        """
        left = self._give_up - time.monotonic()
        if self._flight is None or not (wait or self._flight.done() or left <= 0):
            return
        while True:
            try:  # within bounds: the client waits without end, and was seen never to wake when a broker had restarted
                self._flight.result(min(max(self._give_up - time.monotonic(), 0), LOOK_S))
                break
            except TimeoutError as reason:
                if time.monotonic() < self._give_up:
                    continue
                if not self.patience.lasts():  # a takeover would have to wait, too
                    raise Unavailable(
                        f"{self._pipeline.name}/{self._shard}: expected a transaction to end within {TRANSACTION_S} s, "
                        "got no answer; start again"
                    ) from reason
                self._give_up = time.monotonic() + TRANSACTION_S
        self._flight, self.patience.waiting = None, False

    def _commit(
        self,
        alerts: Sequence[Alert],
        letters: Sequence[DeadLetter],
        record: bytes,
        positions: Mapping[int, int],
        said: Callable[[], None],
    ) -> None:
        p, producer = self._pipeline, self._producer
        with self._fencing():
            producer.begin_transaction()
            sent = [producer.send(p.alerts, key=a.key.encode(), value=a.value(), headers=a.headers()) for a in alerts]
            for d in letters:
                value = b"" if d.key is d.value is None else d.value  # the client refuses to send neither
                sent.append(producer.send(p.dead_letters, key=d.key, value=value, headers=d.headers_out()))
            sent.append(producer.send(p.journal, key=str(self._shard).encode(), value=record, partition=self._shard))
            crash.point("alerts.sent")
            if positions:
                offsets = {TopicPartition(p.topic, n): OffsetAndMetadata(o, "", -1) for n, o in positions.items()}
                producer.send_offsets_to_transaction(offsets, f"tocsin.{p.name}")
            producer.commit_transaction()
            for future in sent:
                future.get(timeout=0)
        said()

    @contextmanager
    def _fencing(self) -> Iterator[None]:
        """Tell fencing from other errors; the client names it in the text alone when it notices in a later call."""
        try:
            yield
        except KafkaError as reason:
            if isinstance(reason, FENCING) or any(kind.__name__ in str(reason) for kind in FENCING):
                raise Fenced(
                    f"{self._pipeline.name}/{self._shard}: expected to own the shard, got {reason!r}: another process took it "
                    "over, or this one stalled for longer than a transaction may"
                ) from reason
            raise

    def close(self) -> None:
        """Close the connection."""
        self._producer.close(timeout=5)


def fingerprint(said: Alert | DeadLetter | Refusal) -> int:
    """64 bits by which a takeover checks that it would say the same again."""
    if isinstance(said, Alert):
        return int(said.id[:16], 16)
    place = f"{said.partition}/{said.offset}/{said.row}/{said.stage}/{said.error}".encode()
    return zlib.crc32(place) << 32 | zlib.crc32(place[::-1])
