"""Handles state of another version: the pipeline migrates it, or it is rebuilt from the log, or it is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing

from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import StateMismatch
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.stepper import LogSteps, StepClock
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.reader import RecordSource
from tocsin.pipelines.runtime.lake.snapshots import Snapshot
from tocsin.pipelines.runtime.lake.state_deltas import merged
from tocsin.pipelines.runtime.telemetry import progress

log = logging.getLogger(__name__)


def carry(
    machine: Machine, snapshot: Snapshot, positions: Mapping[int, int], config: ShardConfig, source: RecordSource
) -> None:
    """Carry the state of a snapshot of another `state_version` over to a machine. The source's position changes.

    Nothing is durable until a checkpoint has the new version's snapshot. If this recovery fails before that, the next one does
    the same again.

    Args:
        positions: the committed offsets (R), up to which the snapshot reaches.

    Raises:
        StateMismatch: the state can be neither migrated nor rebuilt, or `migrate` fails or returns state that does not fit.
    """
    p, version = machine.pipeline, snapshot.facts["state_version"]
    where = f"{p.name}/{config.shard}"
    if p.migrate:
        try:
            delta = p.migrate(version, merged(snapshot.deltas))
        except Exception as reason:  # the pipeline's own code may raise anything
            raise StateMismatch(
                f"{where}: expected migrate to convert the state from version {version} to {p.state_version}, got "
                f"{' '.join(repr(reason).split())}; correct `migrate`"
            ) from reason
        if delta is not None:
            machine.migrate(delta)
            log.info(
                "%s: state of %d keys migrated from version %d to %d", where, machine.keys, version, p.state_version
            )
            return
    if not milliseconds(p.warmup):
        raise StateMismatch(
            f"{where}: expected state of version {p.state_version}, got version {version}; give the pipeline a `migrate` from "
            f"it, or set warmup (such as 2h) to rebuild the state from the log, or run version {version} again"
        )
    _rebuild(machine, config, source, positions, int(snapshot.facts["now"]))
    log.info("%s: state of %d keys rebuilt from the last %s of the log", where, machine.keys, p.warmup)


def _rebuild(machine: Machine, config: ShardConfig, source: RecordSource, until: Mapping[int, int], now: int) -> None:
    """Rebuild the state by processing the log's last `warmup` before `until`; the output is dropped.

    Args:
        now: the shard's clock at `until`. Before that the clock follows the log, as in any backlog.
    """
    p = machine.pipeline
    clock = StepClock(max(now - milliseconds(p.warmup), 0))
    start = _since(config, p.topic, until, clock.now)
    steps = LogSteps(source, p.topic, start, rows=p.batch.rows, empty=empty(p.schema))
    for step in steps.until(until):
        backlog = {n for n, end in until.items() if steps.positions[n] < end} | steps.buffer.partitions
        at = clock.advance(step, wall=round(time.time() * 1000), limit=now, backlog=backlog)
        machine.step(step.table, at, wall=max(at, *clock.newest.values()))  # keys are seen at the log's times
        progress.made()


def _since(config: ShardConfig, topic: str, until: Mapping[int, int], ms: int) -> dict[int, int]:
    """Each partition's first offset at or after a time, at most `until`."""
    with closing(clients.consumer(config.kafka)) as consumer:
        found = consumer.offsets_for_times({TopicPartition(topic, n): ms for n in until})
    first = {tp.partition: entry.offset for tp, entry in found.items() if entry}
    return {n: min(first.get(n, end), end) for n, end in until.items()}
