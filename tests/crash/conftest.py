"""Jobs to crash."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.kafka.server import KafkaServer
from tests.crash.harness import Job
from tests.forked import warm_up

MakeJob = Callable[..., Job]


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
