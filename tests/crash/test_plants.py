"""The quality pipeline on simulated plants with faults under kills: each verdict and alert is there once, as offline."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import orjson
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tests.crash.readings import killed, rang_once, replayed
from tocsin.models.quality.model import PLANTS
from tocsin.models.quality.simulation.faulty import readings
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import store_model

pytestmark = pytest.mark.crash
PARTITIONS, BROKEN = 3, "plant-00"


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_each_verdict_and_alert_is_there_once_wherever_the_process_is_killed(make_job: MakeJob, times: int) -> None:
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
    pipeline = job.plan.build(job.lake)
    _see(job, pipeline, killed(job, _messages(rows=300 + 100 * times), times=times, seed=7))


def _see(job: Job, pipeline: Pipeline, came: pl.DataFrame) -> None:
    """Check that table, alerts and dead letters follow from these readings, each once."""
    # Without the runtime's code: readings without a time are dead letters, all others are judged.
    lost = came.filter(pl.col("time").is_null()).select("_partition", "_offset", pl.lit(None).alias("none"))
    assert lost.height and job.letters() == Counter(lost.rows())
    came = came.filter(pl.col("time").is_not_null())
    (expected, alerts), got = replayed(pipeline, came), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 200 and expected["quality"].null_count() == 0
    assert not got.select("partition", "offset").is_duplicated().any()
    both = (frame.drop("processed_at").sort("partition", "offset") for frame in (got, expected))
    assert_frame_equal(*both, abs_tol=1e-3, check_dtypes=False)

    assert len(alerts) > 5
    rang_once(job, alerts)


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
