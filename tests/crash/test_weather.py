"""The irradiance pipeline on simulated sites under kills: each forecast, alert and dead letter is there once, as offline."""

from __future__ import annotations

import random
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
from tocsin.models.irradiance.domain import recorded
from tocsin.models.irradiance.features import HOUR_MS
from tocsin.models.irradiance.model import SITES
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import store_model

pytestmark = pytest.mark.crash
PARTITIONS, LATE_H, NOWHERE = 3, 3, "nowhere"


@pytest.mark.slow  # test_plants.py kills a pipeline of readings
@pytest.mark.parametrize("times", [20])
def test_each_forecast_alert_and_dead_letter_is_there_once_wherever_the_process_is_killed(
    make_job: MakeJob, times: int
) -> None:
    job = make_job(
        factory="tocsin.pipelines.irradiance:pipeline",
        partitions=PARTITIONS,
        ramp=0.03,
        soiling=0.02,
        late=f"{LATE_H}h",
        silent="9999d",  # the simulated days are long past
        rows=128,
        every="3s",
    )
    job.plan = replace(job.plan, model=store_model(job.lake, SITES, name="irradiance", version="1"), device="cpu")
    pipeline = job.plan.build(job.lake)
    _see(job, pipeline, killed(job, _messages(random.Random(7), days=9 + 3 * times), times=times, seed=7))


def _see(job: Job, pipeline: Pipeline, came: pl.DataFrame) -> None:
    """Check that table, alerts and dead letters follow from these readings, each once."""
    (expected, alerts), got = replayed(pipeline, came), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 1000 and expected["forecast"].null_count() < 20
    assert not got.select("site", "event_time").is_duplicated().any()
    both = (frame.drop("processed_at").sort("site", "event_time") for frame in (got, expected))
    assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-2, check_dtypes=False)

    assert len(alerts) > 20
    rang_once(job, alerts)

    # Without the runtime's code: the readings that are too late, and those of a site that is nowhere.
    reached = pl.col("time").cum_max().shift(1).over("site")
    late = came.with_columns(late=(pl.col("time") < reached - LATE_H * HOUR_MS).fill_null(False))
    letters = late.filter(pl.col("late") | (pl.col("site") == NOWHERE))
    letters = letters.filter((pl.col("site") != NOWHERE) | (pl.col("time") <= _passed(came)))
    assert letters.filter("late").height and letters.filter(site=NOWHERE).height
    assert job.letters() == Counter(letters.select("_partition", "_offset", "_row").rows())


def _passed(came: pl.DataFrame) -> int:
    """Up to when the site that is nowhere has been passed on by `Reorder`."""
    newest = came.filter(site=NOWHERE)["time"].max()
    assert isinstance(newest, int)
    return newest - LATE_H * HOUR_MS


def _messages(rng: random.Random, *, days: int) -> list[Message]:
    """Readings of four sites and one that does not say where it is, some late by an hour, some by half a day."""
    table = recorded("sim", sites=4, days=days, seed=9)
    lost = table.filter(site="sim-000").with_columns(site=pl.lit(NOWHERE), latitude=pl.lit(None, pl.Float64))
    rows = pl.concat([table, lost]).sort("time", "site").to_dicts()
    arrival = [row["time"] + rng.choices([0, HOUR_MS + 1, 12 * HOUR_MS], [95, 4, 1])[0] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: arrival[i])
    now = int(time.time() * 1000)
    return [
        Message(sum(map(ord, rows[i]["site"])) % PARTITIONS, orjson.dumps(rows[i]), [], now, rows[i]["site"].encode())
        for i in order
    ]
