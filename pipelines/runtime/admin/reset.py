"""Resets a stopped pipeline: it drops all state and continues from other positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import generation
from tocsin.pipelines.runtime.engine.journal import Journal
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.recovery import Ownership
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake.table import start_over
from tocsin.pipelines.runtime.telemetry import failpoints

To = Literal["earliest", "latest"] | int
"""Where to continue: at an end of the log, or at a time in ms since the epoch."""


@dataclass(frozen=True)
class Reset:
    """What a reset did.

    Args:
        positions: each partition's next offset.
        deleted: number of rows deleted from the table; None: unknown, because the commit's reply was lost.
    """

    positions: Mapping[int, int]
    deleted: int | None


def reset(configs: Sequence[ShardConfig], to: To) -> Reset:
    """Have all shards of a pipeline start over: without state, with the configs' plan, from the given positions.

    Guarantee: rows of records from these positions on are deleted in the commit that moves the positions. So the table holds
    each record's rows once, even if this process dies at any point. Before that commit nothing changes. A shard that still runs is
    fenced. Published alerts and dead letters stay. Records that are processed again publish theirs again, alerts with the same ids.

    Args:
        configs: of every shard.

    Raises:
        Fenced: another process has recovered a shard meanwhile; nothing has changed.
    """
    declared = configs[0].plan.build(configs[0].lake)
    codec = Codec.of(declared, configs[0].formats)
    partitions = [p for config in configs for p in config.partitions]
    with ExitStack() as stack:
        reader = stack.enter_context(
            closing(Reader(configs[0].kafka, declared.topic, partitions, codec, max_records=1))
        )
        ownerships = []
        for config in configs:  # 1. Fence: no other process can publish or commit from here on.
            ownerships.append(Ownership.acquire(config, declared, reader))
            stack.callback(ownerships[-1].publisher.close)
        failpoints.point("reset.owned", waits=False)
        log = ownerships[-1].log
        positions = {"earliest": log.begin, "latest": log.end}[to] if isinstance(to, str) else reader.at(to)
        for config, ownership in zip(configs, ownerships, strict=True):
            # 2. Write the journal unchanged. It stays valid until 4 commits a checkpoint that it does not name.
            journal = ownership.journal or Journal(ownership.owned.checkpoint)
            ownership.publisher.send([], [], journal, {p: positions[p] for p in config.partitions})
            ownership.publisher.settle(wait=True)
        failpoints.point("reset.said", waits=False)
        machine = Machine(declared)
        facts = {
            "topic_id": log.topic_id,
            "generation": generation(_facts(ownerships), log.topic_id) if ownerships[0].owned.checkpoint else "",
            "plan": configs[0].plan.dump(),
            "signature": machine.signature,
            "now": 0,  # the clock starts over, too
        }
        owners = [(ownership.results_table, ownership.owned.epoch << 32 | 1) for ownership in ownerships]
        for ownership, (_, name) in zip(ownerships, owners, strict=True):
            # 3. Before 4: a committed checkpoint must never lack its snapshot.
            ownership.snapshots.write(name, machine.delta(full=True), facts)
        failpoints.point("reset.snapshot", waits=False)
        deleted = start_over(owners, positions, _rows(declared, positions, to))  # 4. the one atomic step
        failpoints.point("reset.delta", waits=False)
    return Reset(positions, deleted)


def _facts(ownerships: Sequence[Ownership]) -> Mapping[str, Any]:
    """The facts in the first shard's snapshot; empty if the snapshot is lost."""
    try:
        facts: Mapping[str, Any] = ownerships[0].snapshots.manifest(ownerships[0].owned.checkpoint)["facts"]
    except FileNotFoundError:
        return {}
    return facts


def _rows(declared: Pipeline, positions: Mapping[int, int], to: To) -> str:
    """SQL condition for the rows of records from these positions on. A timer's row has only its event time."""
    conditions = [f'(partition = {p} AND "offset" >= {position})' for p, position in positions.items()]
    if to != "latest":
        timer_rows = f'partition IN ({", ".join(map(str, positions))}) AND "offset" IS NULL'
        since = f" AND event_time >= '{datetime.fromtimestamp(to / 1000, UTC).isoformat()}'" if to != "earliest" else ""
        conditions.append(f"({timer_rows}{since})")
    return f"topic = '{declared.topic}' AND {_any(conditions)}"


def _any(conditions: Sequence[str]) -> str:
    """Join conditions by OR, as a tree. A long flat chain overflows the stack of Delta's engine (3,000 partitions: killed)."""
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_any(conditions[:half])} OR {_any(conditions[half:])})"
