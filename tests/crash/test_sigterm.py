"""SIGTERM to `tocsin run` under load: it commits and ends in time, and the next run continues soon, with nothing twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.crash.harness import Job
from tests.support.background import Background
from tests.support.setups import JOB
from tests.support.tour import BIN
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer

RATE, RESTARTS = 1000, 3
DRAIN_S, RESUME_S = 30, 15


@pytest.mark.slow
def test_a_run_ends_within_30_s_and_the_next_one_commits_within_15_s(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path)
    settings = {
        "kafka.bootstrap_servers": kafka.bootstrap_servers,
        "lake.path": str(job.lake.folder),
        "lake.alerts": "false",
        "mlflow.enabled": "false",
        "ray.num_cpus": "0",
        f"pipelines.{job.name}.factory": JOB,
        f"pipelines.{job.name}.topic": job.topic,
    }
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def committed() -> int:
        return sum(job.stored(f"{job.topic}/{p}") for p in range(job.partitions))

    def run() -> Background:
        return Background([str(BIN / "tocsin"), *given, "run", job.name], folder=tmp_path, environment=environment)

    with job.load(rate=RATE):
        for _ in range(RESTARTS):
            before, began = committed(), time.monotonic()
            with run() as running:
                until(lambda before=before: committed() > before, "rows of this run in the table")
                assert time.monotonic() - began < RESUME_S
                time.sleep(1)  # rows and alerts are in flight
                began = time.monotonic()
                running.stop(signal.SIGTERM)
                assert time.monotonic() - began < DRAIN_S
    with run() as running:
        until(job.whole(), "all input in the table")
        running.stop(signal.SIGTERM)
    assert job.differences() == []
