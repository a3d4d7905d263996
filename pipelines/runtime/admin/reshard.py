"""Changes the number of shards: moves the state from the old shards to the new ones before any new one starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import torch
from deltalake import DeltaTable

from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Fenced
from tocsin.pipelines.runtime.engine import record_traces
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.dead_letters import DeadLetterTally
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake.delta import commit, commit_fenced
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.state_deltas import merged, redistributed
from tocsin.pipelines.runtime.lake.table import shard_count
from tocsin.pipelines.runtime.telemetry import failpoints

log = logging.getLogger(__name__)


def reshard(deployment: Deployment) -> None:
    """Move a pipeline's state to the deployment's number of shards. Its topics must exist. Does nothing if the number is the same.

    Guarantee: one Delta commit moves all state. A kill before the commit leaves everything as it was; a kill after it leaves the
    move complete. The owner of an old shard is fenced throughout: before the commit as in any recovery, after it by the epochs that
    the commit raises and by the table's new number of shards.

    Raises:
        Fenced: another process recovered an old shard meanwhile; nothing has moved.
        TocsinError: an old shard can't be recovered.
    """
    if (old_count := shard_count(deployment.lake, deployment.name)) in (0, deployment.shards):
        return
    old = list(replace(deployment, shards=old_count, alerts_partitions=0).configs(deployment.plan).values())
    # 1. Fence every owner. Nothing is left in the journal afterwards, so A = R.
    checkpoints = [_checkpoint(config) for config in old]
    failpoints.point("reshard.taken", waits=False)
    table = DeltaTable(old[0].lake.uri(deployment.name), storage_options=deployment.lake.options or None)
    _check_unchanged(table, deployment.name, checkpoints)
    name = _next_epoch(table, deployment.name) << 32 | 1
    _write(deployment, checkpoints, name)  # 2. under a name that no commit refers to yet
    failpoints.point("reshard.written", waits=False)
    for shard in range(old_count, deployment.shards):  # 3. before 4: a checkpoint must never lack its journal
        _open_journal(table, deployment, shard, checkpoints, name)
    failpoints.point("reshard.journals", waits=False)
    _commit(table, deployment, checkpoints, name)  # 4. the one atomic step
    failpoints.point("reshard.committed", waits=False)
    for shard in range(deployment.shards, old_count):  # 5. unused only now; newer ones are a successor's
        Snapshots(deployment.lake, deployment.name, shard).drop_before(name)
    log.info("%s: state moved from %d to %d shards", deployment.name, old_count, deployment.shards)


def _checkpoint(config: ShardConfig) -> int:
    """Recover a shard, commit everything and close it. Returns the checkpoint's name."""
    torch.set_num_threads(1)  # as in a worker: a re-run has to give the same results
    torch.set_flush_denormal(True)
    p = config.plan.build(config.lake)
    codec = Codec.of(p, config.formats)
    with closed_on_error(reader := Reader(config.kafka, p.topic, config.partitions, codec, p.batch.rows)):
        shard = Shard(config, reader)
        shard.close()
    facts = shard.facts()
    return int(facts["epoch"]) << 32 | int(facts["checkpoint"])


def _next_epoch(table: DeltaTable, name: str) -> int:
    """An epoch that no shard has had, not even in a failed attempt: each attempt raises the old shards' epochs."""
    epochs = [0]
    while epoch := table.transaction_version(names.epoch_id(name, len(epochs) - 1)):
        epochs.append(epoch)
    return max(epochs) + 1


def _write(deployment: Deployment, checkpoints: Sequence[int], name: int) -> None:
    """Write the new shards' snapshots."""
    snapshots = [Snapshots(deployment.lake, deployment.name, n).read(c) for n, c in enumerate(checkpoints)]
    # Take the earliest clock: with a later one, the keys of a shard that has a backlog would become inactive.
    facts = {**snapshots[0].facts, "now": min(snapshot.facts["now"] for snapshot in snapshots)}
    tally = DeadLetterTally.of(*(snapshot.facts for snapshot in snapshots))  # reported once, by the first shard
    traces = record_traces.divided([snapshot.facts for snapshot in snapshots], deployment.shards)
    for n, delta in enumerate(redistributed([merged(snapshot.deltas) for snapshot in snapshots], deployment.shards)):
        tally_facts = (tally if n == 0 else DeadLetterTally()).facts()
        Snapshots(deployment.lake, deployment.name, n).write(name, delta, facts | tally_facts | traces[n])


def _open_journal(table: DeltaTable, deployment: Deployment, shard: int, checkpoints: Sequence[int], name: int) -> None:
    """Write a first record for a shard that may have none. Old shards keep theirs, which are older than any new checkpoint."""
    with closing(
        ShardPublisher(deployment.kafka, deployment.plan.build(deployment.lake), shard, deployment.lake)
    ) as publisher:
        _check_unchanged(
            table, deployment.name, checkpoints
        )  # after the fence: a shard that runs by now must keep its own record
        publisher.send([], [], Journal(name), {})
        publisher.settle(wait=True)


def _check_unchanged(table: DeltaTable, pipeline: str, checkpoints: Sequence[int]) -> None:
    """Update the table to its newest version. Raise `Fenced` unless all old shards are as we left them."""
    table.update_incremental()
    shards = range(len(checkpoints))
    current = [table.transaction_version(names.checkpoint_id(pipeline, n)) for n in shards]
    epochs = [table.transaction_version(names.epoch_id(pipeline, n)) for n in shards]
    if current != [*checkpoints] or epochs != [c >> 32 for c in checkpoints]:
        raise Fenced(
            f"{pipeline}: expected its {len(checkpoints)} shards at checkpoints {[*checkpoints]}, got {current} with epochs "
            f"{epochs}: it runs somewhere; `tocsin stop` it there, then start it again"
        )


def _commit(table: DeltaTable, deployment: Deployment, checkpoints: Sequence[int], name: int) -> None:
    """Hand over all shards in one commit, on a version at which all old shards are as we left them. Positions stay."""
    pipeline, shards = deployment.name, deployment.shards
    txn = {names.epoch_id(pipeline, n): name >> 32 for n in range(max(len(checkpoints), shards))}
    txn |= {names.checkpoint_id(pipeline, n): name for n in range(shards)} | {names.shards_id(pipeline): shards}

    def attempt() -> None:
        _check_unchanged(table, pipeline, checkpoints)
        commit(table, [], txn)

    commit_fenced(
        attempt,
        newest=table.update_incremental,
        is_committed=lambda: table.transaction_version(names.checkpoint_id(pipeline, 0)) == name,
        what=f"{pipeline}: move its shards",
    )
