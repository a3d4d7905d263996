"""The Worker: a process that hosts shards. A shard's unexpected error ends it, for takeover is the only error path."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError

from pipelines.runtime import logs
from pipelines.runtime.errors import ConfigError, Lost, ModelError, RecordsCorrupt, StateMismatch, Unavailable
from pipelines.runtime.process import begin
from pipelines.runtime.remote import RemoteReader, started

if TYPE_CHECKING:
    from pipelines.runtime.deployment import Deployment
    from pipelines.runtime.plan import Plan
    from pipelines.runtime.shard import Shard
    from pipelines.runtime.spec import ShardId, Spec
    from pipelines.runtime.stats import Window

log = logging.getLogger(__name__)
AGAIN_S = 2.0
"""A takeover that found no broker, or no lake, is tried again after this."""


@dataclass(frozen=True)
class Status:
    """One shard as its worker sees it.

    Args:
        state: "starting", "waiting" (for what `error` says), "running", "stopping", "stopped" (by an order), or
            "refused": a person has to act on `error`. A supervisor adds "restarting" (its worker died), "moving" (to
            another worker) and "paused".
        facts: positions (A), committed (R), epoch, model version and so on.
        pid: of the process; for tests and for people with a debugger.
    """

    id: ShardId
    state: str
    error: str
    facts: dict[str, Any]
    window: Window | None
    pid: int


class _Hosted:
    """A shard and its thread."""

    def __init__(self, spec: Spec, reader: Any) -> None:
        self.spec, self._state, self.error = spec, "starting", ""
        self.plan, self._reader = spec.plan, reader
        self.shard: Shard | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=str(spec.id), daemon=True)
        self.thread.start()

    @property
    def state(self) -> str:
        """See `Status`."""
        return "stopping" if self._state == "running" and self.stop.is_set() else self._state

    def let_go(self) -> None:
        """Have it commit and end; a refused one has nothing to commit."""
        self.stop.set()
        if self._state == "refused":
            self._state = "stopped"

    def change(self, plan: Plan) -> None:
        """Go on with another plan; one that is still taking over does so afterwards."""
        self.plan = plan
        if self.shard:
            self.shard.change(plan)

    def _run(self) -> None:
        # Here, for it loads torch, which the supervisor that names this class has no use for.
        import torch

        from pipelines.runtime.codec import Codec
        from pipelines.runtime.shard import Shard

        logs.about(**self.spec.id._asdict())
        torch.set_num_threads(1)  # two threads on two busy cores: tiny attention is 180x slower
        torch.set_flush_denormal(True)  # of this thread: saturated gates give denormals, which make an LSTM 2x slower
        try:
            pipeline = self.spec.plan.build(self.spec.lake)
            codec = Codec(topic=pipeline.topic, schema=pipeline.schema, unknown=pipeline.unknown)
            reader = RemoteReader(
                self.spec.kafka,
                pipeline.topic,
                self.spec.partitions,
                codec,
                pipeline.batch.rows,
                self.spec.on_gap,
                self._reader,
            )
            while self.shard is None:
                try:
                    self.shard = Shard(self.spec, reader)
                except (Unavailable, KafkaError) as reason:  # nobody else could take over either
                    self._state, self.error = "waiting", str(reason)
                    log.warning("%s waits: %s", self.spec.id, reason)
                    if self.stop.wait(AGAIN_S):
                        self._state = "stopped"
                        return
            self._state, self.error = "running", ""
            if self.plan != self.spec.plan:
                self.shard.change(self.plan)
            self.shard.run(self.stop)
            self._state = "stopped"
        except BaseException as reason:
            found = self.shard is None and isinstance(reason, Lost | ConfigError | ModelError | StateMismatch)
            if found or isinstance(reason, RecordsCorrupt):
                # A takeover that found this would find it again: wait for a person, with the line that says what to do.
                self._state, self.error = "refused", str(reason)
                log.error("%s", reason)
                return
            log.exception("%s: its process ends, another one takes over", self.spec.id)
            logging.shutdown()
            sys.stderr.flush()
            os._exit(70)


class Worker:
    """Hosts shards; a detached Ray actor.

    Args:
        env: environment of this process and of its readers'.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        begin(env)
        self._hosted: dict[ShardId, _Hosted] = {}
        self._readers: list[Any] = []

    def prepare(self, order: Deployment, *, alerts: bool) -> tuple[Deployment, int]:
        """Make what a deployment needs, and be ready to host its first shard; see `Launch.prepare`."""
        self._readers.append(started())
        from pipelines.runtime.provision import provisioned
        from pipelines.runtime.reshard import shards_now

        return provisioned(order, alerts=alerts), shards_now(order)

    def host(self, spec: Spec) -> None:
        """Start a shard, unless it is here already."""
        if spec.id not in self._hosted:
            self._hosted[spec.id] = _Hosted(spec, self._readers.pop() if self._readers else started())

    def release(self, shard: ShardId) -> None:
        """Have a shard commit and let go; `status` says when it has."""
        if held := self._hosted.get(shard):
            held.let_go()

    def status(self) -> list[Status]:
        """Each shard's state, and what it counted since the last call. One that has stopped is told of once."""
        found = []
        for id, h in sorted(self._hosted.items()):
            facts, window = (h.shard.facts(), h.shard.stats.window()) if h.shard else ({}, None)
            found.append(Status(id, h.state, h.error, facts, window, os.getpid()))
        for status in found:
            if status.state == "stopped":
                del self._hosted[status.id]
        return found

    def change(self, plan: Plan) -> None:
        """Have every shard of its pipeline go on with another plan from its next checkpoint."""
        for id, hosted in self._hosted.items():
            if id.pipeline == plan.name:
                hosted.change(plan)

    def drain(self, timeout: float = 60) -> bool:
        """Have every shard commit and let go; whether all did in time."""
        hosted = list(self._hosted.values())
        for h in hosted:
            h.let_go()
        for h in hosted:
            h.thread.join(timeout)
        return not any(h.thread.is_alive() for h in hosted)
