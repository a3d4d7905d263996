"""A pipeline of JSON readings under kills: sends them, and what must have come of them by an offline replay."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

import orjson
import polars as pl
import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash.harness import Job
from tests.crash.load import Message
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.replay import replay

ANY_TIME = "any time"
POINTS = ("alerts.sent", "alerts.committed", ANY_TIME)
"""Where the process is killed: with an alert half published or just published, or by the clock."""


def killed(job: Job, messages: Sequence[Message], *, times: int, seed: int) -> pl.DataFrame:
    """Run a job to its end, and kill its process so often while the messages come.

    Returns:
        The readings as the topic has them, see `arrived`.
    """
    rng, at, share = random.Random(seed), 0, len(messages) // (times + 1)
    for point in islice(cycle(POINTS), times):
        worker = job.start()
        if point != ANY_TIME:
            worker.arm(point)
        job.send(messages[at : (at := at + share)])
        if point != ANY_TIME:
            worker.fell(point)
        else:
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
    worker = job.start()
    job.send(messages[at:])
    job.finish(worker)
    records = job.read(job.topic)
    assert len(records) == len(messages)
    return arrived(records)


def arrived(records: Sequence[ConsumerRecord]) -> pl.DataFrame:
    """The readings of a topic: the fields of their JSON, and the columns of `IDENTITY`, by partition and offset."""
    return pl.DataFrame(
        [
            {
                "_partition": r.partition,
                "_offset": r.offset,
                "_row": 0,
                "_timestamp": r.timestamp,
                **orjson.loads(r.value),
            }
            for r in sorted(records, key=lambda r: (r.partition, r.offset))
        ],
        infer_schema_length=None,
    )


def replayed(pipeline: Pipeline, readings: pl.DataFrame) -> tuple[pl.DataFrame, list[Alert]]:
    """The rows and alerts of readings, each partition in one step."""
    schema = pa.schema([*IDENTITY, *pipeline.schema])
    parts = [
        replay(pipeline, part.select(schema.names).to_arrow().cast(schema), splits=[part.height])
        for part in readings.partition_by("_partition")
    ]
    return pl.concat(rows for rows, _ in parts), [alert for _, alerts in parts for alert in alerts]


def rang_once(job: Job, expected: Sequence[Alert]) -> None:
    """Check that the alert topic has these alerts, each once."""
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    assert Counter((a.rule, a.key, a.transition, a.time) for a in said) == Counter(
        (a.rule, a.key, a.transition, a.time) for a in expected
    )
    assert len({a.id for a in said}) == len(said)
