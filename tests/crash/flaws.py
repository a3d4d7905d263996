"""The recovery rule with one guard left out, to see that the tests notice. Applied in the process that runs the shard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tocsin.pipelines.runtime.engine import journal, recovery, shard
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.lake.table import ResultsTable
from tocsin.pipelines.runtime.telemetry import failpoints

EARLY = "takeover.early"
"""A crash point that only `read_before_fence` has: the journal is read, the older owner not yet fenced."""


def txn_per_worker() -> None:
    """Each process has a transactional id of its own, so nobody is fenced; what it publishes is out before it can notice."""
    producer = clients.producer

    def send(original: Any, publisher: ShardPublisher, *what: Any) -> None:
        original(publisher, *what)
        publisher.settle(wait=True)

    _replace(ShardPublisher, "send", send)

    def own(options: Mapping[str, Any], **more: Any) -> Any:
        return producer(options, **more | {"transactional_id": f"{more['transactional_id']}/{os.getpid()}"})

    clients.producer = own


def no_journal() -> None:
    """What was published since the checkpoint is not known."""
    _replace(recovery.RecoveryInputs, "journal", lambda _, found, stored: Journal(found._owned.checkpoint))


def no_marks() -> None:
    """A journal record counts only for the checkpoint that it builds on."""
    _linger()

    def based(original: Any, found: Any, stored: Journal | None) -> Journal:
        checkpoint = found._owned.checkpoint
        return original(found, stored) if stored and stored.base == checkpoint else Journal(checkpoint)

    _replace(recovery.RecoveryInputs, "journal", based)


def no_epoch() -> None:
    """Nobody looks at whose epoch the table has."""
    _replace(ResultsTable, "_look", lambda _, sink: sink._table.update_incremental())


def fresh_commit() -> None:
    """Each commit is made from a freshly loaded table."""

    def fresh(original: Any, sink: Any, *commit: Any) -> None:
        sink._table.update_incremental()
        original(sink, *commit)

    _replace(ResultsTable, "_commit", fresh)


def snapshot_by_offset() -> None:
    """A checkpoint, and so its snapshot, is named by the offsets up to which it goes."""

    def by_offset(original: Any, owner: Any, batch: Any) -> None:
        owner._live.epoch, owner._live.sequence = 0, sum(owner._live.positions.values()) - 1
        original(owner, batch)

    _replace(Shard, "_begin_checkpoint", by_offset)


def read_before_fence() -> None:
    """The journal is read first, then the older owner is fenced."""
    last = journal.newest

    def early(original: Any, config: Any, source: Any) -> Any:
        stored = last(config.kafka, config.plan.build(config.lake).journal, config.shard)
        failpoints.point(EARLY, waits=False)
        journal.newest = lambda *_: stored
        return original(config, source)

    _replace(shard, "recover", early)


def alerts_after_delta() -> None:
    """Alerts are kept back until the checkpoint with their rows has landed."""

    def publish(original: Any, owner: Any, batch: Any, mark: Any = None) -> None:
        kept, owner._alerts = owner._alerts, []
        if mark:
            original(owner, batch, mark)
        owner._alerts = kept

    def settle(original: Any, owner: Any, *, wait: bool) -> None:
        flying = owner._checkpoints.in_flight
        original(owner, wait=wait)
        if flying and not owner._checkpoints.in_flight:
            say(owner, None)

    say = Shard._publish
    _replace(Shard, "_publish", publish)
    _replace(Shard, "_settle", settle)


def _linger() -> None:
    """Steps go on for a while before it is known that a checkpoint has landed."""

    def slow(original: Any, name: str, **how: Any) -> None:
        if name == "checkpoint.delta":
            time.sleep(0.3)
        original(name, **how)

    _replace(failpoints, "point", slow)


def _replace(holder: Any, name: str, new: Callable[..., Any]) -> None:
    original = getattr(holder, name)
    setattr(holder, name, lambda *args, **more: new(original, *args, **more))


FLAWS: Mapping[str, Callable[[], None]] = {
    "txn-per-worker": txn_per_worker,
    "no-journal": no_journal,
    "no-marks": no_marks,
    "no-epoch": no_epoch,
    "snapshot-by-offset": snapshot_by_offset,
    "read-before-fence": read_before_fence,
    "fresh-commit": fresh_commit,
    "alerts-after-delta": alerts_after_delta,
}
