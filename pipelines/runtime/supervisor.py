"""The Supervisor: places shards on workers, replaces workers that die or stall, and alone talks to MLflow."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from pipelines.runtime.cluster import NAMESPACE, actors
from pipelines.runtime.lake import Lake
from pipelines.runtime.plan import Plan
from pipelines.runtime.registry import Follower
from pipelines.runtime.spec import Spec
from pipelines.runtime.stats import Window
from pipelines.runtime.worker import Status, Worker

log = logging.getLogger(__name__)
BEAT_S = 0.5
STALLED_S = 20.0
ADOPT_S = 5.0
FOLLOW_S = 15.0
BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)
STEADY_S = 60.0
"""A worker that lived so long has its next restart without delay."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""glibc's: tensors come from memory that was used before; given back after each step, its page faults cost a third."""


@dataclass(frozen=True)
class Deployment:
    """One pipeline as deployed; the supervisor's only memory, and the same after its own restart.

    Args:
        shards: fixed; partition p belongs to shard p mod shards.
        partitions: of the input topic.
        env: environment of the worker processes.
        resources: Ray's options for a worker, such as `num_cpus`, `num_gpus`.
        tracking: MLflow's address and experiment; None: no tracking.
        follows: the registry's alias whose moves the shards follow, such as "rul@champion".
        stuck_s: a shard whose step takes longer than this hangs, and its worker is replaced.
    """

    name: str
    plan: Plan
    lake: Lake
    kafka: Mapping[str, Any] = field(repr=False)
    partitions: int
    shards: int = 1
    workers: int = 1
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=lambda: {"num_cpus": 0})
    tracking: tuple[str, str] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    follows: str = ""
    stuck_s: float = 120.0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def spec(self, shard: int, plan: Plan) -> Spec:
        """What a worker needs to run one shard."""
        own = [p for p in range(self.partitions) if p % self.shards == shard]
        return Spec(plan, self.lake, self.kafka, shard, own, self.start, self.on_gap)


@dataclass
class _Place:
    """One worker's place: the process that fills it now, and how its restarts went."""

    name: str
    shards: list[int]
    actor: Any = None
    restarts: int = 0
    strikes: int = 0
    born: float = 0.0
    heard: float = 0.0
    not_before: float = 0.0
    asked: Any = None
    known: list[Status] = field(default_factory=list)


