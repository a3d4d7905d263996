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
        life: a call that its worker answers every few seconds. It fails at once when the worker dies.
        shards: each shard's state, as requested or as last reported.
        why: why the last worker ended, until a shard runs again.
    """

    name: str
    actor: Any = None
    life: Any = None
    shards: dict[ShardId, ShardState] = field(default_factory=dict)
    restarts: int = 0
    strikes: int = 0
    born: float = 0.0
    heard: float = 0.0
    not_before: float = 0.0
    why: str = ""
    asked: Any = None
    _trouble: str = ""
    _given: dict[ShardId, float] = field(default_factory=dict)

    def settle(self, worker: Any) -> None:
        """Put a worker into the slot."""
        self.actor, self.shards, self._trouble = worker, {}, ""
        self.born = self.heard = time.monotonic()
        self.asked, self.life = worker.status.remote(), worker.lives.remote()

    def host(self, config: ShardConfig) -> None:
        """Assign a shard to the slot's worker."""
        self.actor.host.remote(config)
        self.shards[config.id], self._given[config.id] = ShardState.STARTING, time.monotonic()

    def note(self, known: list[Status]) -> None:
        """Record the states that the worker reports."""
        told = {status.id: status.state for status in known}
        self.shards |= told
        for shard, state in list(self.shards.items()):
            lost = shard not in told and time.monotonic() - self._given.get(shard, 0) > AGAIN_S
            if state == ShardState.STOPPED or lost:  # a request or an answer may have been lost
                del self.shards[shard]
        if ShardState.RUNNING in told.values():
            self.why = ""

    def hear(self, stuck_s: float) -> list[Status]:
        """What the worker has reported since the last call, without waiting for it.

        A worker counts as ended only if Ray reports its death or if it does not answer for too long. A worker that is briefly
        unreachable, or that answers with an error, is asked again.

        Args:
            stuck_s: a shard hangs if its step takes longer, or if its recovery makes no progress for longer.

        Raises:
            Ended: the worker died or does not answer, or one of its shards hangs.
        """
        now = time.monotonic()
        ready, _ = ray.wait([self.asked], timeout=0)
        if ray.wait([self.life], timeout=0)[0]:
            self.life = self.actor.lives.remote()
        if ready:
            try:
                known: list[Status] = ray.get(ready[0])
            except (ActorDiedError, ActorUnschedulableError) as reason:
                if not isinstance(reason, RayTaskError):  # else another actor died, one that the worker called
                    raise Ended(f"its process died: {_cause(reason)}") from reason
                self._doubt(reason)
            except Exception as reason:
                self._doubt(reason)
            else:
                self.heard, self._trouble = now, ""
                self.asked = self.actor.status.remote()
                self._check(known, stuck_s)
                return known
        limit = STALLED_S if self.heard > self.born else STARTING_S
        if now - self.heard > limit:
            said = f"; its last answer: {self._trouble}" if self._trouble else ""
            raise Ended(f"it has not answered for {limit:.0f} s{said}")
        return []

    def mark_dead(self, why: str) -> float:
        """Record that the worker has ended. Returns after how many seconds a new one may start."""
        now = time.monotonic()
        self.strikes = 0 if now - self.born > STEADY_S else self.strikes + 1
        delay = BACKOFF_S[min(self.strikes, len(BACKOFF_S)) - 1] if self.strikes else 0.0
        ray.kill(self.actor)  # it may still live and hold resources; it is fenced in any case
        self.actor, self.asked, self.life, self.shards = None, None, None, {}
        self.not_before, self.why = now + delay, why
        self.restarts += 1
        return delay

    def _check(self, known: list[Status], stuck_s: float) -> None:
        for status in known:
            if status.state in ACTIVE and (turn := status.facts.get("turn_s", 0)) > stuck_s:
                raise Ended(f"the step of {status.id} has taken {turn:.0f} s")
            if status.state in TAKING_OVER and status.quiet_s > stuck_s:
                raise Ended(f"the recovery of {status.id} has made no progress for {status.quiet_s:.0f} s")

    def _doubt(self, reason: Exception) -> None:
        line = one_line(reason)
        if line != self._trouble:
            log.warning("%s: expected its worker's status, got %s; retrying", self.name, line)
        self._trouble = line
        self.asked = self.actor.status.remote()


def _cause(reason: Exception) -> str:
    """Why a process ended, as far as Ray knows. Ray's message has many lines."""
    said = " ".join(str(reason).split())
    for sign, cause in CAUSES.items():
        if sign in said:
            return cause
    return one_line(reason)


CAUSES = {
    "running low on memory": "Ray ended it because its machine ran out of memory",
    "connection error code": "no error reported, as after SIGKILL or when out of memory",
    "node": "its machine was lost",
}
"""A phrase in Ray's message -> what it means."""


def start_worker(place: str, env: Mapping[str, str], resources: Mapping[str, float]) -> Any:
    """Start a new worker for a slot, such as "pumps/worker-0"."""
    name = f"{place}/{time.time_ns()}"  # unique: a worker that only seems dead may still hold the last name
    options: dict[str, Any] = {"lifetime": "detached", "max_restarts": 0, "max_concurrency": 8, **resources}
    actor = ray.remote(name=name, namespace=NAMESPACE, **options)(Worker)
    return actor.remote({**KEEP_MEMORY, **env})
