"""The field pipeline on simulated halls under kills: each map, picture, alert and dead letter is there once, as offline."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tests.crash.readings import killed, rang_once, replayed
from tocsin.models.field.model import HALLS
from tocsin.models.field.simulation.feed import MINUTE_MS, simulate, usual_halls
from tocsin.pipelines.field import READING, pipeline
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import Model, store_model
from tocsin.pipelines.runtime.engine.replay import replay

pytestmark = pytest.mark.crash
PARTITIONS, LATE_MS, NOBODY = 2, 30_000, "nobody"


@pytest.mark.slow  # test_plants.py kills a pipeline of readings
@pytest.mark.parametrize("times", [20])
def test_each_map_picture_alert_and_dead_letter_is_there_once_wherever_the_process_is_killed(
    make_job: MakeJob, times: int
) -> None:
    job = make_job(
        factory="tocsin.pipelines.field:pipeline",
        partitions=PARTITIONS,
        halls=_halls(),
        hold=1,
        band=0.0,
        late=f"{LATE_MS}ms",
        silent="9999d",  # the simulated days are long past
        rows=256,
        every="3s",
    )
    job.plan = replace(job.plan, model=store_model(job.lake, HALLS, name="field", version="1"), device="cpu")
    made = job.plan.build(job.lake)
    _see(job, made, killed(job, _messages(random.Random(7), minutes=6 + 3 * times), times=times, seed=7))


def _see(job: Job, made: Pipeline, came: pl.DataFrame) -> None:
    """Check that table, alerts and dead letters follow from these readings, each once."""
    (expected, alerts), got = replayed(made, came), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 20 and expected["png"].null_count() == 0
    assert not got.select("hall", "event_time").is_duplicated().any()
    both = (frame.drop("processed_at", "png").sort("hall", "event_time") for frame in (got, expected))
    assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-2, check_dtypes=False)
    pictures = [frame.sort("hall", "event_time")["png"].to_list() for frame in (got, expected)]
    assert pictures[0] == pictures[1]

    assert len(alerts) >= 4
    rang_once(job, alerts)

    # Without the runtime's code: the readings that are too late, and those of a sensor that nobody knows.
    reached = pl.col("time").filter(pl.col("sensor") != NOBODY).cum_max().shift(1).over("hall")
    known = came.filter(pl.col("sensor") != NOBODY).with_columns(reached=reached)
    late = known.filter(pl.col("time") < (pl.col("reached") - LATE_MS) // MINUTE_MS * MINUTE_MS)
    letters = pl.concat([came.filter(sensor=NOBODY), late.select(came.columns)])
    assert late.height and letters.filter(sensor=NOBODY).height
    assert job.letters() == Counter(letters.select("_partition", "_offset", "_row").rows())


def _halls() -> dict[str, dict[str, Any]]:
    """The plans of the halls. Their levels are what the field usually reaches, so that noise makes them ring often."""
    readings = pl.concat([simulate(hall, minutes=8, seed=9, spot=False) for hall in usual_halls()])
    table = readings.sort("time").with_columns(pl.from_epoch("time", "ms")).to_arrow().cast(READING)
    rows, _ = replay(pipeline({"pictures": False}, Model(HALLS, "1", "cpu")), table)
    usual = dict(rows.group_by("hall").agg(pl.col("highest").median()).rows())
    return {hall.name: hall.plan() | {"above": usual[hall.name]} for hall in usual_halls()}


def _messages(rng: random.Random, *, minutes: int) -> list[Message]:
    """Readings of four halls, some late by ten seconds, some by two minutes, some of a sensor that nobody knows."""
    tables = [simulate(hall, minutes=minutes, seed=9, spot=False) for hall in usual_halls()]
    rows = pl.concat(tables).sort("time", "hall", "sensor").to_dicts()
    for row in rng.sample(rows, len(rows) // 100):
        row["sensor"] = NOBODY
    arrival = [row["time"] + rng.choices([0, 10_000, 130_000], [95, 4, 1])[0] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: arrival[i])
    now = int(time.time() * 1000)
    return [
        Message(sum(map(ord, rows[i]["hall"])) % PARTITIONS, orjson.dumps(rows[i]), [], now, rows[i]["hall"].encode())
        for i in order
    ]