class Supervisor:
    """Runs as a detached Ray actor. It holds no truth: a restarted one adopts living workers by their names.

    Guarantee: it may start a second owner for a shard whose first one only seems dead; fencing makes that safe.
    """

    def __init__(self, deployment: Deployment) -> None:
        d = self._deployment = deployment
        self._places = [
            _Place(f"{d.name}/worker-{w}", [s for s in range(d.shards) if s % d.workers == w]) for w in range(d.workers)
        ]
        self._stop = threading.Event()
        self._follower = Follower(d.lake, d.name, d.id, d.plan, d.tracking[0] if d.tracking else "", d.follows)
        self._tracking = self._track()
        self._windows: dict[int, Window] = {}
        self._thread = threading.Thread(target=self._run, name="supervise", daemon=True)
        self._thread.start()
        if d.follows and d.tracking:
            threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """The deployment as `tocsin status` shows it."""
        shards = [
            {**asdict(s), "worker": place.name, "restarts": place.restarts}
            for place in self._places
            for s in place.known
        ]
        return {
            "pipeline": self._deployment.name,
            "workers": len(self._places),
            "restarts": sum(p.restarts for p in self._places),
            "tracking": self._tracking.run_id if self._tracking else None,
            "shards": shards,
        }

    def change(self, plan: Plan) -> None:
        """Have all shards go on with another plan, each from its next checkpoint."""
        for place in self._places:
            if place.actor:
                place.actor.change.remote(plan)  # one that dies meanwhile is started with it

    def stop(self, timeout: float = 60) -> bool:
        """Drain: every shard commits and lets go. Returns whether all did in time."""
        self._stop.set()
        self._thread.join()
        asked = [(p.actor, p.actor.drain.remote(timeout)) for p in self._places if p.actor]
        done = True
        for actor, drained in asked:
            try:
                done &= ray.get(drained, timeout=timeout)
            except (RayActorError, GetTimeoutError):
                done = False
            ray.kill(actor)
        if self._tracking:
            self._tracking.end("FINISHED")
            self._tracking.close()
        return done

    def _run(self) -> None:
        while not self._stop.is_set():
            for place in self._places:
                try:
                    self._tend(place)
                except Exception:
                    log.exception("tending %s failed; it is tried again", place.name)
            if self._tracking and self._windows:
                windows, self._windows = self._windows, {}
                self._tracking.log(windows)
            self._stop.wait(BEAT_S)

    def _follow(self) -> None:
        """Look at the registry now and then; in a thread of its own, for it may take its time."""
        while not self._stop.wait(FOLLOW_S):
            if self._follower.look():
                plan = self._follower.plan
                log.info("%s: goes on with %s", self._deployment.name, plan.model)
                self.change(plan)

    def _tend(self, place: _Place) -> None:
        """See that a place has a living worker with all its shards, without waiting for anyone."""
        now = time.monotonic()
        if place.actor is None:
            if now >= place.not_before:
                self._fill(place)
            return
        ready, _ = ray.wait([place.asked], timeout=0)
        if ready:
            try:
                place.known = ray.get(ready[0])
            except RayActorError as reason:
                self._bury(place, f"died: {str(reason).splitlines()[0]}")
                return
            place.heard = now
            for status in place.known:
                if status.state == "running" and (turn := status.facts.get("turn_s", 0)) > self._deployment.stuck_s:
                    ray.kill(place.actor)
                    self._bury(place, f"hangs: shard {status.shard}'s step has taken {turn:.0f} s")
                    return
            self._windows |= {s.shard: s.window for s in place.known if s.window}
            place.asked = place.actor.status.remote()
        elif now - place.heard > STALLED_S:
            ray.kill(place.actor)  # should it still live, it is fenced
            self._bury(place, f"has not answered for {STALLED_S:.0f} s")

    def _fill(self, place: _Place) -> None:
        """Adopt the living worker of this place, or start one; either way it hosts the place's shards."""
        d = self._deployment
        place.actor = self._adopted(place)
        if place.actor is None:
            place.actor = ray.remote(
                name=f"{place.name}/{time.time_ns()}",  # its own: one that only seems dead may still hold the last name
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=0,
                max_concurrency=4,
                runtime_env={"env_vars": {**KEEP_MEMORY, **d.env}},
                **d.resources,
            )(Worker).remote()
        for shard in place.shards:
            place.actor.host.remote(d.spec(shard, self._follower.plan))
        place.born = place.heard = time.monotonic()
        place.asked = place.actor.status.remote()

    def _adopted(self, place: _Place) -> Any:
        """The newest worker that was started for this place by a supervisor before this one, if it answers."""
        if place.born:
            return None
        for name in sorted((n for n in actors() if n.startswith(f"{place.name}/")), reverse=True):
            with contextlib.suppress(ValueError, RayActorError, GetTimeoutError):
                worker = ray.get_actor(name, namespace=NAMESPACE)
                ray.get(worker.status.remote(), timeout=ADOPT_S)
                log.info("adopted %s", name)
                return worker
        return None

    def _bury(self, place: _Place, why: str) -> None:
        now = time.monotonic()
        place.strikes = 0 if now - place.born > STEADY_S else place.strikes + 1
        delay = BACKOFF_S[min(place.strikes, len(BACKOFF_S)) - 1] if place.strikes else 0.0
        place.actor, place.asked, place.not_before = None, None, now + delay
        place.restarts += 1
        place.known = [replace(s, state="restarting", window=None) for s in place.known]
        log.warning("%s %s; a new one starts in %.1f s", place.name, why, delay)

    def _track(self) -> Any:
        """The deployment's MLflow run, or None."""
        d = self._deployment
        if d.tracking is None:
            return None
        from pipelines.runtime.tracking import Tracking

        tracking = Tracking(tracking_uri=d.tracking[0], experiment=d.tracking[1])
        model = d.plan.model
        facts = {"shards": d.shards, "workers": d.workers, "partitions": d.partitions, "device": d.plan.device}
        facts |= {"model": model.name, "model_version": model.version, "model_sha256": model.sha256} if model else {}
        tracking.start(d.name, {**facts, **d.params})
        return tracking


def deploy(deployment: Deployment) -> Any:
    """Start a deployment's supervisor, or find the one that runs it."""
    name = supervisor_name(deployment.name)
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1, "max_concurrency": 4}
    actor = ray.remote(**options, num_cpus=0, get_if_exists=True, runtime_env={"env_vars": dict(deployment.env)})(
        Supervisor
    )
    return actor.remote(deployment)


def find(pipeline: str) -> Any:
    """The running supervisor of a pipeline.

    Raises:
        ValueError: it does not run on this cluster.
    """
    return ray.get_actor(supervisor_name(pipeline), namespace=NAMESPACE)


def supervisor_name(pipeline: str) -> str:
    """The supervisor's actor name."""
    return f"{pipeline}/supervisor"
