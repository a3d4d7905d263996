"""The Supervisor places shards on workers, replaces workers that die or stall, and scales them. Only it talks to MLflow."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from tocsin.pipelines.runtime.control.added_partitions import AddedPartitions
from tocsin.pipelines.runtime.control.alert_sinks import Delivery, SinkConfig
from tocsin.pipelines.runtime.control.assessment import Assessor
from tocsin.pipelines.runtime.control.context_watch import ContextWatch
from tocsin.pipelines.runtime.control.deployment import ALERTS, Deployment
from tocsin.pipelines.runtime.control.desired_state import DesiredState
from tocsin.pipelines.runtime.control.draining import drain, workers
from tocsin.pipelines.runtime.control.health import CommitAges, Health, problems
from tocsin.pipelines.runtime.control.placement import Autoscaler, place_shards
from tocsin.pipelines.runtime.control.ray_client import NAMESPACE
from tocsin.pipelines.runtime.control.recurring import recurring
from tocsin.pipelines.runtime.control.worker import Status
from tocsin.pipelines.runtime.control.worker_slot import Ended, WorkerSlot, start_worker
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import TocsinError
from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard_config import ShardId
from tocsin.pipelines.runtime.telemetry import logs
from tocsin.pipelines.runtime.telemetry.metrics import Metrics
from tocsin.pipelines.runtime.telemetry.process import begin
from tocsin.pipelines.runtime.telemetry.stats import Window

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline

log = logging.getLogger(__name__)
BEAT_S, MIN_BEAT_S = 0.5, 0.02
ADOPT_S = 10.0
SETTLE_S, LATE_S = 1.0, 30.0
"""Deferred parts start `SETTLE_S` after all shards run, and at the latest `LATE_S` after the supervisor started."""
REPORT_S = 10.0
"""A worker that reports why it ends dies within this time."""
CONTEXT_S = 1.0
"""How often to look for new context."""
PARTITIONS_S = 5.0
"""How often to look for added partitions."""


class Supervisor:
    """Runs as a detached Ray actor. It holds no durable state: after a restart it finds living workers by name and adopts them.

    Guarantee: it may start a second owner for a shard whose first owner only seems dead. Fencing makes that safe.
    """

    def __init__(self, deployment: Deployment) -> None:
        d = self._deployment = deployment
        begin(d.env, pipeline=d.name)
        self._desired = DesiredState(d.lake, d.id, d.plan, context=bool(d.context))
        self._context = ContextWatch(d, self._desired)
        self._slots = [WorkerSlot(names.worker_slot(d.name, n)) for n in range(d.scaling.most + 1)]
        self._shadow_slot = d.scaling.most  # a worker of its own: a challenger delays no alert
        self._scaler = Autoscaler(d.scaling, d.scaling.least)
        self._placement: dict[ShardId, int] = {}
        self._statuses: dict[ShardId, tuple[Status, str]] = {}
        self._stop, self._stopping = threading.Event(), threading.Lock()
        self._drained: bool | None = None
        self._adopted, self._end_reports = False, dict[str, tuple[float, str]]()
        self._partitions = AddedPartitions(d)
        self._tracking: Any = None  # later, see `_start_deferred`
        self._created_at = self._last_starting = time.monotonic()
        self._started = False
        self._windows: dict[int, Window] = {}
        self._deliveries: list[Delivery] = []
        self._assessor = Assessor(d, self._desired)
        self._commits, self._metrics, self._health = CommitAges(), Metrics(d.name), Health(d.name, *d.health)
        self._thread = recurring(f"{d.name}/supervise", self._tick, self._pause)
        if d.follows and d.tracking:
            recurring(f"{d.name}/follow", self._follow, lambda: self._stop.wait(d.follow_s))
        if d.context:
            recurring(f"{d.name}/context", self._look, lambda: self._stop.wait(CONTEXT_S))
        recurring(f"{d.name}/partitions", self._count_partitions, lambda: self._stop.wait(PARTITIONS_S))
        if d.assess_ms:
            recurring(f"{d.name}/assess", self._assess, lambda: self._stop.wait(d.assess_ms / 1000))
        if every_ms := milliseconds(d.compact[0]):
            recurring(f"{d.name}/compact", self._compact, lambda: self._stop.wait(every_ms / 1000))

    def status(self) -> dict[str, Any]:
        """The deployment as `tocsin status` shows it."""
        restarts = {slot.name: slot.restarts for slot in self._slots}
        shards = [
            {
                **asdict(status),
                **status.id._asdict(),
                "worker": worker,
                "restarts": restarts[worker],
                "unread": self._partitions.unread(status),
                "uncommitted_s": self._commits.age(status.id, status.facts),
            }
            for _, (status, worker) in sorted(self._statuses.items())
        ]
        own_shards = [shard for shard in shards if shard["pipeline"] == self._deployment.name]
        return {
            "pipeline": self._deployment.name,
            "workers": sum(slot.actor is not None for slot in self._slots),
            "restarts": sum(restarts.values()),
            "paused": self._desired.paused,
            "silences": dict(self._desired.plan.silences),
            "tracking": self._tracking.run_id if self._tracking else None,
            "shards": own_shards,
            "landing": [shard for shard in shards if shard["pipeline"] != self._deployment.name],
            "scores": self._assessor.scores,
            "drift": self._assessor.drift,
            "sinks": [delivery.status() for delivery in self._deliveries],
            "problems": problems(self._deployment.shards, own_shards),
        }

    def pause(self, paused: bool = True) -> None:
        """Pause or resume all shards. A shard commits before it pauses; a refused shard retries."""
        self._desired.pause(paused)
        self._retry()

    def change(self, plan: Plan) -> None:
        """Switch all shards to another plan, each at its next checkpoint. A refused shard retries with it.

        Raises:
            TocsinError: the plan does not fit; see `DesiredState.change`.
        """
        self._desired.change(plan)
        self._announce()
        self._retry()

    def silence(self, asset: str, until: int) -> None:
        """Mute an asset until a time, ms since the epoch. Each shard applies it from its next checkpoint."""
        self._desired.silence(asset, until)
        self._announce()

    def ends(self, worker: str, why: str) -> None:
        """Record why a worker is about to end itself. The worker calls this."""
        self._end_reports[worker.rpartition("/")[0]] = time.monotonic(), why

    def forget(self, asset: str) -> None:
        """Delete an asset's state. Each shard does so at its next checkpoint."""
        self._desired.forget(asset)
        self._announce()

    def stop(self, timeout: float = 60) -> bool:
        """Drain: every shard commits and stops. Returns whether all did in time; later calls return the same."""
        with self._stopping:
            if self._drained is None:
                self._stop.set()
                self._thread.join()
                failures = drain(self._deployment.name, timeout)  # by name: they may not be adopted yet
                for worker, why in failures.items():
                    log.warning("%s did not stop its shards: %s", worker, why)
                for delivery in self._deliveries:
                    delivery.close()
                if self._tracking:
                    self._tracking.end("FINISHED")
                    self._tracking.close()
                self._drained = not failures
            return self._drained

    def _announce(self) -> None:
        for slot in self._slots:
            for plan in (self._desired.plan, self._desired.shadow):
                if plan and (actor := slot.actor):
                    actor.change.remote(plan)  # the successor of a worker that dies starts with it

    def _retry(self) -> None:
        for slot in self._slots:
            for shard, state in list(slot.shards.items()):
                if state == ShardState.REFUSED and (actor := slot.actor):
                    actor.release.remote(shard)

    def _pause(self) -> bool:
        """Wait for the next round, or until a worker dies. Returns whether the supervisor is stopping."""
        calls = [slot.liveness for slot in self._slots if slot.actor] if self._adopted else []
        if calls:
            ray.wait(calls, timeout=BEAT_S)
            self._stop.wait(MIN_BEAT_S)
        elif self._adopted:
            self._stop.wait(BEAT_S)
        return self._stop.is_set()

    def _tick(self) -> None:
        if not self._adopted:
            self._adopt()
            self._adopted = True
        for slot in self._slots:
            self._reconcile(slot)
        self._start_deferred()
        self._scale()
        self._release_for_new_partitions()
        self._place()
        windows, self._windows, status = self._windows, {}, self.status()
        self._assessor.add(windows.values())
        self._health.beat(status)
        self._metrics.export(status, windows)
        if self._tracking and windows:
            self._tracking.log(windows)

    def _start_deferred(self) -> None:
        """Start the deferred parts once the pipeline's own shards have recovered and `SETTLE_S` has passed.

        MLflow and the shard that writes the alerts take seconds of CPU, which would delay the first row and `tocsin up`.
        """
        if not self._started:
            now = time.monotonic()
            states = [
                status.state for id, (status, _) in self._statuses.items() if id.pipeline == self._deployment.name
            ]
            if len(states) < self._deployment.shards or ShardState.STARTING in states:
                self._last_starting = now
            self._started = now - self._last_starting > SETTLE_S or now - self._created_at > LATE_S
            if self._started:
                self._deliveries = [self._delivery(sink) for sink in self._deployment.sinks]
                self._tracking = self._track()

    def _follow(self) -> None:
        """Check the registry for a new model. Runs in its own thread because the registry may be slow."""
        d = self._deployment
        if not d.tracking:
            return
        if self._desired.follow(d.tracking[0], d.follows):
            log.info("%s: switching to %s", d.name, self._desired.plan.model)
            self._announce()
        if d.shadow and self._desired.follow_challenger(d.tracking[0], d.follows, self._prepare_shadow):
            log.info("%s: in its shadow: %s", d.name, self._desired.challenger or "nothing")

    def _look(self) -> None:
        """Look for new context. Runs in its own thread because the lake may be slow."""
        if self._context.look():
            self._announce()

    def _prepare_shadow(self, shadow: Pipeline) -> None:
        """Create a shadow's topics."""
        from tocsin.pipelines.runtime.kafka.topics import provision

        provision(self._deployment.kafka, shadow, shards=self._deployment.shards)

    def _count_partitions(self) -> None:
        """Count the topics' partitions. Runs in its own thread because the broker may be slow."""
        self._partitions.count([status for status, _ in list(self._statuses.values())])

    def _release_for_new_partitions(self) -> None:
        """Release shards whose topic has new partitions. Their recovery adds those partitions."""
        for id, (status, _) in self._statuses.items():
            slot = next((p for p in self._slots if id in p.shards), None)
            if slot and (unread := self._partitions.due(status)):
                log.info(
                    "%s: restarting to read partitions %s that were added to %s", id, unread, status.facts["topic"]
                )
                slot.actor.release.remote(id)

    def _assess(self) -> None:
        """Measure drift and score results. Runs in its own thread because it takes seconds."""
        try:
            figures = self._assessor.assess()
        except TocsinError as reason:
            log.warning("%s: its models are not assessed: %s", self._deployment.name, reason)
            return
        if self._tracking and figures:
            self._tracking.note(figures)

    def _compact(self) -> None:
        """Compact the tables, in a process that ends afterwards. If it fails, tables get slower to read; streams continue."""
        from tocsin.pipelines.runtime.declare.pipeline import FORGET_AFTER
        from tocsin.pipelines.runtime.lake.compaction import tidy

        d = self._deployment
        tables, vacuum = (
            [d.name, *([ALERTS] if d.alerts_partitions else []), *(t.name for t in (d.labels, d.context) if t)],
            d.compact[1],
        )
        frames = d.name, d.plan.options.get("forget_after", FORGET_AFTER)
        remote_tidy = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(tidy)
        for report in ray.get(remote_tidy.remote(d.lake, tables, vacuum, frames, self._desired.plan.context)):
            log.info("%s: compacted %d small files into %d", report.table, report.files_before, report.files_after)

    def _adopt(self) -> None:
        """Adopt the workers that an earlier supervisor started, if they answer.

        All other workers are ended. Nobody would supervise them, and they would keep their resources.
        """
        found = {name: ray.get_actor(name, namespace=NAMESPACE) for name in workers(self._deployment.name)}
        requests = {name: worker.status.remote() for name, worker in found.items()}
        ray.wait(list(requests.values()), num_returns=len(requests), timeout=ADOPT_S) if requests else None
        for n, slot in enumerate(self._slots):
            for name in sorted((a for a in found if a.startswith(f"{slot.name}/")), reverse=True):
                try:
                    statuses = ray.get(requests[name], timeout=0)
                except RayError as reason:
                    log.warning("%s: expected its status within %.0f s, got %s", name, ADOPT_S, logs.one_line(reason))
                    continue
                worker = found.pop(name)
                slot.attach(worker)
                self._record(slot, statuses)
                self._placement |= dict.fromkeys(slot.shards, n)
                for plan in (self._desired.plan, self._desired.shadow):
                    if plan:
                        worker.change.remote(plan)
                log.info("adopted %s", name)
                break
        for name, worker in found.items():
            log.warning("%s is not adopted; ending it", name)
            ray.kill(worker)
        occupied = [n for n, slot in enumerate(self._slots[: self._shadow_slot]) if slot.actor]
        self._scaler = Autoscaler(self._deployment.scaling, max(occupied, default=-1) + 1)

    def _reconcile(self, slot: WorkerSlot) -> None:
        """Read the status of a slot's worker and check that it lives, without waiting for it."""
        if slot.actor is None:
            return
        try:
            self._record(slot, slot.poll(self._deployment.stuck_s))
        except Ended as reason:
            reported_at, why = self._end_reports.pop(slot.name, (0.0, ""))
            # An older report is of a worker given up long before.
            is_recent = why and time.monotonic() - reported_at < REPORT_S
            self._mark_ended(slot, why if is_recent else str(reason))

    def _record(self, slot: WorkerSlot, statuses: list[Status]) -> None:
        slot.record(statuses)
        for status in statuses:
            state = (
                status.state
                if status.state != ShardState.STOPPED
                else ShardState.PAUSED
                if self._desired.paused
                else ShardState.MOVING
            )
            why = slot.why if state == ShardState.STARTING else ""  # while a worker keeps dying, show why
            slim = status.window and replace(status.window, tallies={})  # the assessor takes them up
            self._statuses[status.id] = replace(status, state=state, error=status.error or why, window=slim), slot.name
            if status.window and status.id.pipeline == self._deployment.name:
                self._windows[status.id.shard] = status.window

    def _scale(self) -> None:
        """Update the number of workers, once all shards run."""
        d = self._deployment
        shards = [status for id, (status, _) in self._statuses.items() if id.pipeline == d.name]
        if len(shards) == d.shards and all(s.state == ShardState.RUNNING and s.window for s in shards):
            read = sum(sum(s.facts["read"].values()) for s in shards)
            windows = [s.window for s in shards if s.window]
            lag = sum(int(w.gauges.get("behind", 0)) for w in windows)
            busy = sum(w.counts.get("step_busy_ms", 0) / 1000 / max(w.seconds, 1e-3) for w in windows)
            previous = self._scaler.workers
            if (workers := self._scaler.update(time.monotonic(), read, lag, busy)) != previous:
                log.info("%s: scaling to %d workers; lag is %d records", d.name, workers, lag)

    def _place(self) -> None:
        """Run each shard on its assigned worker. A shard that runs elsewhere commits and stops there first."""
        workers = self._scaler.workers
        shadow = self._desired.shadow
        configs = self._deployment.configs(self._desired.plan, shadow)
        ids = [id for id in configs if id in self._placement or self._context.may_start(id, at_start=not self._started)]
        in_shadow = [id for id in ids if shadow and id.pipeline == shadow.name]
        own = [id for id in ids if id not in in_shadow]
        self._placement = {} if self._desired.paused else place_shards(own, workers, self._placement)
        if not self._desired.paused:
            self._placement |= dict.fromkeys(in_shadow, self._shadow_slot)
        current = {shard: slot for slot in self._slots for shard in slot.shards}
        for shard in [shard for shard in self._statuses if shard not in configs and shard not in current]:
            del self._statuses[shard]  # of a shadow that has ended
        for shard, slot in current.items():
            if slot is not self._slot_of(shard):
                slot.actor.release.remote(shard)
        for n, slot in enumerate(self._slots):
            assigned = [
                shard for shard, number in self._placement.items() if number == n and current.get(shard) in (None, slot)
            ]
            if slot.actor is None and assigned and time.monotonic() >= slot.not_before:
                slot.attach(self._start(slot))
            if slot.actor:
                for shard in assigned:
                    if shard not in slot.shards:
                        slot.host(configs[shard])
                if not slot.shards:
                    ray.kill(slot.actor)
                    slot.actor = None

    def _slot_of(self, shard: ShardId) -> WorkerSlot | None:
        number = self._placement.get(shard)
        return None if number is None else self._slots[number]

    def _start(self, slot: WorkerSlot) -> Any:
        """Start a new worker for a slot."""
        return start_worker(slot.name, self._deployment.env, self._deployment.resources)

    def _mark_ended(self, slot: WorkerSlot, why: str) -> None:
        for shard in slot.shards:
            if shard in self._statuses:
                status, worker = self._statuses[shard]
                self._statuses[shard] = replace(status, state=ShardState.RESTARTING, error=why, window=None), worker
        delay = slot.mark_ended(why)
        log.warning("%s ended: %s; a new one starts in %.1f s", slot.name, why, delay)

    def _delivery(self, sink: SinkConfig) -> Delivery:
        name = self._deployment.name
        topic, group = names.alert_topic(name), names.sink_group(name, sink.name)
        return Delivery(sink, kafka=self._deployment.kafka, topic=topic, group=group)

    def _track(self) -> Any:
        """The deployment's MLflow run, or None."""
        d = self._deployment
        if d.tracking is None:
            return None
        from tocsin.pipelines.runtime.telemetry.mlflow import Tracking

        tracking = Tracking(tracking_uri=d.tracking[0], experiment=d.tracking[1])
        model = d.plan.model
        facts = {"shards": d.shards, "workers": d.scaling.least, "partitions": d.partitions, "device": d.plan.device}
        facts |= {"model": model.name, "model_version": model.version, "model_sha256": model.sha256} if model else {}
        tracking.start(d.name, {**facts, **d.params})
        return tracking
