"""Recovery: fence, own, read, restore, re-run. Every start of a shard goes through it, and it is the only error path."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import GAP, DeadLetter, Refusal
from tocsin.pipelines.runtime.declare.errors import (
    LakeLost,
    Lost,
    RecordsCorrupt,
    SnapshotLost,
)
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine import journal_topic, losses
from tocsin.pipelines.runtime.engine.alerts import Alert, generation
from tocsin.pipelines.runtime.engine.journal import Journal, Mark, SkipRecord, StepRecord
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.migration import carry
from tocsin.pipelines.runtime.engine.open_outputs import end_open_outputs
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.record_traces import RecordTraces
from tocsin.pipelines.runtime.engine.seed import find_seed
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import ShardPublisher, fingerprint
from tocsin.pipelines.runtime.engine.step_buffer import StepBuffer, StepInput
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.dead_letters import DeadLetterTally
from tocsin.pipelines.runtime.kafka.reader import Poll, RecordSource, TopicState
from tocsin.pipelines.runtime.lake.snapshots import Snapshot, Snapshots
from tocsin.pipelines.runtime.lake.table import ResultsTable, TableState
from tocsin.pipelines.runtime.telemetry import failpoints, progress

logger = logging.getLogger(__name__)


@dataclass
class RecoveredShard:
    """A shard after recovery: everything before A is processed, and nothing is published twice."""

    machine: Machine
    plan: Plan
    publisher: ShardPublisher
    results_table: ResultsTable
    snapshots: Snapshots
    journal: Journal
    epoch: int
    topic_id: str
    committed: Mapping[int, int]
    positions: dict[int, int]
    buffer: StepBuffer
    fresh: bool
    lag: dict[int, int]
    migrated: bool = False
    mismatches: int = 0
    """1 if the re-run gave other alerts or dead letters than had been published, else 0."""
    sequence: int = 0
    now: int = 0
    results: list[pa.RecordBatch] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    gaps: list[DeadLetter] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    dead_letters: DeadLetterTally = field(default_factory=DeadLetterTally)
    traces: RecordTraces = field(default_factory=RecordTraces)

    def put(self, poll: Poll) -> None:
        """Take up the records of a poll."""
        self.buffer.put(poll)
        self.traces.add(poll)

    def skip(self, skipped: SkipRecord, source: RecordSource) -> None:
        """Continue after skipped records. Records that were read but not processed yet are read again."""
        self.positions |= skipped.ends
        self.buffer.clear()
        source.seek(self.positions)


@dataclass(frozen=True)
class Ownership:
    """What a shard's owner works with once no other process can publish or commit for the shard.

    Args:
        log: the state of the input topic, read after the previous owner's producer was fenced.
        journal: the journal as the previous owner left it.
        lost: what the lake lacks; None: nothing.
    """

    publisher: ShardPublisher
    results_table: ResultsTable
    snapshots: Snapshots
    log: TopicState
    owned: TableState
    journal: Journal | None
    lost: LakeLost | None = None

    @classmethod
    def acquire(cls, config: ShardConfig, declared: Pipeline, source: RecordSource) -> Ownership:
        """Fence the previous owner and take ownership.

        Raises:
            LakeLost: the journal's table is gone or older than the journal, or files of it are gone, and `on_gap` is "stop".
        """
        publisher = ShardPublisher(config.kafka, declared, config.shard, config.lake)  # 1. fences the older producer
        with closed_on_error(publisher):
            failpoints.point("takeover.fenced", waits=False)
            log = source.log(config.shards)
            results_table = ResultsTable(config.lake, declared, config.shard, config.shards)
            snapshots = Snapshots(config.lake, declared.name, config.shard)
            start = log.begin if config.start == "earliest" else log.end
            # Before `own`, which would create a missing table.
            lost = None if results_table.known() else _unknown_to_lake(config, declared)
            if lost and config.on_gap == "stop":
                raise lost
            owned = results_table.own(start)  # 2. fences the older committer
            failpoints.point("takeover.owned", waits=False)
            # 3. Only now: no other process can write the journal any more.
            end_open_outputs(config, declared, publisher, owned.checkpoint)
            stored = journal_topic.newest(config.kafka, declared.journal, config.shard)
            if lost := lost or _older_table(config, declared, owned, stored):
                if config.on_gap == "stop":
                    raise lost
                # Raise the epoch above all that the journal names, so that no new checkpoint reuses an old name.
                owned = results_table.own(start, above=(stored.newest if stored else 0) >> 32)
                stored = stored and Journal(owned.checkpoint)
            if missing := losses.files_missing(
                config.lake.place(declared.folder), declared.name, results_table.absent()
            ):
                if config.on_gap == "stop":
                    raise missing
                results_table.repair()
            return cls(publisher, results_table, snapshots, log, owned, stored, lost or missing)


def _unknown_to_lake(config: ShardConfig, declared: Pipeline) -> LakeLost | None:
    """The error for a shard that has run but that its table does not know; None: this is the shard's first start."""
    stored = journal_topic.newest(config.kafka, declared.journal, config.shard)
    group = names.lag_group(declared.name)
    if stored is not None:
        known_to = f"its journal in topic {declared.journal}[{config.shard}]"
    elif clients.group_has_read(config.kafka, group, declared.topic, config.partitions):
        known_to = f"group {group}"
    else:
        return None
    return losses.table_unknown(config.lake.place(declared.folder), declared.name, config.shard, known_to)


