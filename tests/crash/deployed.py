"""A job on Ray whose parts a test can kill."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray

from tests.conftest import SESSION
from tests.crash.harness import Job
from tests.support.waits import until
from tocsin.pipelines.runtime.control.deployment import Deployment, provisioned
from tocsin.pipelines.runtime.control.launch import deploy
from tocsin.pipelines.runtime.control.ray_client import find
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.kafka import clients

ROOT = str(Path(__file__).parents[2])


class Deployed:
    """A job on Ray whose parts a test can kill.

    Args:
        options: of the job, beside its own.
        context: whether it has a context.
        more: of `Deployment`.
    """

    def __init__(
        self, job: Job, *, options: Mapping[str, Any] | None = None, context: bool = False, **more: Any
    ) -> None:
        own = {"name": job.name, "topic": job.topic, "every": "500ms"}
        plan = Plan(job.plan.factory, {**own, **(options or {})}, model=job.plan.model, device=job.plan.device)
        self._name, self._job = job.name, job
        env = {"PYTHONPATH": ROOT}
        more = {"kafka": job.shards_kafka, "partitions": job.partitions, **more}
        deployment = Deployment(plan=plan, lake=job.lake, env=env, **more)
        deploy(provisioned(deployment, alerts=False, context=True) if context else deployment)

    @property
    def supervisor(self) -> Any:
        """The handle of the job's supervisor."""
        return find(self._name)

    def status(self) -> dict[str, Any]:
        """Return the supervisor's status, empty while it is unreachable."""
        try:
            return ray.get(self.supervisor.status.remote(), timeout=10)
        except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {"workers": 0, "shards": []}

    def shard(self, number: int = 0) -> dict[str, Any]:
        """Wait until a shard runs. Returns its status. The supervisor may be unreachable meanwhile."""

        def running() -> dict[str, Any] | None:
            return next((s for s in self.status()["shards"] if (s["shard"], s["state"]) == (number, "running")), None)

        return until(running, "the shard to run")

    def refused(self) -> dict[str, Any]:
        """Wait until a shard has refused to run and waits for a person. Returns its status."""
        return until(lambda: next((s for s in self.status()["shards"] if s["state"] == "refused"), None), "a refusal")

    def goes_on(self) -> dict[str, Any]:
        """Wait until the shard has read more rows and holds uncommitted ones. Returns its status."""
        before = sum(self.shard()["facts"]["read"].values())

        def busy() -> dict[str, Any] | None:
            facts = (found := self.shard())["facts"]
            return found if sum(facts["read"].values()) > before + 50 and facts["uncommitted_rows"] else None

        return until(busy, "the shard to go on")

    def kill(self, what: str) -> None:
        """SIGKILL a part; a worker with uncommitted rows in flight, and then wait for the shard's new owner."""
        if what == "worker":
            pid = self.goes_on()["pid"]
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.shard()["pid"] != pid, "another worker to take over")
        else:
            os.kill(actor(what), signal.SIGKILL)

    def lose_journal(self) -> None:
        """Stop the job cleanly after it has read under load, and replace its journal with an empty topic."""
        with self._job.load(rate=100):
            self.goes_on()
        self.stop()
        journal = f"_tocsin.{self._name}"
        with clients.admin(self._job.kafka) as admin:
            admin.delete_topics([journal])
        self._job.create({journal: 1})

    def stop(self) -> None:
        """Stop the job cleanly, including the supervisor."""
        supervisor = self.supervisor
        assert ray.get(supervisor.stop.remote(), timeout=90)
        ray.kill(supervisor)


def actor(name: str) -> int:
    """Wait for an actor of a class in these tests. Returns the process id of the newest. Ray puts the class into the title."""

    def living() -> list[psutil.Process]:
        return [
            p
            for p in psutil.process_iter(["cmdline", "create_time", "environ"])
            if (p.info["cmdline"] or [""])[0].startswith(f"ray::{name}")
            and (p.info["environ"] or {}).get(SESSION) == os.environ[SESSION]
        ]

    return max(until(living, f"an actor of class {name}"), key=lambda p: p.info["create_time"]).pid
