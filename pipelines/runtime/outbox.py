"""What a shard says to Kafka: alarms, dead letters, journal and lag, in one transaction."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from pipelines.runtime import clients, crash
from pipelines.runtime.alerts import Alert
from pipelines.runtime.deadletter import DeadLetter, OriginalStore, externalise
from pipelines.runtime.errors import Fenced, Unavailable
from pipelines.runtime.journal import Journal
from pipelines.runtime.lake import Lake
from pipelines.runtime.machine import Refusal
from pipelines.runtime.pipeline import Pipeline

FENCING = (ProducerFencedError, InvalidProducerEpochError)
TRANSACTION_S = 20
"""The broker aborts a transaction that is older than 15 s."""


class Outbox:
    """One shard's transactional producer.

    Guarantee: what one `commit` sends is seen by a `read_committed` consumer all or not at all, together with the journal
    record that says so; and by nobody once another process has opened the same shard's outbox. The transactional id is the
    shard's, not the worker's: a stalled worker with an id of its own could still commit.
    """

    def __init__(self, options: Mapping[str, Any], pipeline: Pipeline, shard: int, lake: Lake) -> None:
        self._pipeline, self._shard = pipeline, shard
        self._originals = OriginalStore(lake.files, "", lake.uri())
        self._producer: KafkaProducer = clients.producer(
            options, transactional_id=f"{pipeline.name}/{shard}", linger_ms=0
        )
        # Fenced in the middle of a transaction, this client would ask for a new epoch (KIP-360), which aborts its successor's.
        self._producer._transaction_manager._supports_epoch_bump = lambda: False
        with self._fencing():
            self._producer.init_transactions()

    def commit(
        self, alerts: Sequence[Alert], letters: Sequence[DeadLetter], journal: Journal, positions: Mapping[int, int]
    ) -> None:
        """Send all of it, or nothing.

        Args:
            positions: of the group that people's lag tools look at; empty: they stay, which makes an alarm 2 ms faster.

        Raises:
            Fenced: another process owns the shard now. Any other error leaves the outcome open: only a takeover can tell.
        """
        p, producer = self._pipeline, self._producer
        letters = [externalise(letter, self._originals) for letter in letters]
        with self._fencing():
            producer.begin_transaction()
            sent = [producer.send(p.alerts, key=a.key.encode(), value=a.value(), headers=a.headers()) for a in alerts]
            for d in letters:
                value = b"" if d.key is d.value is None else d.value  # the client refuses to send neither
                sent.append(producer.send(p.dead_letters, key=d.key, value=value, headers=d.headers_out()))
            sent.append(
                producer.send(p.journal, key=str(self._shard).encode(), value=journal.dump(), partition=self._shard)
            )
            crash.point("alerts.sent")
            offsets = {TopicPartition(p.topic, n): OffsetAndMetadata(o, "", -1) for n, o in positions.items()}
            self._end(offsets)
            for future in sent:
                future.get(timeout=0)

    def _end(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit, within bounds: the client waits without end, and was seen never to wake when a broker had restarted."""
        ended: Future[None] = Future()

        def end() -> None:
            try:
                if offsets:
                    self._producer.send_offsets_to_transaction(offsets, f"tocsin.{self._pipeline.name}")
                ended.set_result(self._producer.commit_transaction())
            except BaseException as reason:
                ended.set_exception(reason)

        threading.Thread(target=end, daemon=True).start()
        try:
            ended.result(TRANSACTION_S)
        except TimeoutError as reason:
            raise Unavailable(
                f"{self._pipeline.name}/{self._shard}: expected a transaction to end within {TRANSACTION_S} s, got no answer; "
                "start again"
            ) from reason

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