def _older_table(config: ShardConfig, declared: Pipeline, owned: TableState, stored: Journal | None) -> LakeLost | None:
    """The error for a table that lacks the checkpoint on which the journal builds; None: the table has it."""
    place, base = config.lake.place(declared.folder), stored.base if stored else 0
    return losses.table_older(place, declared.name, config.shard, base, owned.checkpoint)


def recover(config: ShardConfig, source: RecordSource) -> RecoveredShard:
    """Become the only owner of a shard and recover it.

    Raises:
        Lost: something that recovery needs is gone, and `on_gap` is "stop".
        Fenced: another process is recovering the shard, too.
    """
    declared = config.plan.build(config.lake)
    progress.made()
    ownership = Ownership.acquire(config, declared, source)  # steps 1 to 3
    progress.made()
    with closed_on_error(ownership.publisher):
        return _resume(config, declared, ownership, source)


def _resume(config: ShardConfig, declared: Pipeline, ownership: Ownership, source: RecordSource) -> RecoveredShard:
    """Continue where the previous owner stopped: steps 4 and 5."""
    log, owned = ownership.log, ownership.owned
    if owned.epoch - (owned.checkpoint >> 32) > 1:  # what ended the last owner may lie in the log
        logger.warning("%s: its last owner ended without a checkpoint; kafka-python reads up to %s", config.id, log.end)
        source.distrust(log.end)
    # Until its first checkpoint a shadow has done nothing: it begins at the other pipeline's newest one.
    seed = find_seed(config, declared, log.topic_id) if declared.shadow_of and not owned.checkpoint else None
    if seed:
        owned = replace(owned, positions={**owned.positions, **seed.positions})
    inputs = RecoveryInputs(config, declared.topic, log, owned)
    if ownership.lost:
        inputs.handle_loss(ownership.lost, config.partitions[0], 0)
    snapshot = inputs.snapshot(ownership.snapshots)
    facts = snapshot.facts if snapshot else {"now": seed.facts["now"]} if seed else {}
    topic_id = facts.get("topic_id") or log.topic_id
    positions = inputs.positions(topic_id)  # 4.
    todo = inputs.journal(ownership.journal)
    # The code of the other version is gone, so the old plan no longer describes what ran. The journal's alerts stay
    # published.
    migrated = facts.get("state_version", declared.state_version) != declared.state_version
    plan = Plan.load(facts["plan"]) if snapshot and not migrated else config.plan
    todo.fence(plan.dump())
    machine = Machine(plan.build(config.lake), generation(facts, log.topic_id) if owned.checkpoint else "")
    if snapshot and migrated:
        carry(machine, snapshot, positions, config, source)
    elif snapshot:
        if mismatch := losses.state_mismatch(declared.name, config.shard, facts["signature"], machine.signature):
            raise mismatch
        machine.restore(snapshot.deltas)
    elif seed:
        seed.restore(machine)
    failpoints.point("takeover.restored", waits=False)
    source.seek(positions)  # 5.
    recovered = RecoveredShard(
        machine=machine,
        plan=plan,
        publisher=ownership.publisher,
        results_table=ownership.results_table,
        snapshots=ownership.snapshots,
        journal=todo,
        epoch=owned.epoch,
        topic_id=log.topic_id,
        committed=dict(positions),
        positions=positions,
        buffer=StepBuffer(empty(declared.schema)),
        fresh=not owned.checkpoint,
        lag={p: log.end[p] - position for p, position in positions.items()},
        migrated=migrated,
        now=int(facts.get("now", 0)),
        gaps=inputs.gaps,
        dead_letters=DeadLetterTally.of(facts),
        traces=RecordTraces(facts),
    )
    _rerun_journal(recovered, inputs, config, source)
    failpoints.point("takeover.rerun", waits=False)
    return recovered


