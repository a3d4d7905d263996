"""The field pipeline on simulated halls under kills: each map, picture, alert and dead letter is there once, as offline."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tocsin.models.field.model import HALLS
from tocsin.models.field.simulation.feed import MINUTE_MS, simulate, usual_halls
from tocsin.pipelines.field import READING, pipeline
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model, store_model
from tocsin.pipelines.runtime.engine.replay import replay

pytestmark = pytest.mark.crash
PARTITIONS, LATE_MS, NOBODY = 2, 30_000, "nobody"
POINTS = ("alerts.sent", "alerts.committed", "any time")
"""Where the process is killed: with an alert half published or just published, or by the clock."""


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_each_map_picture_alert_and_dead_letter_is_there_once_wherever_the_process_is_killed(
    make_job: MakeJob, times: int
) -> None:
    rng = random.Random(7)
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
    sent, fallen, at = _messages(rng, minutes=6 + 3 * times), Counter[str](), 0
    made, share = job.plan.build(job.lake), len(sent) // (times + 1)
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
    _see(job, made, records)


def _see(job: Job, made: Pipeline, records: Sequence[ConsumerRecord]) -> None:
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
    parts = [_whole(made, part) for part in came.partition_by("_partition")]
    expected, got = pl.concat(rows for rows, _ in parts), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 20 and expected["png"].null_count() == 0
    assert not got.select("hall", "event_time").is_duplicated().any()
    both = (frame.drop("processed_at", "png").sort("hall", "event_time") for frame in (got, expected))
    assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-2, check_dtypes=False)
    pictures = [frame.sort("hall", "event_time")["png"].to_list() for frame in (got, expected)]
    assert pictures[0] == pictures[1]

    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rang = Counter((a.rule, a.key, a.transition, a.time) for _, alerts in parts for a in alerts)
    assert len(rang) >= 4
    assert Counter((a.rule, a.key, a.transition, a.time) for a in said) == rang
    assert len({a.id for a in said}) == len(said)

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


def _whole(made: Pipeline, readings: pl.DataFrame) -> tuple[pl.DataFrame, list[Alert]]:
    """Return the rows and alerts of readings in one step."""
    schema = pa.schema([*IDENTITY, *READING])
    table = readings.select("_partition", "_offset", "_row", "_timestamp", *READING.names)
    return replay(made, table.to_arrow().cast(schema), splits=[len(table)])
