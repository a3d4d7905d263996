"""A job's shard in this process: it starts quickly, and a test abandons it instead of killing it."""

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


def shard(job: Job, partitions: Sequence[int] | None = None, rows: int = 500, **fields: Any) -> Shard:
    """Start the job's only shard as its new owner.

    Args:
        partitions: partitions in its config; None for all that the job was created with.
        fields: others of the config, such as `on_gap` and `start`.
    """
    config = ShardConfig(job.plan, job.lake, job.kafka, 0, partitions or range(job.partitions))
    config = dataclasses.replace(config, **fields)
    reader = Reader(
        config.kafka, job.topic, config.partitions, Codec(topic=job.topic, schema=SCHEMA), rows, config.on_gap
    )
    return Shard(config, reader)


def read(running: Shard, job: Job) -> Shard:
    """Run steps until the shard has read all that was sent. Returns the shard."""
    while running.facts()["read"] != job.ends():
        running.turn()
    return running


def alerts(job: Job) -> list[tuple[Any, ...]]:
    """Return all published alerts in order, including repeated ones: rule, partition, offset, row."""
    data = [orjson.loads(record.value) for record in job.read(f"alerts.{job.name}")]
    return [(d["rule"], d["partition"], d["offset"], d["row"]) for d in data]
