"""SIGTERM to `tocsin run` under load: it commits and ends in time, and the next run continues soon, with nothing twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.cli.test_cli import Cli
from tests.crash.harness import Job
from tests.support.setups import Setup
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer

RATE, RESTARTS = 1000, 3
DRAIN_S, RESUME_S = 30, 15


@pytest.mark.slow
def test_a_run_ends_within_30_s_and_the_next_one_commits_within_15_s(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    setup = Setup(tmp_path, kafka.bootstrap_servers, job.name, topic=job.topic)
    given = setup.given({"lake.path": job.lake.folder, "lake.alerts": "false"})
    cli = Cli(tmp_path)

    def committed() -> int:
        return sum(job.stored(f"{job.topic}/{p}") for p in range(job.partitions))

    with job.load(rate=RATE):
        for _ in range(RESTARTS):
            before, began = committed(), time.monotonic()
            with cli.run(job.name, *given) as running:
                until(lambda before=before: committed() > before, "rows of this run in the table")
                assert time.monotonic() - began < RESUME_S
                time.sleep(1)  # rows and alerts are in flight
                began = time.monotonic()
                running.stop(signal.SIGTERM)
                assert time.monotonic() - began < DRAIN_S
    with cli.run(job.name, *given) as running:
        until(job.whole(), "all input in the table")
        running.stop(signal.SIGTERM)
    assert job.differences() == []
