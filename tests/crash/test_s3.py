"""A lake in an S3 store: its server and its owners are killed, and each row and alert is there once. Commands work on it."""

from __future__ import annotations

import random
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.cli.test_cli import Cli
from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import messages
from tests.crash.process import ANYWHERE
from tests.support.s3 import KEY, NEEDS_S3, SECRET, S3Server
from tests.support.setups import JOB
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.kafka, NEEDS_S3]
COMMITTING = ("checkpoint.files", "checkpoint.snapshot", "checkpoint.delta")


def test_a_store_that_is_killed_in_the_middle_of_commits_loses_and_doubles_nothing(
    make_job: MakeJob, tmp_path: Path, kills: int
) -> None:
    server, rng = S3Server(tmp_path / "s3"), random.Random(11)
    try:
        job = make_job(lake=server.lake("lake"))
        worker = job.start()
        with job.load(rate=200):
            for n in range(max(kills // 10, 4)):
                before = job.stored("0#checkpoint")
                until(lambda before=before: job.stored("0#checkpoint") > before, "a commit", worker=worker)
                time.sleep(rng.random())
                server.kill()
                time.sleep(rng.uniform(0.2, 3))
                server.start()
                if n % 2:  # its owner, too, in the middle of a commit
                    worker.fall(rng.choice([*COMMITTING, ANYWHERE]))
                    worker = job.start()
        job.finish(worker)
        assert job.differences() == []
    finally:
        server.kill()


def test_the_commands_work_on_it(kafka: KafkaServer, tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3")
    try:
        job = Job(kafka.bootstrap_servers, tmp_path, lake=server.lake("plant"))
        job.send(islice(messages(1), 500))
        (tmp_path / "tocsin.toml").write_text(
            f"""
            mlflow.enabled = false
            ray.num_cpus = 0
            kafka.bootstrap_servers = "{kafka.bootstrap_servers}"
            [lake]
            path = "{job.lake.root}"
            [lake.options]
            AWS_ENDPOINT_URL = "{server.url}"
            AWS_REGION = "us-east-1"
            AWS_ALLOW_HTTP = "true"
            [pipelines.{job.name}]
            factory = "{JOB}"
            topic = "{job.topic}"
            every = "500ms"
            """
        )
        cli = Cli(tmp_path, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
        wrong = [found for found in cli.json("check", job.name) if found["state"] == "wrong"]
        assert wrong == []
        with cli.run(job.name) as running:
            until(job.whole(), "all input in the table")
            cli("compact", job.name)
            running.stop()
        rows = sum(job.found().rows.values())
        assert cli.json("query", f'SELECT COUNT(*) AS rows FROM "{job.name}"') == [{"rows": rows}]
        assert cli.json("state", "show", job.name, "1")
        assert job.differences() == []
    finally:
        server.kill()
