"""A shard's life cycle: recover, step, publish, checkpoint, hand over. DESIGN, "The recovery rule", is the specification."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tocsin.pipelines.runtime.declare.dead_letter import GAP, TOO_LATE, DeadLetter, Refusal
from tocsin.pipelines.runtime.declare.durations import milliseconds, size
from tocsin.pipelines.runtime.declare.errors import RecordsCorrupt, Refused
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.checkpoint import CheckpointWriter, PendingCheckpoint
from tocsin.pipelines.runtime.engine.checkpoint_schedule import CheckpointSchedule
from tocsin.pipelines.runtime.engine.journal import SkipRecord
from tocsin.pipelines.runtime.engine.output_traces import OutputTraces
from tocsin.pipelines.runtime.engine.patient_source import PatientSource
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.plan_switch import PlanSwitch
from tocsin.pipelines.runtime.engine.recovery import RecoveredShard, recover
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.engine.shard_publisher import fingerprint
from tocsin.pipelines.runtime.engine.step_buffer import StepInput
from tocsin.pipelines.runtime.engine.stepper import StepClock
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.reader import Poll, RecordSource
from tocsin.pipelines.runtime.kafka.topics import LONG
from tocsin.pipelines.runtime.lake.retry import lake_errors_as_unavailable
from tocsin.pipelines.runtime.telemetry import failpoints, progress
from tocsin.pipelines.runtime.telemetry.logs import DeadLetterLog
from tocsin.pipelines.runtime.telemetry.spans import Span
from tocsin.pipelines.runtime.telemetry.stats import Stats

log = logging.getLogger(__name__)
TICK_MS = 500
LOOK_MS = 2
"""How often a shard looks whether the transaction that its alerts wait for has ended, ms."""
NO_KAFKA = "Kafka does not answer; retrying, nothing is lost"
JOURNAL_ITEMS = 4096
"""Journal length at which a checkpoint is due. Recovery re-runs the whole journal. Past this many items, or `LONG` bytes of
steps, a checkpoint shortens it. Past twice as many, the input waits for the checkpoint."""


class Shard:
    """The unit of placement, transaction, checkpoint and snapshot.

    Guarantee: every record's rows are in the table once, and every alert reaches a `read_committed` consumer once, whatever
    fails and whenever. Any unexpected error ends the process: recovery is the only error path.
    """

    def __init__(self, config: ShardConfig, source: RecordSource, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock
        with lake_errors_as_unavailable(config.lake):
            self._recovered: RecoveredShard = recover(config, source)
        self._source = PatientSource(source, str(config.id))
        recovered, pipeline = self._recovered, self._recovered.machine.pipeline
        self.stats, self._dead_letter_log = Stats(batch=pipeline.batch.rows), DeadLetterLog()
        self.stats.add(digest_mismatches=recovered.mismatches)
        self._traces = OutputTraces(config, pipeline, recovered.traces, self.stats.add)
        self._buffer = recovered.buffer
        self._lake_retry = recovered.publisher.lake_retry
        self._checkpoints = CheckpointWriter(recovered.results_table, recovered.snapshots, self._lake_retry)
        self._results: list[pa.RecordBatch] = [r for r in recovered.results if r.num_rows]
        self._files: list[tuple[str, bytes]] = list(recovered.files)
        self._bytes = sum(r.nbytes for r in self._results) + sum(len(content) for _, content in self._files)
        self._in_flight_rows = 0
        self._committed: Mapping[int, int] = dict(recovered.committed)
        self._in_flight_offsets: Mapping[int, int] = {}
        self._alerts = list[Alert]()
        self._publishing = 0  # alerts in a transaction that has not ended
        self._stamps = list[np.ndarray]()  # Kafka's, of the readings whose alerts no transaction has taken up yet
        self._dead_letters: list[DeadLetter] = list(recovered.gaps)
        self._step_clock = StepClock(recovered.now)
        self._lag = recovered.lag
        self._damaged: dict[int, str] = {}
        self._skip_damaged(recovered.damaged)
        self._advanced = bool(self._results)
        self._schedule = CheckpointSchedule()
        self._progress = progress.followed()
        self._switch = PlanSwitch(config.lake)
        if config.plan != recovered.plan:
            self._switch.to(config.plan)
        failpoints.in_flight = lambda: (self._uncommitted, len(self._alerts) + self._publishing)
        self._waits_for_lake, self._stepped_at = False, 0.0
        if (
            recovered.fresh
            or recovered.gaps
            or recovered.migrated
            or self._switch.is_requested
            or self._is_journal_long(1)
        ):
            # Commit the start, gap, new state or plan before anything builds on it. A long journal must not grow.
            with lake_errors_as_unavailable(config.lake), closed_on_error(self._checkpoints, recovered.publisher):
                self.checkpoint()
        self._lake_retry.patient = True
        failpoints.point("takeover.live", waits=False)

    def run(self, stop: threading.Event) -> None:
        """Run steps until `stop` is set, then commit and close.

        Raises:
            RecordsCorrupt: the log is damaged; everything before the damage is committed.
            Refused: the log can't be read until a person changes something; everything that was read is committed.
        """
        try:
            while not stop.is_set():
                self.turn()
        except (RecordsCorrupt, Refused):
            self.close()
            raise
        self.close()

    def turn(self) -> None:
        """Run one step, and begin a checkpoint if one is due."""
        progress.made()
        self._recovered.publisher.settle(wait=False)
        self._settle(wait=False)
        batch = self._gather()
        self._step(batch)
        self._stamps.append(batch.stamps)
        if self._recovered.machine.pipeline.overload == "latest":
            self._keep_up()
        due = self._due()
        if due and not self._checkpoints.in_flight:
            self._begin_checkpoint()
        elif self._alerts or self._dead_letters:
            self._publish_soon()
        else:
            self._note_latency(self._stamps)
            self._stamps = []
        if due == "full":  # the writer is behind: hold back the input to bound memory
            self._waits_for_lake = True
            self._settle(wait=True)
            self._waits_for_lake = False

    def checkpoint(self) -> None:
        """Take a checkpoint now and wait for it, and for a plan that it switches to."""
        self._settle(wait=True)
        self._switch.wait()
        self._begin_checkpoint()
        self._settle(wait=True)

    def change(self, plan: Plan) -> None:
        """Switch to another model, rules or options at the first checkpoint after the model is loaded."""
        self._switch.to(plan)

    def close(self) -> None:
        """Take a last checkpoint, then release all resources."""
        self.checkpoint()
        self._checkpoints.close()
        self._recovered.publisher.close()
        self._traces.close()
        self._source.close()

    def abandon(self) -> None:
        """Release all resources without a commit. The next owner processes again what is not committed."""
        self._checkpoints.close()
        self._source.close()
        self._traces.close()
        self._recovered.publisher.close()

    def facts(self) -> dict[str, Any]:
        """What `tocsin status` shows of the shard; called from another thread.

        `turn_s`: seconds since the shard last made progress: a step, or a part of a large snapshot. 0 while it waits for Kafka, a
        registry or the lake.
        """
        recovered = self._recovered
        kafka = self._source.why or (NO_KAFKA if recovered.publisher.patience.waiting else "")
        lake = self._lake_retry.why
        source = "a registry" if self._source.undecoded else "Kafka"
        waits_for = source if kafka else "the lake" if lake or self._waits_for_lake else ""
        return {
            "epoch": recovered.epoch,
            "checkpoint": recovered.sequence,
            "topic": recovered.machine.pipeline.topic,
            "read": dict(recovered.positions),  # A
            "committed": dict(self._committed),  # R
            "model": recovered.machine.pipeline.model_version,
            "uncommitted_rows": self._uncommitted,
            "commit_every_s": milliseconds(recovered.machine.pipeline.commit.every) / 1000,
            "clock_lag_s": max(self._clock() - now / 1000, 0.0) if (now := self._step_clock.now) else 0.0,
            "turn_s": 0.0 if waits_for else round(self._progress.quiet_s, 1),
            "waits_for": waits_for,
            "outage": kafka or lake,  # why it waits; empty if the lake is only slow
            "damaged": dict(self._damaged),  # partition -> why it is not read
            "digest_mismatches": recovered.mismatches,  # of its recovery
            **recovered.dead_letters.facts(),
        }

    @property
    def _uncommitted(self) -> int:
        return sum(r.num_rows for r in list(self._results)) + self._in_flight_rows

    def _gather(self) -> StepInput:
        """Collect the next step's input: a full batch, or what came before the step is due, or no rows (a tick)."""
        batch, deadline = self._recovered.machine.pipeline.batch, None
        earliest = self._stepped_at + milliseconds(batch.wait) / 1000
        if not self._buffer and not any(self._lag.values()):  # what comes until then is one poll, not many
            time.sleep(min(max(earliest - time.monotonic(), 0), TICK_MS / 1000))
        while self._buffer.rows < batch.rows:
            now = time.monotonic()
            if self._buffer and deadline is None:
                deadline = max(now, earliest)
            remaining_ms = TICK_MS if deadline is None else max((deadline - now) * 1000, 0)
            try:
                if (poll := self._source.poll(round(remaining_ms))) is None:  # 0: take what is there already
                    break
            except (RecordsCorrupt, Refused):
                if self._buffer:
                    break  # first process what precedes it
                raise
            self._put(poll)
        if self._buffer:
            self._stepped_at = time.monotonic()
        self._schedule.note_read(pending=self._buffer.rows, lag=sum(self._lag.values()), batch=batch.rows)
        return self._buffer.take(batch.rows)

    def _put(self, poll: Poll) -> None:
        self._recovered.put(poll)
        self._lag |= poll.behind
        self._skip_damaged(poll.damaged)
        self.stats.gauges["behind"] = sum(self._lag.values())

    def _skip_damaged(self, damaged: Mapping[int, str]) -> None:
        """Continue without partitions that can't be read.

        They count as having no backlog, so they do not hold back the clock, and none of their records are skipped to keep up.
        """
        for p, line in damaged.items():
            self._lag.pop(p, None)
            if p not in self._damaged:
                log.error("%s", line, extra={"topic": self._recovered.machine.pipeline.topic, "partition": p})
        self._damaged = dict(damaged)
        self.stats.gauges["damaged"] = len(damaged)

    def _step(self, batch: StepInput) -> None:
        recovered, started = self._recovered, time.monotonic()
        wall = round(self._clock() * 1000)
        backlog = {p for p, records in self._lag.items() if records} | self._buffer.partitions
        if self._source.undecoded:  # the clock stands still: keys whose readings cannot be decoded are not inactive
            backlog |= {*recovered.positions}
        now = self._step_clock.advance(batch, wall=wall, limit=wall, backlog=backlog)
        outcome = recovered.machine.step(batch.table, now, wall=wall)
        if batch.ends or outcome.changed:
            recovered.journal.add_step(now, batch.ends, wall, batch.unread)
            self._advanced = True
        recovered.positions |= batch.ends
        if outcome.results.num_rows:
            self._results.append(outcome.results)
            self._bytes += outcome.results.nbytes
        self._files += outcome.files
        self._bytes += sum(len(content) for _, content in outcome.files)
        self._alerts += self._traces.given(outcome.alerts)
        dead_letters = [*batch.dead_letters, *self._refused(outcome.refused)]
        self._dead_letters += dead_letters
        self._dead_letter_log.note(dead_letters)
        self._traces.refused(dead_letters)
        recovered.traces.prune(recovered.machine, recovered.positions)
        self.stats.add(
            steps=1 if batch.ends else 0,
            rows=batch.table.num_rows,
            results=outcome.results.num_rows,
            alerts=len(outcome.alerts),
            dead_letters=len(dead_letters),
            late=sum(letter.error == TOO_LATE for letter in dead_letters),
            step_busy_ms=round((time.monotonic() - started) * 1000),
            **outcome.counts,
        )
        self.stats.tally(outcome.tallies)
        self.stats.gauges |= {"keys": recovered.machine.keys, "keys_on_two_partitions": recovered.machine.key_clashes}

    def _keep_up(self) -> None:
        """Skip to the end of partitions that lag by more than `max_lag`."""
        recovered, wall = self._recovered, self._clock() * 1000
        oldest = wall - milliseconds(recovered.machine.pipeline.max_lag)
        late = [p for p, records in self._lag.items() if records and self._step_clock.newest.get(p, wall) < oldest]
        if not late:
            return
        end = self._source.log(self._config.shards).end
        starts = {p: recovered.positions[p] for p in late if end[p] > recovered.positions[p]}
        skipped = SkipRecord(starts, {p: end[p] for p in starts})
        dead_letters = skipped.dead_letters(recovered.machine.pipeline.topic)
        for dead_letter in dead_letters:
            log.warning("%s", dead_letter)
        self._dead_letters += dead_letters
        recovered.journal.add_skip(skipped)
        recovered.skip(skipped, self._source)
        self._lag |= dict.fromkeys(late, 0)
        self.stats.add(skipped=sum(end[p] - start for p, start in starts.items()))

    def _refused(self, refusals: Sequence[Refusal]) -> list[DeadLetter]:
        """Dead letters for what a stage refused, with the original records fetched from the log again."""
        if not refusals:
            return []
        offsets: dict[int, list[int]] = {}
        for r in refusals:
            offsets.setdefault(r.partition, []).append(r.offset)
        found = {(o.partition, o.offset): o for o in self._source.originals(offsets)}
        return [
            DeadLetter.of(found[r.partition, r.offset], row=r.row, stage=r.stage, error=r.error, message=r.message)
            for r in refusals
        ]

    def _due(self) -> Literal["", "now", "full"]:
        """Whether a checkpoint is due: by size, because the journal has grown long, or by its schedule."""
        limit = size(self._recovered.machine.pipeline.commit.size)
        if self._bytes >= 2 * limit or self._is_journal_long(2):
            return "full"
        if self._bytes >= limit or self._is_journal_long(1):
            return "now"
        every = milliseconds(self._recovered.machine.pipeline.commit.every) / 1000
        has_news = self._advanced or self._switch.is_ready
        return "now" if has_news and self._schedule.is_due(every, has_rows=bool(self._results)) else ""

    def _is_journal_long(self, factor: int) -> bool:
        """Whether the journal has reached `factor` times the length at which a checkpoint is due."""
        journal = self._recovered.journal
        return len(journal.items) >= factor * JOURNAL_ITEMS or journal.size >= factor * LONG

    def _publish_soon(self) -> None:
        """Publish once the transaction before has ended. If there is a step to do meanwhile, publish after that step."""
        while self._recovered.publisher.busy:
            if self._buffer:
                return
            progress.made()
            if poll := self._source.poll(LOOK_MS):
                self._put(poll)
            self._recovered.publisher.settle(wait=False)  # a transaction that hangs is given up
        failpoints.point("alerts.begin")
        self._publish()

    def _publish(self, mark: tuple[int, str] | None = None) -> None:
        """Publish pending alerts and dead letters in one transaction. The next step need not wait for it."""
        recovered = self._recovered
        alerts, dead_letters, self._alerts, self._dead_letters = self._alerts, self._dead_letters, [], []
        stamps, self._stamps = self._stamps, []
        recovered.dead_letters.note(dead_letters, recovered.machine.pipeline.topic, round(self._clock() * 1000))
        rerunnable = [d for d in dead_letters if d.stage != GAP]  # recovery detects a gap anew, it does not re-run it
        recovered.journal.count_published([*map(fingerprint, alerts), *map(fingerprint, rerunnable)])
        if mark:
            recovered.journal.mark(*mark)
        point = "checkpoint.marked" if mark else "alerts.committed"
        on_committed = partial(self._on_committed, stamps, self._traces.taken(), point)
        self._publishing = len(alerts)
        recovered.publisher.send(
            alerts, dead_letters, recovered.journal, recovered.positions if mark else {}, on_committed
        )

    def _begin_checkpoint(self) -> None:
        """Begin a checkpoint: perform step 1 here, and 2 to 5 in the background. Switch to the next plan if it is built."""
        recovered = self._recovered
        plan, next_pipeline = self._switch.take() or (recovered.plan, None)
        if next_pipeline:
            recovered.machine.check(next_pipeline)
            recovered.results_table.check(next_pipeline.table)
        recovered.sequence += 1
        name = recovered.epoch << 32 | recovered.sequence
        failpoints.point("checkpoint.begin")
        self._publish((name, plan.dump()))  # 1. alerts first: they may be ahead of results, never behind
        recovered.publisher.settle(wait=True)
        reshaped = recovered.machine.adopt(next_pipeline) if next_pipeline else False
        recovered.plan = plan
        delta = recovered.machine.delta(full=reshaped or recovered.snapshots.full_next)
        facts = {
            "topic_id": recovered.topic_id,
            "generation": recovered.machine.generation,
            "plan": plan.dump(),
            "signature": recovered.machine.signature,
            "state_version": recovered.machine.pipeline.state_version,
            "now": self._step_clock.now,
            **recovered.dead_letters.facts(),
            **recovered.traces.facts(recovered.machine),
        }
        results, files = self._results, self._files
        self._results, self._files, self._bytes = [], [], 0
        self._in_flight_offsets, self._in_flight_rows = dict(recovered.positions), sum(r.num_rows for r in results)
        self._checkpoints.start(PendingCheckpoint(name, delta, results, files, self._in_flight_offsets, facts))
        self._advanced = False
        self._schedule.begin(has_rows=bool(results))

    def _on_committed(self, stamps: Sequence[np.ndarray], spans: Sequence[Span], point: str) -> None:
        """Handle a committed transaction; called in the publisher's thread."""
        failpoints.point(point)
        self._traces.end(spans)
        self._publishing = 0
        self._note_latency(stamps)

    def _note_latency(self, stamps: Sequence[np.ndarray]) -> None:
        """Record the end-to-end latency of readings whose alerts are published, by Kafka's timestamps."""
        if len(known := np.concatenate([*stamps, np.zeros(0)])):
            self.stats.latency(np.maximum(self._clock() * 1000 - known, 0))

    def _settle(self, *, wait: bool) -> None:
        """Register a newly committed checkpoint: from now on the journal builds on it."""
        if written := self._checkpoints.poll(wait=wait):
            self._recovered.journal.rebase(written.name)
            self._committed, self._in_flight_rows = self._in_flight_offsets, 0
            self.stats.add(checkpoints=1, undeleted=written.undeleted, commit_ms=round(written.seconds * 1000))
