"""A worker slot: its current process, the shards that it runs, and its restarts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayTaskError

from tocsin.pipelines.runtime.control.ray_client import NAMESPACE
from tocsin.pipelines.runtime.control.worker import Status, Worker
from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig, ShardId
from tocsin.pipelines.runtime.telemetry.logs import one_line
from tocsin.pipelines.runtime.telemetry.process import KEEP_MEMORY

log = logging.getLogger(__name__)
AGAIN_S = 10.0
"""How long until a shard is assigned again to a worker that does not report it."""
STALLED_S, STARTING_S = 20.0, 60.0
BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)
STEADY_S = 60.0
"""A worker that lived this long is restarted without delay."""
ACTIVE, TAKING_OVER = (ShardState.RUNNING, ShardState.STOPPING), (ShardState.STARTING, ShardState.WAITING)


class Ended(Exception):
    """The worker of a slot has ended, or has to be ended because it hangs. The message gives the reason."""


@dataclass
class WorkerSlot:
    """One worker slot.

    Args:
        liveness: a call that its worker answers every few seconds. It fails at once when the worker dies.
        shards: each shard's state, as requested or as last reported.
        why: why the last worker ended, until a shard runs again.
    """

    name: str
    actor: Any = None
    liveness: Any = None
    shards: dict[ShardId, ShardState] = field(default_factory=dict)
    restarts: int = 0
    quick_ends: int = 0
    started_at: float = 0.0
    last_answer: float = 0.0
    not_before: float = 0.0
    why: str = ""
    status_request: Any = None
    _last_error: str = ""
    _assigned_at: dict[ShardId, float] = field(default_factory=dict)

    def attach(self, worker: Any) -> None:
        """Put a worker into the slot."""
        self.actor, self.shards, self._last_error = worker, {}, ""
        self.started_at = self.last_answer = time.monotonic()
        self.status_request, self.liveness = worker.status.remote(), worker.lives.remote()

    def host(self, config: ShardConfig) -> None:
        """Assign a shard to the slot's worker."""
        self.actor.host.remote(config)
        self.shards[config.id], self._assigned_at[config.id] = ShardState.STARTING, time.monotonic()

    def record(self, statuses: list[Status]) -> None:
        """Record the states that the worker reports."""
        reported = {status.id: status.state for status in statuses}
        self.shards |= reported
        for shard, state in list(self.shards.items()):
            lost = shard not in reported and time.monotonic() - self._assigned_at.get(shard, 0) > AGAIN_S
            if state == ShardState.STOPPED or lost:  # a request or an answer may have been lost
                del self.shards[shard]
        if ShardState.RUNNING in reported.values():
            self.why = ""

    def poll(self, stuck_s: float) -> list[Status]:
        """What the worker has reported since the last call, without waiting for it.

        A worker counts as ended only if Ray reports its death or if it does not answer for too long. A worker that is briefly
        unreachable, or that answers with an error, is asked again.

        Args:
            stuck_s: a shard hangs if its step takes longer, or if its recovery makes no progress for longer.

        Raises:
            Ended: the worker died or does not answer, or one of its shards hangs.
        """
        now = time.monotonic()
        ready, _ = ray.wait([self.status_request], timeout=0)
        if ray.wait([self.liveness], timeout=0)[0]:
            self.liveness = self.actor.lives.remote()
        if ready:
            try:
                statuses: list[Status] = ray.get(ready[0])
            except (ActorDiedError, ActorUnschedulableError) as reason:
                if not isinstance(reason, RayTaskError):  # else another actor died, one that the worker called
                    raise Ended(f"its process died: {_cause(reason)}") from reason
                self._ask_again(reason)
            except Exception as reason:
                self._ask_again(reason)
            else:
                self.last_answer, self._last_error = now, ""
                self.status_request = self.actor.status.remote()
                self._check(statuses, stuck_s)
                return statuses
        limit = STALLED_S if self.last_answer > self.started_at else STARTING_S
        if now - self.last_answer > limit:
            detail = f"; its last answer: {self._last_error}" if self._last_error else ""
            raise Ended(f"it has not answered for {limit:.0f} s{detail}")
        return []

    def mark_ended(self, why: str) -> float:
        """Record that the worker has ended. Returns after how many seconds a new one may start."""
        now = time.monotonic()
        self.quick_ends = 0 if now - self.started_at > STEADY_S else self.quick_ends + 1
        delay = BACKOFF_S[min(self.quick_ends, len(BACKOFF_S)) - 1] if self.quick_ends else 0.0
        ray.kill(self.actor)  # it may still live and hold resources; it is fenced in any case
        self.actor, self.status_request, self.liveness, self.shards = None, None, None, {}
        self.not_before, self.why = now + delay, why
        self.restarts += 1
        return delay

    def _check(self, statuses: list[Status], stuck_s: float) -> None:
        for status in statuses:
            if status.state in ACTIVE and (step_s := status.facts.get("turn_s", 0)) > stuck_s:
                raise Ended(f"the step of {status.id} has taken {step_s:.0f} s")
            if status.state in TAKING_OVER and status.quiet_s > stuck_s:
                raise Ended(f"the recovery of {status.id} has made no progress for {status.quiet_s:.0f} s")

    def _ask_again(self, reason: Exception) -> None:
        line = one_line(reason)
        if line != self._last_error:
            log.warning("%s: expected its worker's status, got %s; retrying", self.name, line)
        self._last_error = line
        self.status_request = self.actor.status.remote()


def _cause(reason: Exception) -> str:
    """Why a process ended, as far as Ray knows. Ray's message has many lines."""
    message = " ".join(str(reason).split())
    for phrase, cause in CAUSES.items():
        if phrase in message:
            return cause
    return one_line(reason)


CAUSES = {
    "running low on memory": "Ray ended it because its machine ran out of memory",
    "connection error code": "no error reported, as after SIGKILL or when out of memory",
    "node": "its machine was lost",
}
"""A phrase in Ray's message -> what it means."""


def start_worker(slot: str, env: Mapping[str, str], resources: Mapping[str, float]) -> Any:
    """Start a new worker for a slot, such as "pumps/worker-0"."""
    name = f"{slot}/{time.time_ns()}"  # unique: a worker that only seems dead may still hold the last name
    options: dict[str, Any] = {"lifetime": "detached", "max_restarts": 0, "max_concurrency": 8, **resources}
    actor = ray.remote(name=name, namespace=NAMESPACE, **options)(Worker)
    return actor.remote({**KEEP_MEMORY, **env})