def _rerun_journal(
    recovered: RecoveredShard, inputs: RecoveryInputs, config: ShardConfig, source: RecordSource
) -> None:
    """Re-run the journal's steps. Rows are kept; alerts and dead letters are already published."""
    rerun, plan = Journal(recovered.journal.base), recovered.plan
    for item in recovered.journal.items:
        if isinstance(item, Mark):
            plan = recovered.plan if recovered.migrated else Plan.load(item.plan)
            continue
        # Switch to a plan at the first step that used it. A plan that processed nothing may be one that failed to load.
        if plan != recovered.plan:
            recovered.machine.adopt(plan.build(config.lake))
            recovered.plan = plan
        if isinstance(item, StepRecord):
            ends = {p: end for p, end in item.ends.items() if end > recovered.positions[p]}
            while not recovered.buffer.covers(ends):
                for p, message in recovered.damaged.items():
                    if not recovered.buffer.covers({p: ends.get(p, -1)}):  # it was processed, and must be re-run
                        raise RecordsCorrupt(message)
                if poll := source.poll(1000):
                    recovered.put(poll)
                    recovered.damaged = dict(poll.damaged)
            batch = inputs.as_processed(recovered.buffer.take_until(ends), item)
            outcome = recovered.machine.step(batch.table, item.now, wall=item.wall)
            dead_letters: list[DeadLetter | Refusal] = [*batch.dead_letters, *outcome.refused]
            outputs: list[Alert | DeadLetter | Refusal] = [*outcome.alerts, *dead_letters]
            rerun.count_published([fingerprint(output) for output in outputs])
            recovered.dead_letters.note(dead_letters, recovered.machine.pipeline.topic, item.wall)
            recovered.results.append(outcome.results)
            recovered.files += outcome.files
            recovered.positions |= ends
            recovered.traces.prune(recovered.machine, recovered.positions)
            recovered.now = item.now
            progress.made()
        else:
            skipped = item.dead_letters(recovered.machine.pipeline.topic)
            rerun.count_published([fingerprint(dead_letter) for dead_letter in skipped])
            recovered.dead_letters.note(skipped, recovered.machine.pipeline.topic, recovered.now)
            recovered.skip(item, source)
    if (rerun.sent, rerun.digest) != (recovered.journal.sent, recovered.journal.digest):
        recovered.mismatches = 1
        logger.error(
            "%s/%d: re-ran %d steps: expected %d alerts and dead letters with digest %x, got %d with %x; those sent stay sent",
            recovered.machine.pipeline.name,
            config.shard,
            len(recovered.journal.items),
            recovered.journal.sent,
            recovered.journal.digest,
            rerun.sent,
            rerun.digest,
            extra={"pipeline": recovered.machine.pipeline.name, "shard": config.shard},
        )


class RecoveryInputs:
    """Checks what recovery finds. A loss stops recovery, or is recorded as a gap."""

    def __init__(self, config: ShardConfig, topic: str, log: TopicState, owned: TableState) -> None:
        self._config, self._topic, self._log, self._owned = config, topic, log, owned
        self.gaps: list[DeadLetter] = []

    def handle_loss(self, lost: Lost, partition: int, offset: int) -> None:
        """Raise a loss or record it as a gap, depending on `on_gap`."""
        if self._config.on_gap == "stop":
            raise lost
        place = {"topic": self._topic, "partition": partition, "offset": offset}
        logger.error("skipped: %s", lost, extra={**place, "stage": GAP, "error": type(lost).__name__})
        self.gaps.append(DeadLetter.gap(lost, self._topic, partition, offset, stage=GAP))

    def snapshot(self, snapshots: Snapshots) -> Snapshot | None:
        if not self._owned.checkpoint:
            return None
        try:
            return snapshots.read(self._owned.checkpoint)
        except SnapshotLost as lost:
            self.handle_loss(lost, self._config.partitions[0], 0)
            return None

    def positions(self, topic_id: str) -> dict[int, int]:
        """The committed offsets (R), limited to the log's range; the log's start if the topic was replaced."""
        log, topic = self._log, self._topic
        if replaced := losses.topic_replaced(topic, topic_id, log):
            self.handle_loss(replaced, self._config.partitions[0], 0)
            return dict(log.begin)
        positions: dict[int, int] = {}
        for p, position in self._owned.positions.items():
            positions[p] = min(max(position, log.begin[p]), log.end[p])
            if lost := losses.position_lost(topic, p, position, log):
                self.handle_loss(lost, p, position)
        return positions

    def journal(self, stored: Journal | None) -> Journal:
        """The journal to re-run; empty if the stored one is older than the checkpoint, incomplete, or its records are gone."""
        checkpoint, config = self._owned.checkpoint, self._config
        if stored is None and checkpoint:
            lost = losses.journal_lost(config.plan.name, config.shard, checkpoint)
            self.handle_loss(lost, config.partitions[0], 0)
        todo = (stored and stored.since(checkpoint)) or Journal(checkpoint)
        ends: Mapping[int, int] = {
            p: e for item in todo.items if isinstance(item, StepRecord) for p, e in item.ends.items()
        }
        for p, end in ends.items():
            if shorter := losses.log_shorter(self._topic, p, end, self._log):
                self.handle_loss(shorter, p, end)
                return Journal(checkpoint)
        return Journal(checkpoint) if any(g.error == "TopicReplaced" for g in self.gaps) else todo

    def as_processed(self, batch: StepInput, record: StepRecord) -> StepInput:
        """A step's input as it was when first processed. What could not be read then is left out again."""
        unread = {(partition, offset): error for partition, offset, error in record.unread}
        for p, offset, error in batch.unread:
            if (p, offset) not in unread:
                self.handle_loss(losses.source_lost(self._topic, p, offset, error), p, offset)
        if not unread and not batch.unread:
            return batch
        rest = batch.without({*unread, *((p, offset) for p, offset, _ in batch.unread)})
        dead_letters = [
            DeadLetter.of_none(self._topic, p, offset, stage="decode", error=error, message="as it was told")
            for (p, offset), error in unread.items()
        ]
        return StepInput(rest.table, [*rest.dead_letters, *dead_letters], rest.ends)
