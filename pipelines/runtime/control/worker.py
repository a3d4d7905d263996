"""The Worker: a process that hosts shards. A shard's unexpected error ends the process: recovery is the only error path."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from kafka.errors import KafkaError

from tocsin.pipelines.runtime.control.ray_client import find
from tocsin.pipelines.runtime.declare.errors import (
    ConfigError,
    Lost,
    ModelError,
    RecordsCorrupt,
    Refused,
    StateMismatch,
    Unavailable,
)
from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.kafka import librdkafka
from tocsin.pipelines.runtime.kafka.closing import closed_on_error
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent
from tocsin.pipelines.runtime.kafka.reader_actor import ReaderActor, start_reader
from tocsin.pipelines.runtime.telemetry import logs, progress
from tocsin.pipelines.runtime.telemetry.process import begin, import_pandas, imported

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.plan import Plan
    from tocsin.pipelines.runtime.engine.shard import Shard
    from tocsin.pipelines.runtime.engine.shard_config import ShardConfig, ShardId
    from tocsin.pipelines.runtime.formats.codec import Codec
    from tocsin.pipelines.runtime.kafka.reader import RecordSource
    from tocsin.pipelines.runtime.telemetry.stats import Window

log = logging.getLogger(__name__)
AGAIN_S = 2.0
"""Delay before a recovery that found no broker, or no lake, is retried."""
DRAIN_S = 0.1
LIVENESS_S = 5.0
REPORT_S = 2.0
"""How long a worker that ends waits for its supervisor to receive the reason."""


@dataclass(frozen=True)
class Status:
    """One shard as its worker sees it.

    Args:
        state: a supervisor adds `RESTARTING`, `MOVING` and `PAUSED`.
        error: what it waits for, or what a person has to act on.
        facts: positions (A), committed (R), epoch, model version and so on.
        pid: of the process; for tests and debugging.
        quiet_s: how long a recovery has made no progress; 0 after it.
    """

    id: ShardId
    state: ShardState
    error: str
    facts: dict[str, Any]
    window: Window | None
    pid: int
    quiet_s: float = 0.0


def record_source(config: ShardConfig, pipeline: Pipeline, codec: Codec, process: Any = None) -> RecordSource:
    """What reads a shard's input: with kafka-python another process, since its work would slow the shard's down, else this one.

    Args:
        process: of a reader; None: start one if there is to be one.
    """
    reads = config.kafka, pipeline.topic, config.partitions, codec, pipeline.batch.rows, config.on_gap
    if not librdkafka.chosen(config.kafka):
        log.info("%s: kafka-python reads the input, in a process of its own", config.id)
        return ReaderActor(*reads, process)
    from tocsin.pipelines.runtime.kafka.reader import Reader
    from tocsin.pipelines.runtime.kafka.reader_thread import ReaderThread

    log.info("%s: librdkafka reads the input, in this process", config.id)
    return ReaderThread(Reader(*reads), pipeline.batch.rows // 2)


class HostedShard:
    """A shard and its thread.

    Args:
        process: its reader's process, if that has been started already.
    """

    def __init__(self, config: ShardConfig, report_death: Callable[[str], None], process: Any = None) -> None:
        self.config, self._state, self.error = config, ShardState.STARTING, ""
        self._report_death, self._progress = report_death, progress.Progress()
        self.plan, self._process = config.plan, process
        self.shard: Shard | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=str(config.id), daemon=True)
        self.thread.start()

    @property
    def quiet_s(self) -> float:
        """See `Status`."""
        return 0.0 if self.shard else round(self._progress.quiet_s, 1)

    @property
    def idle_s(self) -> float:
        """How long it has made no progress, in recovery, steps and checkpoints."""
        return self._progress.quiet_s

    @property
    def state(self) -> ShardState:
        """See `Status`."""
        return ShardState.STOPPING if self._state == ShardState.RUNNING and self.stop.is_set() else self._state

    def release(self) -> None:
        """Have the shard commit and stop. A refused shard has nothing to commit."""
        self.stop.set()
        if self._state == ShardState.REFUSED:
            self._state = ShardState.STOPPED

    def change(self, plan: Plan) -> None:
        """Switch to another plan. A shard that is still recovering does so afterwards."""
        self.plan = plan
        if self.shard:
            self.shard.change(plan)

    def _run(self) -> None:
        logs.about(**self.config.id._asdict())
        progress.follow(self._progress)
        # Import torch here: the supervisor imports this module and does not need torch.
        import torch

        progress.made()
        from tocsin.pipelines.runtime.formats.codec import Codec

        imported()
        import_pandas()
        progress.made()
        torch.set_num_threads(1)  # two threads on two busy cores: tiny attention is 180x slower
        torch.set_flush_denormal(True)  # of this thread: saturated gates give denormals, which make an LSTM 2x slower
        try:
            pipeline = self.config.plan.build(self.config.lake)
            codec = Codec.of(pipeline, self.config.formats)
            source = record_source(self.config, pipeline, codec, self._process)
            with closed_on_error(source):
                shard = self._recover(source)
            if shard is None:
                source.close()
                self._state = ShardState.STOPPED
                return
            self.shard = shard
            self._state, self.error = ShardState.RUNNING, ""
            if self.plan != self.config.plan:
                self.shard.change(self.plan)
            self.shard.run(self.stop)
            self._state = ShardState.STOPPED
        except BaseException as reason:
            if line := self._refusal(reason):
                # Another recovery would fail the same way. Wait for a person; the line states what to do.
                self._state, self.error = ShardState.REFUSED, line
                log.error("%s", line)
                if self.shard:
                    with contextlib.suppress(Exception):
                        self.shard.abandon()
                return
            log.exception("%s: ending this worker's process; another one recovers its shards", self.config.id)
            self._report_death(f"{self.config.id}: {logs.one_line(reason)}")
            logging.shutdown()
            sys.stderr.flush()
            os._exit(70)

    def _recover(self, source: RecordSource) -> Shard | None:
        """Recover the shard, retrying while a system that recovery needs is down. None if it was stopped before."""
        from tocsin.pipelines.runtime.engine.shard import Shard
        from tocsin.pipelines.runtime.kafka.broker import check_login

        while True:
            try:
                return Shard(self.config, source)
            except (Unavailable, KafkaError) as reason:  # another owner would fail too
                if permanent(reason, ""):
                    raise
                self._state, self.error = ShardState.WAITING, str(reason)
                log.warning("%s waits: %s", self.config.id, reason)
                # A client whose login is rejected reports only that no broker answered.
                check_login(self.config.kafka)
                if self.stop.wait(AGAIN_S):
                    return None
                self._progress.made()

    def _refusal(self, reason: BaseException) -> str:
        """The error to report while the shard waits for a person. Empty if another recovery may succeed."""
        if isinstance(reason, RecordsCorrupt | Refused | ConfigError | ModelError | StateMismatch):
            return str(reason)
        if isinstance(reason, Lost):  # recovery decides whether to refuse or to skip it
            return str(reason) if self.shard is None else ""
        return str(permanent(reason, str(self.config.id)) or "")


class Worker:
    """Hosts shards; a detached Ray actor.

    Args:
        env: environment of this process and of its readers.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        begin(env)
        self._hosted: dict[ShardId, HostedShard] = {}
        self._hosting, self._readers = threading.Lock(), list[Any]()

    def get_ready(self, *, with_reader: bool) -> None:
        """Import what a shard needs, and start a reader's process, before it is known which shard that is."""
        if with_reader:
            self._readers.append(start_reader())
        from tocsin.pipelines.runtime.engine import shard  # noqa: F401
        from tocsin.pipelines.runtime.kafka import topics  # noqa: F401

        import_pandas()

    def prepare(self, deployment: Deployment, **tables: bool) -> tuple[Deployment, int]:
        """Create a deployment's topics; see `Launch.prepare`."""
        from tocsin.pipelines.runtime.control.deployment import provisioned
        from tocsin.pipelines.runtime.lake.table import shard_count

        return provisioned(deployment, **tables), shard_count(deployment.lake, deployment.name)

    def host(self, config: ShardConfig) -> None:
        """Start a shard, unless it is here already."""
        with self._hosting:  # a launch and the supervisor may ask for the same shard
            if config.id not in self._hosted:
                self._hosted[config.id] = HostedShard(config, self._report_death, self._reader(config))

    def _reader(self, config: ShardConfig) -> Any:
        """A reader's process; None: a thread reads."""
        if librdkafka.chosen(config.kafka):
            return None
        return self._readers.pop() if self._readers else start_reader()

    def release(self, shard: ShardId) -> None:
        """Have a shard commit and stop; `status` reports when it has."""
        if hosted := self._hosted.get(shard):
            hosted.release()

    def status(self) -> list[Status]:
        """Each shard's state, and what it counted since the last call. A stopped shard is reported once."""
        found = []
        for id, h in sorted(self._hosted.items()):
            facts, window = (h.shard.facts(), h.shard.stats.window()) if h.shard else ({}, None)
            outage = facts.get("outage", "") if h.state == ShardState.RUNNING else ""
            state, error = (ShardState.WAITING, outage) if outage else (h.state, h.error)
            found.append(Status(id, state, error, facts, window, os.getpid(), h.quiet_s))
        for status in found:
            if status.state == ShardState.STOPPED:
                del self._hosted[status.id]
        return found

    def answers(self) -> None:
        """Do nothing: an answer shows that the worker can be reached."""

    def lives(self) -> None:
        """Answer after `LIVENESS_S`. A caller that waits for the answer learns at once when this process dies."""
        time.sleep(LIVENESS_S)

    def change(self, plan: Plan) -> None:
        """Switch every shard of the plan's pipeline to it, each at its next checkpoint."""
        for id, hosted in self._hosted.items():
            if id.pipeline == plan.name:
                hosted.change(plan)

    def drain(self, timeout: float = 60) -> bool:
        """Have every shard commit and stop. Returns whether all did. A shard without progress for `timeout` s is given up."""
        hosted, start = list(self._hosted.values()), time.monotonic()
        for h in hosted:
            h.release()
        for h in hosted:
            while h.thread.is_alive() and min(h.idle_s, time.monotonic() - start) < timeout:
                h.thread.join(min(DRAIN_S, timeout))
        return not any(h.thread.is_alive() for h in hosted)

    def _report_death(self, why: str) -> None:
        """Report to the supervisor why this process ends. The supervisor notices the death in any case."""
        try:
            name = ray.get_runtime_context().get_actor_name()
            supervisor = find(name.partition("/")[0])  # the name is such as "pumps/worker-0/1764354000"
            ray.get(supervisor.ends.remote(name, why), timeout=REPORT_S)
        except Exception as reason:
            log.warning("could not report the cause to the supervisor: %s", logs.one_line(reason))
