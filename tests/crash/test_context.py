"""A pipeline's context under kills on Apache Kafka: each row is there once, judged by one state of the context that was known."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import ray
import torch
from kafka import KafkaProducer
from pyarrow import fs

from tests.crash.deployed import ROOT, Deployed
from tests.crash.harness import Job
from tests.crash.job import HIGH, HORIZON, KINDS
from tests.crash.load import Message
from tests.models.test_rul_context import aware
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.data import lives
from tocsin.models.timetable import BEGUN, COMING
from tocsin.pipelines.occupancy import READING
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay

UNITS = 6
START = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


class Site:
    """Sends readings all the time, and with them maintenance, loads, and their corrections."""

    def __init__(self, job: Job, start: datetime = START, *, pace: float = 1) -> None:
        self.start, self.pace = start, pace
        self._job, self.rng, self._over = job, random.Random(3), threading.Event()
        self._context = KafkaProducer(**job.kafka)
        self._number = 0
        self.planned = 0

    def plan(self, kind: str, *, unit: str = "*", minutes: tuple[float, float] = (0, 60), **more: Any) -> None:
        """Send an interval."""
        begin, end = ((self.start + timedelta(minutes=m)).isoformat() for m in minutes)
        record = {"asset": unit, "kind": kind, "from": begin, "to": end, **more}
        self._context.send(f"context.{self._job.name}", orjson.dumps(record), unit.encode())
        self._context.flush()
        self.planned += 1

    def read(self, n: int) -> None:
        """Send readings, `pace` seconds of event time each."""
        sent = []
        for number in range(self._number, self._number + n):
            at, unit = self.start + timedelta(seconds=self.pace * number), number % UNITS
            sent.append(Message(unit % 2, orjson.dumps(self.reading(unit, at)), [], round(at.timestamp() * 1000)))
        self._number += n
        self._job.send(sent)

    def reading(self, unit: int, at: datetime) -> dict[str, Any]:
        """One reading of a unit."""
        return {"unit": str(unit), "at": at.isoformat(), "heat": self.rng.randrange(100) / 100 + 0.005}

    def correct(self, now: float) -> None:
        """Send corrections of what is planned, at a minute."""
        unit = str(self.rng.randrange(UNITS))
        self.plan("maintenance", unit=unit, id="next", minutes=(now, now + self.rng.random()))
        self.plan("load", minutes=(0, 90), load=now)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send readings while the body runs, and a correction now and then."""

        def run() -> None:
            while not self._over.wait(0.2):
                self.read(30)
                self.correct(self.pace * self._number / 60)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def survives(deployed: Deployed, site: Site, job: Job, *, kills: int) -> None:
    """Kill the worker and the supervisor in turn while the site sends, and wait until all is in the tables."""
    rng = random.Random(1)
    with site.running():
        for part in ["worker", "Supervisor", *rng.choices(["worker", "Supervisor"], k=kills - 2)]:
            deployed.kill(part)
            deployed.goes_on()
    until(job.whole(), "all input to be in the table")
    until(
        lambda: job.lake.scan(f"context.{job.name}").collect().height == site.planned, "all context to be in its table"
    )
    deployed.stop()


def contexts(job: Job) -> Mapping[str, pl.DataFrame]:
    """Each state of the context that a plan has named, by its version."""
    files = job.lake.files.get_file_info(fs.FileSelector(f"_context/{job.name}"))
    return {f.base_name[:12]: pl.read_ipc(job.lake.files.open_input_stream(f.path).read()) for f in files}


def covers(context: pl.DataFrame, kind: str, unit: str, at: datetime) -> list[dict[str, Any]]:
    """The intervals of a kind that cover a moment of a unit, in a plain loop; its own come last."""
    ms = at.timestamp() * 1000
    found = [r for r in context.iter_rows(named=True) if r["kind"] == kind and r["asset"] in ("*", unit)]
    return sorted((r for r in found if r["from"] <= ms < r["to"]), key=lambda r: (r["asset"] == unit, r["from"]))


