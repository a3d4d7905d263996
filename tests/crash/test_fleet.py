"""Several workers: shards move between them, orders reach them, and the job survives the loss of the whole cluster."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import ray
from kafka import KafkaAdminClient

from tests.cli.test_cli import CLUSTER, Cli
from tests.crash.deployed import ROOT, Deployed
from tests.crash.harness import Job
from tests.crash.load import Message, reading
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.placement import ScalingPolicy
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.plan import Plan

QUICK = ScalingPolicy(least=1, most=2, catch_up_s=2, look_s=2, calm_s=4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


def _finish(job: Job, deployed: Deployed) -> None:
    until(job.whole(), "all input to be in the table")
    deployed.stop()
    assert job.differences() == []


def _workers(deployed: Deployed) -> set[int]:
    """Return the process ids of the shards' workers; empty unless all shards run."""
    shards = deployed.status()["shards"]
    return {s["pid"] for s in shards} if shards and all(s["state"] == "running" for s in shards) else set()


@pytest.mark.slow
def test_shards_move_while_workers_come_and_go_and_are_killed(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, partitions=4, shards=2)
    deployed = Deployed(job, options={"slow": 4}, shards=2, scaling=QUICK)
    with job.load(rate=50) as load:
        (first,) = until(lambda: _workers(deployed), "one worker to run both shards")
        load.rate = 800  # more than two shards can process at 4 ms a row
        until(lambda: deployed.status()["workers"] == 2, "a second worker")
        psutil.Process(first).send_signal(signal.SIGKILL)  # while a shard moves away from it
        load.rate = 50
        until(lambda: len(_workers(deployed)) == 2, "a worker for each shard")
        deployed.kill("Supervisor")
        deployed.kill("worker")
        until(lambda: len(_workers(deployed)) == 2, "a worker for each shard again")
    until(lambda: len(_workers(deployed)) == 1, "one worker to suffice once the load is over", 240)
    assert deployed.status()["workers"] == 1
    _finish(job, deployed)


def test_a_paused_pipeline_commits_lets_go_and_stays_so_and_an_added_partition_is_taken_up_by_itself(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    deployed = Deployed(job)
    with job.load(rate=200):
        deployed.goes_on()
        ray.get(deployed.supervisor.pause.remote(True))
        until(lambda: [s["state"] for s in deployed.status()["shards"]] == ["paused"], "the shard to let go")
        held = job.stored(f"{job.topic}/0")
        deployed.kill("Supervisor")  # the pause outlives the supervisor
        time.sleep(3)
        assert until(lambda: deployed.status().get("paused"), "the supervisor to be back")
        assert (deployed.status()["workers"], job.stored(f"{job.topic}/0")) == (0, held)
        ray.get(deployed.supervisor.pause.remote(False))
        before = deployed.goes_on()
        with KafkaAdminClient(**job.kafka) as admin:
            admin.create_partitions({job.topic: 3})
        values = [reading(1000, n, 0.9995 * (n % 2)) for n in range(1, 41)]
        job.send(Message(2, orjson.dumps(value), [], time.time_ns() // 1_000_000) for value in values)
        told = until(
            lambda: next((s["unread"] for s in deployed.status()["shards"] if s["unread"]), None), "a word of it"
        )
        assert told == [2] and "partitions 2 were added" in deployed.status()["problems"][0]["why"]
        until(lambda: 2 in deployed.shard()["facts"]["read"], "the added partition to be taken up", 60)
        assert (deployed.shard()["pid"], deployed.status()["problems"]) == (before["pid"], [])
    _finish(job, deployed)


@pytest.mark.slow
def test_other_levels_and_silences_hold_from_a_checkpoint_on(cluster: None, kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    deployed = Deployed(job)
    plan = Plan("tests.crash.job:pipeline", {"name": job.name, "topic": job.topic, "every": "500ms"})
    with job.load(rate=200):
        deployed.goes_on()
        supervisor = deployed.supervisor
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            ray.get(supervisor.change.remote(Plan(plan.factory, {**plan.options, "rows": 0})))
        ray.get(supervisor.silence.remote("3", round(time.time() * 1000) + 3_600_000))
        ray.get(supervisor.change.remote(Plan(plan.factory, {**plan.options, "high": 0.9})))
        changed = deployed.goes_on()["facts"]["checkpoint"]
        until(lambda: deployed.shard()["facts"]["checkpoint"] > changed + 1, "a checkpoint with the new plan")
        before = len(job.read(f"alerts.{job.name}"))
        deployed.kill("worker")
        until(lambda: len(job.read(f"alerts.{job.name}")) > before + 200, "more alerts")
    until(job.whole(), "all input to be in the table")
    deployed.stop()
    alerts = [(m, dict(m.headers)) for m in job.read(f"alerts.{job.name}")[before:]]
    raised = [m for m, ce in alerts if ce["ce_type"].endswith(b"raised")]
    assert raised
    assert b"3" not in {dict(m.headers)["ce_subject"] for m in raised}
    assert all(m.value.find(b'"rule":"hot"') < 0 or b'"score":0.9' in m.value for m in raised)


class Head:
    """A Ray head in a process of its own."""

    def __init__(self, cli: Cli) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=cli.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        self.address = self._process.stdout.readline().strip()

    def kill(self) -> None:
        """SIGKILL all its processes at once, except the actors, which become workers without a cluster."""
        ours = [self._process, *psutil.Process(self._process.pid).children(recursive=True)]
        for process in ours:
            if not (isinstance(process, psutil.Process) and process.name().startswith("ray::")):
                process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


@pytest.mark.slow
def test_after_the_loss_of_the_ray_head_up_goes_on(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, partitions=4, shards=2)
    (tmp_path / "tocsin.toml").write_text(
        f"""
        ray.num_cpus = 0
        mlflow.enabled = false
        lake.path = "{job.lake.root}"
        [pipelines.{job.name}]
        factory = "tests.crash.job:pipeline"
        topic = "{job.topic}"
        every = "500ms"
        rows = 512
        shards = 2
        workers = 2
        """
    )
    cli = Cli(tmp_path, TOCSIN_KAFKA__BOOTSTRAP_SERVERS=kafka.bootstrap_servers)

    def up(head: Head) -> Any:
        (seen,) = cli.json("--set", f"ray.address={head.address}", "up", job.name)
        return [shard["state"] for shard in seen["shards"]]

    with job.load(rate=100):
        head = Head(cli)
        assert up(head) == ["running", "running"]
        before = job.stored("0#checkpoint")
        until(lambda: job.stored("0#checkpoint") > before + 2, "checkpoints")
        head.kill()
        second = Head(cli)
        assert up(second) == ["running", "running"]
        before = job.stored("0#checkpoint")
        until(lambda: job.stored("0#checkpoint") > before + 2, "checkpoints of the next cluster")
    until(job.whole(), "all input to be in the table")
    cli("--set", f"ray.address={second.address}", "stop", job.name)
    second.stop()
    assert job.differences() == []
