"""The quality pipeline on simulated plants with faults under kills: each verdict and alert is there once, as offline."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tocsin.models.quality.model import PLANTS
from tocsin.models.quality.simulation.faulty import CHANNELS, readings
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay

pytestmark = pytest.mark.crash
PARTITIONS, BROKEN = 3, "plant-00"
POINTS = ("alerts.sent", "alerts.committed", "any time")
"""Where the process is killed: with an alert half published or just published, or by the clock."""


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_each_verdict_and_alert_is_there_once_wherever_the_process_is_killed(make_job: MakeJob, times: int) -> None:
    rng = random.Random(7)
    job = make_job(
        factory="tocsin.pipelines.quality:pipeline",
        partitions=PARTITIONS,
        level=0.3,  # rings often
        hold=1,
        stride=4,
        silent="9999d",
        rows=128,
        every="3s",
    )
    job.plan = replace(job.plan, model=store_model(job.lake, PLANTS, name="quality", version="1"), device="cpu")
    sent, fallen, at = _messages(rows=300 + 100 * times), Counter[str](), 0
    pipeline, share = job.plan.build(job.lake), len(sent) // (times + 1)
    for number in range(times):
        point, worker = POINTS[number % len(POINTS)], job.start()
        if point != "any time":
            worker.arm(point)
        job.send(sent[at : (at := at + share)])
        if point == "any time":
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
        else:
            worker.fell(point)
        fallen[point] += 1
    worker = job.start()
    job.send(sent[at:])
    job.finish(worker)
    print(f"{fallen.total()} kills: {dict(fallen)}")
    records = job.read(job.topic)
    assert len(records) == len(sent)
    _see(job, pipeline, records)


def _see(job: Job, pipeline: Pipeline, records: Sequence[ConsumerRecord]) -> None:
    """Check that table, alerts and dead letters follow from these records, each once."""
    came = pl.DataFrame(
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
    # Without the runtime's code: readings without a time are dead letters, all others are judged.
    lost = came.filter(pl.col("time").is_null()).select("_partition", "_offset", pl.lit(None).alias("none"))
    assert lost.height and job.letters() == Counter(lost.rows())
    came = came.filter(pl.col("time").is_not_null())
    parts = [_whole(pipeline, part) for part in came.partition_by("_partition")]
    expected, got = pl.concat(rows for rows, _ in parts), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 200 and expected["quality"].null_count() == 0
    assert not got.select("partition", "offset").is_duplicated().any()
    both = (frame.drop("processed_at").sort("partition", "offset") for frame in (got, expected))
    assert_frame_equal(*both, abs_tol=1e-3, check_dtypes=False)

    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rang = Counter((a.rule, a.key, a.transition, a.time) for _, alerts in parts for a in alerts)
    assert len(rang) > 5
    assert Counter((a.rule, a.key, a.transition, a.time) for a in said) == rang
    assert len({a.id for a in said}) == len(said)


def _messages(*, rows: int) -> list[Message]:
    """Readings of eight plants with a fault each; a few of one plant have no time."""
    table, _ = readings(8, rows, seed=9)
    lost = (pl.col("asset") == BROKEN) & (pl.int_range(pl.len()) % 25 == 0)
    table = table.with_columns(pl.when(lost).then(None).otherwise(pl.col("time").dt.epoch("ms")).alias("time"))
    now = int(time.time() * 1000)
    return [
        Message(sum(map(ord, row["asset"])) % PARTITIONS, orjson.dumps(row), [], now, row["asset"].encode())
        for row in table.to_dicts()
    ]


def _whole(pipeline: Pipeline, came: pl.DataFrame) -> tuple[pl.DataFrame, list[Alert]]:
    """Return the rows and alerts of readings in one step."""
    schema = pa.schema([*IDENTITY, *pipeline.schema])
    names = ["_partition", "_offset", "_row", "_timestamp", "asset", "time", *CHANNELS]
    return replay(pipeline, came.select(names).to_arrow().cast(schema), splits=[len(came)])
