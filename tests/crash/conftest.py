"""Jobs to crash."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.crash.harness import Job
from tests.forked import warm_up
from tocsin.deploy.kafka.server import KafkaServer

MakeJob = Callable[..., Job]
Falls = Callable[[random.Random, Sequence[str]], list[str]]
EACH = 40
"""From so many kills on, a story falls at each of its points."""


@pytest.fixture
def falls(kills: int) -> Falls:
    """`falls(rng, points)`: where a pipeline's story falls, in an order of `rng`: at half of the points, with many kills at all.

    The engine itself falls at every point in `test_kills`.
    """
    return lambda rng, points: rng.sample(points, len(points) if kills >= EACH else (len(points) + 1) // 2)


@pytest.fixture
def make_job(kafka: KafkaServer, tmp_path: Path) -> Iterator[MakeJob]:
    """`make_job(**options)` makes a job of `tests.crash.job`; its processes end with the test."""
    jobs: list[Job] = []
    warm_up()

    def make(bootstrap: str = kafka.bootstrap_servers, **options: object) -> Job:
        jobs.append(Job(bootstrap, tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()
