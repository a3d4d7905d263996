"""Kills on a real deployment: the workers, the Reader, the supervisor and the broker of a job on Ray."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest
import ray

from tests.crash.deployed import ROOT, Deployed
from tests.crash.harness import Job
from tests.crash.load import messages
from tests.support.segments import damage
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.draining import stop_pipeline, workers
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT, KAFKA_PYTHON, LIBRDKAFKA


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


@pytest.mark.parametrize("client", [LIBRDKAFKA, pytest.param(KAFKA_PYTHON, marks=pytest.mark.slow)])
def test_a_deployment_survives_the_death_of_any_part(cluster: None, tmp_path: Path, kills: int, client: str) -> None:
    with KafkaServer(data=tmp_path / "kafka") as server:
        job = Job(server.bootstrap_servers, tmp_path)
        deployed = Deployed(job, kafka=job.kafka | {CLIENT: client})
        rng = random.Random(5)
        parts = ["worker", *(["Reader"] if client == KAFKA_PYTHON else []), "Supervisor", "broker"]
        with job.load(rate=300):
            for part in [*parts, *rng.choices(parts, k=(kills - 20) // 5)]:
                deployed.goes_on()
                if part == "broker":
                    server.kill()
                    server.restart()
                else:
                    deployed.kill(part)
            deployed.goes_on()
        until(job.whole(), "all input to be in the table")
        deployed.stop()
        assert job.differences() == []


def test_a_restarted_supervisor_adopts_the_living_worker_and_a_stop_while_it_is_away_drains_that(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    deployed = Deployed(job)
    with job.load(rate=100):
        worker = deployed.goes_on()["pid"]
        deployed.kill("Supervisor")
        assert deployed.goes_on()["pid"] == worker
    until(lambda: sum(deployed.shard()["facts"]["read"].values()) == sum(job.ends().values()), "all input to be read")
    deployed.kill("Supervisor")
    stop_pipeline(job.name, 60)  # without the supervisor, the worker still commits and ends
    assert workers(job.name) == {}
    assert job.drained(job.ends())
    assert job.differences() == []
    assert job.stored("0#epoch") == 1


@pytest.mark.slow  # it waits until a step counts as stuck
def test_a_shard_that_hangs_while_its_worker_answers_is_replaced(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job, hang = Job(kafka.bootstrap_servers, tmp_path), tmp_path / "hang"
    deployed = Deployed(job, options={"hang": str(hang)}, stuck_s=20)
    with job.load(rate=100):
        pid = deployed.goes_on()["pid"]
        hang.touch()
        until(lambda: not psutil.pid_exists(pid), "the worker to be ended")
        hang.unlink()
        assert deployed.goes_on()["restarts"] >= 1  # on a very slow machine, the next one's start takes over 20 s, too
    until(job.whole(), "all input to be in the table")
    deployed.stop()
    assert job.differences() == []


@pytest.mark.slow
def test_a_shard_that_needs_a_person_says_why_and_is_left_alone(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    Deployed(job).lose_journal()
    again = Deployed(job)
    assert "expected the journal that goes with checkpoint" in again.refused()["error"]
    again.stop()


@pytest.mark.slow
def test_a_shard_that_meets_damage_in_all_its_partitions_commits_what_lies_before_it_and_says_where(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job, load = Job(kafka.bootstrap_servers, tmp_path), messages(9)
    for _ in range(2):
        job.send(islice(load, 400))
    lost = {p: damage(kafka, job.topic, end - 1, partition=p) for p, end in job.ends().items()}
    deployed = Deployed(job)
    refused = deployed.refused()
    places = tuple(
        f"{job.topic}[{p}]@{batch.first}: expected records as they were written" for p, batch in lost.items()
    )
    assert refused["error"].startswith(places)
    assert "\n" not in refused["error"]
    assert refused["restarts"] == 0
    assert all(job.stored(f"{job.topic}/{p}") == batch.first > 0 for p, batch in lost.items())
    deployed.stop()
