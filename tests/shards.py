"""A job's shard in this process: quick to start, and abandoned where a test wants it killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson

from tests.crash.harness import Job
from tests.crash.job import SCHEMA
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.reader import Reader


def shard(job: Job, partitions: Sequence[int] | None = None, rows: int = 500, **given: Any) -> Shard:
    """Take the job's only shard over.

    Args:
        partitions: which ones its order names; None: all that the job was made with.
        given: of the spec, such as `on_gap` and `start`.
    """
    config = ShardConfig(job.plan, job.lake, job.kafka, 0, partitions or range(job.partitions))
    config = dataclasses.replace(config, **given)
    reader = Reader(job.kafka, job.topic, config.partitions, Codec(topic=job.topic, schema=SCHEMA), rows, config.on_gap)
    return Shard(config, reader)


def read(running: Shard, job: Job) -> Shard:
    """Have it step over all that was sent."""
    while running.facts()["read"] != job.ends():
        running.turn()
    return running


def alerts(job: Job) -> list[tuple[Any, ...]]:
    """What rang, in order: rule, partition, offset, row; once for each time that it did."""
    data = [orjson.loads(record.value) for record in job.read(f"alerts.{job.name}")]
    return [(d["rule"], d["partition"], d["offset"], d["row"]) for d in data]
