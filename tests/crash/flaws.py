"""Flaws that disable one guard of the recovery rule each, to prove that the tests notice. Applied in the shard's process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tocsin.pipelines.runtime.engine import journal, journal_topic, recovery, shard
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher
from tocsin.pipelines.runtime.kafka import clients, librdkafka
from tocsin.pipelines.runtime.lake.table import ResultsTable
from tocsin.pipelines.runtime.telemetry import failpoints

EARLY = "takeover.early"
"""A crash point that only `read_before_fence` has: the journal has been read, and the older owner is not yet fenced."""


def txn_per_worker() -> None:
    """Each process has its own transactional id, so no owner is fenced; it commits before it can notice that it was replaced."""

    def send(original: Any, publisher: ShardPublisher, *what: Any) -> None:
        original(publisher, *what)
        publisher.settle(wait=True)

    _replace(ShardPublisher, "send", send)

    def own(original: Any, options: Mapping[str, Any], **more: Any) -> Any:
        shared = {name: value for name, value in more.items() if name.replace(".", "_") == "transactional_id"}
        return original(options, **more | {name: f"{value}/{os.getpid()}" for name, value in shared.items()})

    for client in (clients, librdkafka):
        _replace(client, "producer", own)


def no_journal() -> None:
    """Recovery ignores the journal, and so what was published since the checkpoint."""
    _replace(recovery.RecoveryInputs, "journal", lambda _, found, stored: Journal(found._owned.checkpoint))


def no_marks() -> None:
    """Recovery uses a journal record only if it is based on the newest checkpoint."""
    _linger()

    def based(original: Any, found: Any, stored: Journal | None) -> Journal:
        checkpoint = found._owned.checkpoint
        return original(found, stored) if stored and stored.base == checkpoint else Journal(checkpoint)

    _replace(recovery.RecoveryInputs, "journal", based)


def no_epoch() -> None:
    """Commits do not check the epoch in the table."""
    _replace(ResultsTable, "_refresh", lambda _, sink: sink._table.update_incremental())


def fresh_commit() -> None:
    """Each commit is based on a freshly loaded table, so that it never conflicts with another owner's."""

    def fresh(original: Any, sink: Any, *commit: Any) -> None:
        sink._table.update_incremental()
        original(sink, *commit)

    _replace(ResultsTable, "_commit", fresh)


def snapshot_by_offset() -> None:
    """A checkpoint and its snapshot are named by the offsets that they reach, not by epoch and sequence."""

    def by_offset(original: Any, owner: Any) -> None:
        owner._recovered.epoch, owner._recovered.sequence = 0, sum(owner._recovered.positions.values()) - 1
        original(owner)

    _replace(Shard, "_begin_checkpoint", by_offset)


def read_before_fence() -> None:
    """Recovery reads the journal before it fences the older owner."""
    last = journal_topic.newest

    def early(original: Any, config: Any, source: Any) -> Any:
        stored = last(config.kafka, config.plan.build(config.lake).journal, config.shard)
        failpoints.point(EARLY, waits=False)
        journal_topic.newest = lambda *_: stored
        return original(config, source)

    _replace(shard, "recover", early)


def alerts_after_delta() -> None:
    """Alerts are held back until the checkpoint with their rows has been committed."""

    def publish(original: Any, owner: Any, mark: Any = None) -> None:
        kept, owner._alerts = owner._alerts, []
        if mark:
            original(owner, mark)
        owner._alerts = kept

    def settle(original: Any, owner: Any, *, wait: bool) -> None:
        flying = owner._checkpoints.in_flight
        original(owner, wait=wait)
        if flying and not owner._checkpoints.in_flight:
            say(owner)

    say = Shard._publish
    _replace(Shard, "_publish", publish)
    _replace(Shard, "_settle", settle)


def _linger() -> None:
    """Delay checkpoints, so that steps continue for a while before their commit is known."""

    def slow(original: Any, name: str, **how: Any) -> None:
        if name == "checkpoint.delta":
            time.sleep(0.3)
        original(name, **how)

    _replace(failpoints, "point", slow)


def _replace(holder: Any, name: str, new: Callable[..., Any]) -> None:
    original = getattr(holder, name)
    setattr(holder, name, lambda *args, **more: new(original, *args, **more))


def short_chains() -> None:
    """No flaw: the journal's chains have at most three records."""
    journal.CHAIN = 3


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
