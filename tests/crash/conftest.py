"""Fixtures of the crash tests."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.harness import Job
from tests.support.forked import warm_up
from tocsin.deploy.kafka.server import KafkaServer

MakeJob = Callable[..., Job]
Falls = Callable[[random.Random, Sequence[str]], list[str]]
EACH = 40
"""From this number of kills on, a test of a pipeline crashes at every one of its points."""


@pytest.fixture
def falls(kills: int) -> Falls:
    """`falls(rng, points)` returns the points where a pipeline's test crashes, in random order.

    It returns half of the points, or all of them from `EACH` kills on. `test_kills` crashes the engine itself at every point.
    """
    return lambda rng, points: rng.sample(points, len(points) if kills >= EACH else (len(points) + 1) // 2)


@pytest.fixture
def make_job(kafka: KafkaServer, tmp_path: Path) -> Iterator[MakeJob]:
    """`make_job(**options)` creates a job of `tests.crash.job`; its processes end with the test."""
    jobs: list[Job] = []
    warm_up()

    def make(bootstrap: str = kafka.bootstrap_servers, **options: object) -> Job:
        jobs.append(Job(bootstrap, tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()
