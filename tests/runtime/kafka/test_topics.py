"""The topics that are created before a pipeline's first step, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.harness import Job
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.kafka.topics import provision


@pytest.mark.kafka
def test_more_shards_than_partitions_are_refused_in_one_line(kafka: KafkaServer, tmp_path: Path) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, partitions=2)
    try:
        pipeline = job.plan.build(job.lake)
        assert provision(job.kafka, pipeline, shards=2) == 2
        with pytest.raises(
            ConfigError, match="expected a partition for each of the 3 shards at least, got 2; set pipelines"
        ):
            provision(job.kafka, pipeline, shards=3)
    finally:
        job.close()
