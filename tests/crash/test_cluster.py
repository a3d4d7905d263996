"""Kills where they really happen: workers, readers, the supervisor and the broker of a deployment on Ray."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from deploy.kafka.server import KafkaServer
from pipelines.runtime import clients
from pipelines.runtime.cluster import connect
from pipelines.runtime.plan import Plan
from pipelines.runtime.supervisor import Deployment, deploy, find
from tests.conftest import SESSION
from tests.crash.harness import PARTITIONS, Job

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


def until(what: Callable[[], Any], why: str) -> Any:
    """Wait for something to become true, and return it."""
    give_up = time.monotonic() + 90
    while not (found := what()):
        assert time.monotonic() < give_up, f"expected within 90 s: {why}"
        time.sleep(0.05)
    return found


class Deployed:
    """A job on Ray, and the hands to kill its parts with."""

    def __init__(self, job: Job, *, options: Mapping[str, Any] | None = None, **more: Any) -> None:
        own = {"name": job.name, "topic": job.topic, "every": "500ms"}
        plan = Plan("tests.crash.job:pipeline", {**own, **(options or {})})
        self._name = job.name
        env = {"PYTHONPATH": ROOT}
        deploy(
            Deployment(name=job.name, plan=plan, lake=job.lake, kafka=job.kafka, partitions=PARTITIONS, env=env, **more)
        )

    def shard(self) -> dict[str, Any]:
        """The shard's status, once it runs; also while the supervisor itself is away."""

        def running() -> dict[str, Any] | None:
            try:
                shards = ray.get(find(self._name).status.remote(), timeout=10)["shards"]
            except (ValueError, ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                return None
            return shards[0] if shards and shards[0]["state"] == "running" else None

        return until(running, "the shard to run")

    def goes_on(self) -> dict[str, Any]:
        """Wait until it has read more than it had, and holds rows that are not committed."""
        before = sum(self.shard()["facts"]["read"].values())

        def busy() -> dict[str, Any] | None:
            facts = (found := self.shard())["facts"]
            return found if sum(facts["read"].values()) > before + 50 and facts["uncommitted_rows"] else None

        return until(busy, "the shard to go on")

    def kill(self, what: str) -> None:
        """SIGKILL a part, with uncommitted rows in flight."""
        if what == "worker":
            pid = self.goes_on()["pid"]
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.shard()["pid"] != pid, "another worker to take over")
        else:
            os.kill(_actor(what), signal.SIGKILL)

    def stop(self) -> None:
        supervisor = find(self._name)
        assert ray.get(supervisor.stop.remote(), timeout=90)
        ray.kill(supervisor)


def _actor(name: str) -> int:
    """Process id of these tests' newest actor of a class, waited for; Ray writes the class into the process's title."""

    def living() -> list[psutil.Process]:
        return [
            p
            for p in psutil.process_iter(["cmdline", "create_time", "environ"])
            if (p.info["cmdline"] or [""])[0].startswith(f"ray::{name}")
            and (p.info["environ"] or {}).get(SESSION) == os.environ[SESSION]
        ]

    return max(until(living, f"an actor of class {name}"), key=lambda p: p.info["create_time"]).pid


def test_a_deployment_survives_the_death_of_any_part(cluster: None, tmp_path: Path, kills: int) -> None:
    with KafkaServer(data=tmp_path / "kafka") as server:
        job = Job(server.bootstrap_servers, tmp_path)
        deployed = Deployed(job)
        rng = random.Random(5)
        parts = ["worker", "Reader", "Supervisor", "broker", "worker", "Reader"]
        with job.load(rate=300):
            for part in [*parts, *rng.choices(parts, k=kills // 5)]:
                deployed.goes_on()
                if part == "broker":
                    server.kill()
                    server.restart()
                else:
                    deployed.kill(part)
            deployed.goes_on()
        until(lambda: job.drained(job.ends()), "all input to be in the table")
        deployed.stop()
        assert job.differences() == []


def test_a_restarted_supervisor_adopts_the_living_worker(cluster: None, kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    deployed = Deployed(job)
    with job.load(rate=100):
        worker = deployed.goes_on()["pid"]
        deployed.kill("Supervisor")
        assert deployed.goes_on()["pid"] == worker
    until(lambda: job.drained(job.ends()), "all input to be in the table")
    deployed.stop()
    assert job.differences() == []
    assert job.stored("0#epoch") == 1


def test_a_shard_that_hangs_while_its_worker_answers_is_replaced(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job, hang = Job(kafka.bootstrap_servers, tmp_path), tmp_path / "hang"
    deployed = Deployed(job, options={"hang": str(hang)}, stuck_s=10)
    with job.load(rate=100):
        pid = deployed.goes_on()["pid"]
        hang.touch()
        until(lambda: not psutil.pid_exists(pid), "the worker to be ended")
        hang.unlink()
        assert deployed.goes_on()["restarts"] == 1
    until(lambda: job.drained(job.ends()), "all input to be in the table")
    deployed.stop()
    assert job.differences() == []


def test_a_shard_that_needs_a_person_says_why_and_is_left_alone(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    deployed = Deployed(job)
    with job.load(rate=100):
        deployed.goes_on()
    deployed.stop()
    with clients.admin(job.kafka) as admin:
        admin.delete_topics([f"_tocsin.{job.name}"])
    job.create({f"_tocsin.{job.name}": 1})
    again = Deployed(job)

    def refused() -> dict[str, Any] | None:
        shards = ray.get(find(job.name).status.remote())["shards"]
        return shards[0] if shards and shards[0]["state"] == "refused" else None

    assert "expected the journal that goes with checkpoint" in until(refused, "the shard to be refused")["error"]
    again.stop()
