"""The occupancy pipeline on a simulated building under kills: each minute of a room, alert and late reading is there once.

Two of the rooms have adapters of their own.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pytest
import torch
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Job
from tests.crash.load import Message
from tocsin.models.adapters import SHARE, Sites
from tocsin.models.occupancy.model import OFFICES, OccupancyModel, load
from tocsin.models.occupancy.simulation.sensors import simulate
from tocsin.operators.lora import Adapters, adaptable
from tocsin.pipelines.occupancy import READING
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay

pytestmark = pytest.mark.crash
PARTITIONS, LATE_MS, MINUTE = 3, 300_000, 60_000
FALLS = ["alerts.sent", "alerts.sent", "alerts.committed", "any time", "any time", "any time"]
"""Where the process is killed: with an alert half published or just published, or by the clock."""
BEFORE, AFTER = 300, 200
"""Readings sent between a checkpoint and a kill: before the reading that raises an alert, and from it on."""
BETWEEN = 0.3
"""A kill by the clock comes at most this many seconds after readings. Checkpoints are further apart."""
ADAPTED = ("room-000", "room-002")


@pytest.mark.parametrize(("rooms", "times"), [(4, 1), pytest.param(12, 7, marks=pytest.mark.slow)])
def test_each_minute_of_a_room_and_each_alert_is_there_once_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls, tmp_path: Path, rooms: int, times: int
) -> None:
    rng = random.Random(3)
    job = make_job(
        factory="tocsin.pipelines.occupancy:pipeline",
        partitions=PARTITIONS,
        hours="09:00-11:00",
        co2=500,
        hold=2,
        silent="9999d",  # the simulated day is long past
        rows=256,
        every="3s",
    )
    _with_adapters(tmp_path / "model")
    stored = store_model(job.lake, tmp_path / "model", name="occupancy", version="1")
    job.plan = replace(job.plan, model=stored, device="cpu")
    readings, _ = simulate(rooms=rooms, days=1, seed=7)
    pipeline, sent = job.plan.build(job.lake), _messages(readings)
    _, alerts = _whole(pipeline, readings)
    points, flights, left, at = falls(rng, FALLS * times), [], list[int](), 0
    chosen = sorted(rng.sample(_ringing(readings, alerts), len(points)))
    for fall, ring in zip(points, chosen, strict=True):
        worker, begin = job.start(), ring - BEFORE
        job.send(sent[at:begin])
        job.drain(worker)  # ends with a checkpoint: the alert is published before the next one
        if fall != "any time":
            worker.arm(fall)
        job.send(sent[begin : (at := ring + AFTER)])
        if fall != "any time":
            flights.append(worker.fell(fall))
            continue
        time.sleep(rng.uniform(0, BETWEEN))
        worker.kill()
        left.append(sum(job.ends().values()) - sum(job.stored(f"{job.topic}/{p}") for p in range(PARTITIONS)))
    worker = job.start()
    job.send(sent[at:])
    job.finish(worker)

    print(f"rows and alerts in flight: {flights}; readings not committed when killed by the clock: {left}")
    assert all(rows and alerts for rows, alerts in flights)
    assert any(left)
    records = job.read(job.topic)
    assert len(records) == len(sent)
    _see(job, pipeline, records)


def _see(job: Job, pipeline: Pipeline, records: Sequence[ConsumerRecord]) -> None:
    """Check that table, alerts and dead letters follow from these records, each once.

    Kafka's timestamps are the current time, and the clock closes a room's minutes after 10 minutes. So only the watermark does.
    """
    came = pl.DataFrame(
        {"_partition": r.partition, "_offset": r.offset, "_row": 0, "_timestamp": r.timestamp, **orjson.loads(r.value)}
        for r in sorted(records, key=lambda r: (r.partition, r.offset))
    )
    parts = [_whole(pipeline, part) for part in came.partition_by("_partition")]
    expected, got = pl.concat(rows for rows, _ in parts), pl.read_delta(job.lake.uri(job.name))
    assert len(expected) > 5000
    assert not got.select("room", "event_time").is_duplicated().any()
    both = (frame.drop("processed_at").sort("room", "event_time") for frame in (got, expected))
    assert_frame_equal(*both, rel_tol=0, abs_tol=1e-4, check_dtypes=False)
    judged = got.select("room", "adapter").unique().rows()
    assert {room: adapter for room, adapter in judged if adapter} == {room: room for room in ADAPTED}
    assert len(judged) == got["room"].n_unique() > len(ADAPTED)

    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rang = Counter((a.rule, a.key, a.transition, a.time) for _, alerts in parts for a in alerts)
    assert len(rang) > 20
    assert Counter((a.rule, a.key, a.transition, a.time) for a in said) == rang
    assert len({a.id for a in said}) == len(said)

    # Without the runtime's code: the readings that are too late, and CO2 at each minute's end.
    reached = pl.col("time").cum_max().shift(1).over("room")
    late = pl.col("time") < (reached - LATE_MS) // MINUTE * MINUTE
    came = came.with_columns(late=late.fill_null(False))
    letters = came.filter("late").select("_partition", "_offset", "_row").rows()
    assert letters
    assert job.letters() == Counter(letters)
    co2 = came.filter(~pl.col("late"), property="co2").select("room", "time", read="value").sort("time")
    ends = got.select("room", "co2", pl.col("event_time").dt.epoch("ms").alias("time")).sort("time")
    known = ends.join_asof(co2, on="time", by="room", allow_exact_matches=False, check_sortedness=False)
    assert known["co2"].equals(known["read"])


def _with_adapters(folder: Path) -> None:
    """Write the shipped model with the adapters of two rooms."""
    torch.manual_seed(0)
    shared = load(OFFICES, "cpu")
    adapters = Adapters(shared.network, adaptable(shared.network, share=SHARE), sites=len(ADAPTED))
    for value in adapters.values.values():
        torch.nn.init.normal_(value, std=0.05)
    sites = Sites(ADAPTED, adapters.requires_grad_(False))
    OccupancyModel(shared.config, shared.network, shared.device, sites).save(folder)


def _messages(readings: pl.DataFrame) -> list[Message]:
    now = int(time.time() * 1000)
    rows = readings.select("room", "property", "time", "value").to_dicts()
    return [
        Message(int(row["room"][-3:]) % PARTITIONS, orjson.dumps(row), [], now, row["room"].encode()) for row in rows
    ]


def _whole(pipeline: Pipeline, readings: pl.DataFrame) -> tuple[pl.DataFrame, list[Alert]]:
    """Return the rows and alerts of readings in one step. The readings may lack partitions and offsets."""
    schema = pa.schema([*IDENTITY, *READING])
    table = readings.to_arrow().select([name for name in schema.names if name in readings.columns])
    table = table.cast(pa.schema([schema.field(name) for name in table.column_names]))
    return replay(pipeline, table, splits=[len(table)])


def _ringing(readings: pl.DataFrame, alerts: Sequence[Alert]) -> list[int]:
    """Return the indices of readings that cause an alert, at least `BEFORE + AFTER` apart."""
    numbered, places = readings.with_row_index(), list[int]()
    for alert in alerts:
        closing = round(alert.time.timestamp() * 1000) + LATE_MS
        (place,) = numbered.filter(pl.col("time") >= closing, room=alert.key)["index"].head(1)
        places.append(place)
    apart = list[int]()
    for place in sorted(places):
        if not apart or place >= apart[-1] + AFTER + BEFORE:
            apart.append(place)
    return apart
