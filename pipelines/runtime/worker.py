"""The Worker: a process that hosts shards. A shard's unexpected error ends it, for takeover is the only error path."""

from __future__ import annotations

import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.runtime.codec import Codec
from pipelines.runtime.errors import ConfigError, Lost, ModelError, StateMismatch
from pipelines.runtime.plan import Plan
from pipelines.runtime.remote import RemoteReader
from pipelines.runtime.spec import Spec
from pipelines.runtime.stats import Window

if TYPE_CHECKING:
    from pipelines.runtime.shard import Shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """One shard as its worker sees it.

    Args:
        state: "starting", "running", "stopped" (by an order), "restarting" (its worker died), or "refused": a person
            has to act on `error`.
        facts: positions (A), committed (R), epoch, model version and so on.
        pid: of the process; for tests and for people with a debugger.
    """

    shard: int
    state: str
    error: str
    facts: dict[str, Any]
    window: Window | None
    pid: int


class _Hosted:
    """A shard and its thread."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.state, self.error = spec, "starting", ""
        self.plan = spec.plan
        self.shard: Shard | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"shard-{spec.shard}", daemon=True)
        self.thread.start()

    def change(self, plan: Plan) -> None:
        """Go on with another plan; one that is still taking over does so afterwards."""
        self.plan = plan
        if self.shard:
            self.shard.change(plan)

    def _run(self) -> None:
        # Here, for it loads torch, which the supervisor that names this class has no use for.
        import torch

        from pipelines.runtime.shard import Shard

        torch.set_num_threads(1)  # two threads on two busy cores: tiny attention is 180x slower
        torch.set_flush_denormal(True)  # of this thread: saturated gates give denormals, which make an LSTM 2x slower
        try:
            pipeline = self.spec.plan.build(self.spec.lake)
            codec = Codec(topic=pipeline.topic, schema=pipeline.schema, unknown=pipeline.unknown)
            reader = RemoteReader(self.spec.kafka, pipeline.topic, self.spec.partitions, codec, pipeline.batch.rows)
            self.shard = Shard(self.spec, reader)
            self.state = "running"
            if self.plan != self.spec.plan:
                self.shard.change(self.plan)
            self.shard.run(self.stop)
            self.state = "stopped"
        except BaseException as reason:
            if self.shard is None and isinstance(reason, Lost | ConfigError | ModelError | StateMismatch):
                # A takeover that found this would find it again: wait for a person, with the line that says what to do.
                self.state, self.error = "refused", str(reason)
                log.error("%s", reason)
                return
            log.exception("shard %d: its process ends, another one takes over", self.spec.shard)
            logging.shutdown()
            sys.stderr.flush()
            os._exit(70)


class Worker:
    """Hosts shards; the supervisor makes it a detached Ray actor."""

    def __init__(self) -> None:
        self._hosted: dict[int, _Hosted] = {}

    def host(self, spec: Spec) -> None:
        """Start a shard, unless it is here already."""
        held = self._hosted.get(spec.shard)
        if held is None or held.state in ("stopped", "refused"):
            self._hosted[spec.shard] = _Hosted(spec)

    def status(self) -> list[Status]:
        """Each shard's state, and what it counted since the last call."""
        found = []
        for n, h in sorted(self._hosted.items()):
            facts, window = (h.shard.facts(), h.shard.stats.window()) if h.shard else ({}, None)
            found.append(Status(n, h.state, h.error, facts, window, os.getpid()))
        return found

    def change(self, plan: Plan) -> None:
        """Have every shard go on with another plan from its next checkpoint."""
        for hosted in self._hosted.values():
            hosted.change(plan)

    def drain(self, timeout: float = 60) -> bool:
        """Have every shard commit and let go; whether all did in time."""
        for hosted in self._hosted.values():
            hosted.stop.set()
        for hosted in self._hosted.values():
            hosted.thread.join(timeout)
        return not any(h.thread.is_alive() for h in self._hosted.values())