def nearby(context: pl.DataFrame, unit: str, at: datetime) -> tuple[float, float]:
    """How many intervals are near to a moment of a unit, and in how many seconds the next one begins, in a plain loop."""
    ms, reach, near, soon = at.timestamp() * 1000, 1000 * HORIZON, 0, math.inf
    for kind in KINDS:
        own = [r for r in context.iter_rows(named=True) if r["kind"] == kind and r["asset"] in ("*", unit)]
        spans = sorted((r["from"] - ms, r["to"] - ms) for r in own)
        chosen = [s for s in spans if s[0] <= 0][-BEGUN:] + [s for s in spans if s[0] > 0][:COMING]
        chosen = [(begin, end) for begin, end in chosen if end >= -reach and begin <= reach]
        near, soon = near + len(chosen), min([soon, *(begin / 1000 for begin, _ in chosen if begin > 0)])
    return near, soon


@pytest.mark.slow
def test_each_row_is_judged_by_one_context_wherever_a_part_is_killed(
    cluster: None, kafka: KafkaServer, tmp_path: Path, kills: int
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tests.crash.job:scheduled")
    job.create({f"context.{job.name}": 1})
    site = Site(job)
    site.plan("maintenance", unit="0", minutes=(0, 5))
    site.plan("load", load=0.25)
    site.read(100)
    survives(Deployed(job, context=True), site, job, kills=2 + (kills - 20) // 5)

    known, rows = contexts(job), job.lake.scan(job.name).sort("partition", "offset").collect()
    assert rows.select("partition", "offset").is_duplicated().sum() == 0
    assert rows.height == sum(job.ends().values()), "no reading of this load is late or wrong"
    assert rows["context"].null_count() == 0, "the shard waited for what was on the topic before it"
    assert rows["context"].n_unique() > 2, "corrections were taken up while it ran"
    raised = list[tuple[str, float]]()
    for (unit,), own in rows.partition_by("unit", as_dict=True, include_key=True).items():
        is_on = False
        for row in own.sort("offset").iter_rows(named=True):
            context = known[row["context"]]
            maintained = bool(covers(context, "maintenance", str(unit), row["event_time"]))
            loads = covers(context, "load", str(unit), row["event_time"])
            assert row["maintenance"] == maintained
            assert row["load"] == (loads[-1]["load"] if loads else None)
            assert (row["near"], row["soon"]) == pytest.approx(nearby(context, str(unit), row["event_time"]))
            was_on, is_on = is_on, row["heat"] > HIGH and not maintained
            raised += [(str(unit), row["heat"])] if is_on and not was_on else []
    assert rows["maintenance"].any() and not rows["maintenance"].all()
    assert rows["soon"].is_finite().any() and rows["near"].n_unique() > 1
    for _, own in itertools.groupby(rows.select("partition", "context").iter_rows(), lambda row: row[0]):
        states = [key for key, _ in itertools.groupby(version for _, version in own)]
        assert len(states) == len({*states}), "no shard went back to an older state"
    alerts = [r for r in job.read(f"alerts.{job.name}") if dict(r.headers)["ce_type"].endswith(b"raised")]
    said = [(dict(r.headers)["ce_subject"].decode(), orjson.loads(r.value)["heat"]) for r in alerts]
    assert sorted(said) == sorted(raised)


class Machines(Site):
    """Sends the readings of machines of a small RUL model, and their washes and loads."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, START - timedelta(days=1))  # twenty kills take longer than an hour of its readings
        self.cycle, self.sent = [0] * UNITS, list[dict[str, Any]]()

    def reading(self, unit: int, at: datetime) -> dict[str, Any]:
        self.cycle[unit] += 1
        load = self.cycle[unit] % 2
        a, b = self.rng.gauss(0, 1), self.rng.gauss(0, 1)
        row = {
            "unit": unit,
            "cycle": self.cycle[unit],
            "load": load,
            "a": 600 + 50 * load + a / 2,
            "b": 0.02 + load + 3e-4 * b,
        }
        self.sent.append({**row, "time": round(at.timestamp() * 1000)})
        return row

    def correct(self, now: float) -> None:
        unit = str(self.rng.randrange(UNITS))
        self.plan("wash", unit=unit, id="next", minutes=(now, now + 2 * self.rng.random()))
        self.plan("load", minutes=(0, 90), power=now)


@pytest.mark.slow
def test_a_network_with_context_judges_each_row_by_the_context_that_its_row_names(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tocsin.pipelines.rul:pipeline")
    model = aware("fading")
    model.save(tmp_path / "model")
    job.plan = replace(job.plan, model=store_model(job.lake, tmp_path / "model", name="rul", version="1"), device="cpu")
    job.create({f"context.{job.name}": 1})
    site = Machines(job)
    site.plan("load", power=1.0)
    site.read(100)
    survives(Deployed(job, options={"period": "1s"}, context=True), site, job, kills=20)

    known, rows = contexts(job), job.lake.scan(job.name).sort("unit", "cycle").collect()
    assert rows.select("partition", "offset").is_duplicated().sum() == 0
    assert rows.height == sum(job.ends().values()) == len(site.sent)
    assert rows["context"].null_count() == 0 and rows["context"].n_unique() > 5
    config = replace(model.config, period=1.0)
    sent = pl.DataFrame(site.sent).with_columns(pl.col("load").cast(pl.Float64))
    whole = lives(sent, config, intervals=known[rows["context"][0]])
    slots = whole.slots.clone()
    for version in rows["context"].unique():
        which = rows["context"] == version
        own = lives(sent.sort("unit", "cycle").filter(which), config, intervals=known[version])
        slots[torch.from_numpy(which.to_numpy().copy())] = own.slots
    expected = model.predict(replace(whole, slots=slots))
    for name in ("rul", "rul_low", "rul_high"):
        np.testing.assert_allclose(rows[name], expected[name], atol=5e-2)
    blind = model.predict(replace(whole, slots=slots[:, :0]))
    assert (blind["rul"] - expected["rul"]).abs().max() > 1, "the context counts"


class Rooms(Site):
    """Sends the air of rooms, and their bookings."""

    def reading(self, unit: int, at: datetime) -> dict[str, Any]:
        hours = (at - self.start).total_seconds() / 3600
        co2 = 600 + 300 * math.sin(hours + unit) + self.rng.gauss(0, 5)
        return {"room": str(unit), "property": "co2", "time": at.isoformat(), "value": co2}

    def correct(self, now: float) -> None:
        unit = str(self.rng.randrange(UNITS))
        self.plan("booked", unit=unit, id="next", minutes=(now, now + 60 * self.rng.random()))


@pytest.mark.slow
def test_each_minute_of_a_room_is_judged_by_the_bookings_that_its_row_names(
    cluster: None, kafka: KafkaServer, tmp_path: Path
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tocsin.pipelines.occupancy:pipeline")
    job.plan = replace(job.plan, model=store_model(job.lake, OFFICES, name="occupancy", version="1"), device="cpu")
    job.create({f"context.{job.name}": 1})
    site = Rooms(job, START - timedelta(days=10), pace=60 / UNITS)
    site.plan("holiday", minutes=(0, 120))
    site.read(100)
    survives(Deployed(job, options={"silent": "9999d"}, context=True), site, job, kills=20)

    known, rows = contexts(job), job.lake.scan(job.name).sort("room", "event_time").collect()
    assert not rows.select("room", "event_time").is_duplicated().any()
    sent = pl.DataFrame([orjson.loads(r.value) for r in job.read(job.topic)])
    sent = sent.with_columns(pl.col("time").str.to_datetime(time_unit="ms", time_zone="UTC")).sort("time")
    table = sent.select(READING.names).to_arrow().cast(READING)
    expected, _ = replay(job.plan.build(job.lake), table, splits=[len(table)])
    both = rows.join(expected, on=["room", "event_time"], suffix="_plain").drop_nulls("probability")
    assert both.height > 1000 and both["context"].null_count() == 0
    for row in both.iter_rows(named=True):
        context = known[row["context"]]
        is_booked, is_holiday = (
            bool(covers(context, k, row["room"], row["event_time"])) for k in ("booked", "holiday")
        )
        assert (row["booked"], row["holiday"]) == (is_booked, is_holiday)
        has_some = context.filter(kind="booked", asset=row["room"]).height > 0
        shift = -3.4 if is_holiday else 1.5 if is_booked else -0.8 if has_some else 0
        odds = row["probability_plain"] / (1 - row["probability_plain"]) * math.exp(shift)
        assert row["probability"] == pytest.approx(odds / (1 + odds), abs=1e-4)
    assert both["booked"].any() and both["holiday"].any() and not both["booked"].all()
