"""A worker's place: the process that fills it now, what it runs, and how its restarts went."""

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
"""A shard that was given to a worker which does not know it after this long is given to it again."""
STALLED_S, STARTING_S = 20.0, 60.0
BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 15.0, 30.0)
STEADY_S = 60.0
"""A worker that lived so long has its next restart without delay."""
ACTIVE, TAKING_OVER = (ShardState.RUNNING, ShardState.STOPPING), (ShardState.STARTING, ShardState.WAITING)


class Ended(Exception):
    """The worker of a place has ended, or was ended because it does not do its work; says why."""


@dataclass
class WorkerSlot:
    """One worker's place.

    Args:
        life: a call that its worker answers now and then, and that fails at once when it dies.
        shards: each one's state, as ordered or as heard.
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
        """Have a worker fill it."""
        self.actor, self.shards, self._trouble = worker, {}, ""
        self.born = self.heard = time.monotonic()
        self.asked, self.life = worker.status.remote(), worker.lives.remote()

    def host(self, config: ShardConfig) -> None:
        """Give its worker a shard."""
        self.actor.host.remote(config)
        self.shards[config.id], self._given[config.id] = ShardState.STARTING, time.monotonic()

    def note(self, known: list[Status]) -> None:
        """Take note of what the worker says."""
        told = {status.id: status.state for status in known}
        self.shards |= told
        for shard, state in list(self.shards.items()):
            lost = shard not in told and time.monotonic() - self._given.get(shard, 0) > AGAIN_S
            if state == ShardState.STOPPED or lost:  # an order or an answer may have been lost on the way
                del self.shards[shard]
        if ShardState.RUNNING in told.values():
            self.why = ""

    def hear(self, stuck_s: float) -> list[Status]:
        """What the worker has said since the last call; without waiting for it.

        Only Ray's word that it died, or silence for too long, counts as its end: a worker that cannot be reached for a
        moment, or whose answer is an error, is asked again.

        Args:
            stuck_s: a step that takes longer, or a takeover without progress for longer, hangs.

        Raises:
            Ended: it died, does not answer, or a shard of it hangs.
        """
        now = time.monotonic()
        ready, _ = ray.wait([self.asked], timeout=0)
        if ray.wait([self.life], timeout=0)[0]:
            self.life = self.actor.lives.remote()
        if ready:
            try:
                known: list[Status] = ray.get(ready[0])
            except (ActorDiedError, ActorUnschedulableError) as reason:
                if not isinstance(reason, RayTaskError):  # else another actor has died, in its own call of that one
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
        """Take note that the worker has ended. Returns after how many seconds a new one may start."""
        now = time.monotonic()
        self.strikes = 0 if now - self.born > STEADY_S else self.strikes + 1
        delay = BACKOFF_S[min(self.strikes, len(BACKOFF_S)) - 1] if self.strikes else 0.0
        ray.kill(self.actor)  # it may live on, and would keep its share of the machine; it is fenced in any case
        self.actor, self.asked, self.life, self.shards = None, None, None, {}
        self.not_before, self.why = now + delay, why
        self.restarts += 1
        return delay

    def _check(self, known: list[Status], stuck_s: float) -> None:
        for status in known:
            if status.state in ACTIVE and (turn := status.facts.get("turn_s", 0)) > stuck_s:
                raise Ended(f"the step of {status.id} has taken {turn:.0f} s")
            if status.state in TAKING_OVER and status.quiet_s > stuck_s:
                raise Ended(f"the takeover of {status.id} has made no progress for {status.quiet_s:.0f} s")

    def _doubt(self, reason: Exception) -> None:
        line = one_line(reason)
        if line != self._trouble:
            log.warning("%s: expected its worker's status, got %s; it is asked again", self.name, line)
        self._trouble = line
        self.asked = self.actor.status.remote()


def _cause(reason: Exception) -> str:
    """Why a process ended, as far as Ray knows; its text is many lines."""
    said = " ".join(str(reason).split())
    for sign, cause in CAUSES.items():
        if sign in said:
            return cause
    return one_line(reason)


CAUSES = {
    "running low on memory": "Ray ended it because its machine ran out of memory",
    "connection error code": "without a word, as by SIGKILL or for lack of memory",
    "node": "its machine was lost",
}
"""What Ray's text says, and what it means."""


def start_worker(place: str, env: Mapping[str, str], resources: Mapping[str, float]) -> Any:
    """A new worker for a place, such as "pumps/worker-0"."""
    name = f"{place}/{time.time_ns()}"  # its own: one that only seems dead may still hold the last name
    options: dict[str, Any] = {"lifetime": "detached", "max_restarts": 0, "max_concurrency": 8, **resources}
    actor = ray.remote(name=name, namespace=NAMESPACE, **options)(Worker)
    return actor.remote({**KEEP_MEMORY, **env})
