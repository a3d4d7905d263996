"""State of another version: migrated by the pipeline's own hand, or rebuilt from the log, or refused in one line."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing

import numpy as np
import pyarrow as pa
from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import RecordsCorrupt, StateMismatch
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.step_buffer import StepBuffer
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.reader import Poll, RecordSource
from tocsin.pipelines.runtime.lake.snapshots import Snapshot
from tocsin.pipelines.runtime.lake.state_deltas import merged
from tocsin.pipelines.runtime.telemetry import progress

log = logging.getLogger(__name__)


def carry(
    machine: Machine, snapshot: Snapshot, positions: Mapping[int, int], config: ShardConfig, source: RecordSource
) -> None:
    """Give a machine the state that a snapshot of another `state_version` stands for. The source is elsewhere afterwards.

    Nothing of it is durable: a takeover that dies is followed by one that does the same again, until a checkpoint has the new
    version's snapshot.

    Args:
        positions: R, up to which the snapshot goes.

    Raises:
        StateMismatch: there is no way from that version, or what `migrate` gives does not fit.
    """
    p, version = machine.pipeline, snapshot.facts["state_version"]
    where = f"{p.name}/{config.shard}"
    if p.migrate:
        try:
            delta = p.migrate(version, merged(snapshot.deltas))
        except Exception as reason:  # a pipeline's own code
            raise StateMismatch(
                f"{where}: expected migrate to bring the state from version {version} to {p.state_version}, got "
                f"{' '.join(repr(reason).split())}; mend it"
            ) from reason
        if delta is not None:
            machine.migrate(delta)
            log.info(
                "%s: state of %d keys migrated from version %d to %d", where, machine.keys, version, p.state_version
            )
            return
    if not milliseconds(p.warmup):
        raise StateMismatch(
            f"{where}: expected state of version {p.state_version}, got version {version}: give the pipeline a `migrate` from "
            f"it, or set warmup (such as 2h) to rebuild the state from the log, or run version {version} again"
        )
    _rebuild(machine, config, source, positions, int(snapshot.facts["now"]))
    log.info("%s: state of %d keys rebuilt from the last %s of the log", where, machine.keys, p.warmup)


def _rebuild(machine: Machine, config: ShardConfig, source: RecordSource, until: Mapping[int, int], now: int) -> None:
    """Judge the log's last `warmup` before `until` for the state that this leaves; what it gives is dropped.

    Args:
        now: the shard's clock at `until`; on the way it goes by the log, as in any backlog.
    """
    p = machine.pipeline
    clock = max(now - milliseconds(p.warmup), 0)
    at = _since(config, p.topic, until, clock)
    source.seek(at)
    newest: dict[int, int] = {}
    buffer = StepBuffer(empty(p.schema))
    while any(at[n] < end for n, end in until.items()):
        if polled := source.poll(1000):
            for n in polled.damaged:
                if at[n] < until.get(n, 0):
                    raise RecordsCorrupt(polled.damaged[n])
            buffer.put(_before(polled, until))
        while buffer:
            batch = buffer.take(p.batch.rows)
            at |= batch.ends
            newest = batch.newest(newest, round(time.time() * 1000))
            behind = (n for n, end in until.items() if at[n] < end)
            clock = max(clock, min([now, *(newest.get(n, 0) for n in behind)]))
            machine.step(batch.table, clock, wall=max(clock, *newest.values()))  # keys are seen when the log says so
            progress.made()


def _before(polled: Poll, until: Mapping[int, int]) -> Poll:
    """The poll's rows before each partition's end."""
    partitions, offsets = (polled.table.column(n).to_numpy() for n in ("_partition", "_offset"))
    wanted = np.zeros(len(offsets), bool)
    for partition, end in until.items():
        wanted |= (partitions == partition) & (offsets < end)
    return Poll(polled.table.filter(pa.array(wanted)), (), polled.ends, polled.behind)


def _since(config: ShardConfig, topic: str, until: Mapping[int, int], ms: int) -> dict[int, int]:
    """Each partition's first offset of a time or later, at most `until`."""
    with closing(clients.consumer(config.kafka)) as consumer:
        found = consumer.offsets_for_times({TopicPartition(topic, n): ms for n in until})
    first = {tp.partition: there.offset for tp, there in found.items() if there}
    return {n: min(first.get(n, end), end) for n, end in until.items()}
