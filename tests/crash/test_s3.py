"""A job whose lake is in an S3 store: the store and the owners are killed, and each row and each alert is there once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.process import ANYWHERE
from tests.support.s3 import NEEDS_S3, S3Server
from tests.support.waits import until

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
