"""A pipeline's context under kills on Apache Kafka: each row is there once, judged by one state of the context that was known."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import ray
from kafka import KafkaProducer
from pyarrow import fs

from tests.crash.deployed import ROOT, Deployed
from tests.crash.harness import Job
from tests.crash.job import HIGH
from tests.crash.load import Message
from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control.ray_client import connect

UNITS = 6
START = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", env={"PYTHONPATH": ROOT}, cpus=2)
    yield
    ray.shutdown()


class Site:
    """Sends readings all the time, and with them maintenance, loads, and their corrections."""

    def __init__(self, job: Job) -> None:
        self._job, self._rng, self._over = job, random.Random(3), threading.Event()
        self._context = KafkaProducer(**job.kafka)
        self._number = 0
        self.planned = 0

    def plan(self, kind: str, *, unit: str = "*", minutes: tuple[float, float] = (0, 60), **more: Any) -> None:
        """Send an interval."""
        begin, end = ((START + timedelta(minutes=m)).isoformat() for m in minutes)
        record = {"asset": unit, "kind": kind, "from": begin, "to": end, **more}
        self._context.send(f"context.{self._job.name}", orjson.dumps(record), unit.encode())
        self._context.flush()
        self.planned += 1

    def read(self, n: int) -> None:
        """Send readings, a second of event time each."""
        sent = []
        for number in range(self._number, self._number + n):
            at, unit = START + timedelta(seconds=number), number % UNITS
            reading = {"unit": str(unit), "at": at.isoformat(), "heat": self._rng.randrange(100) / 100 + 0.005}
            sent.append(Message(unit % 2, orjson.dumps(reading), [], round(at.timestamp() * 1000)))
        self._number += n
        self._job.send(sent)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send readings while the body runs, and a correction now and then."""

        def run() -> None:
            while not self._over.wait(0.2):
                self.read(30)
                now, unit = self._number / 60, str(self._rng.randrange(UNITS))
                self.plan("maintenance", unit=unit, id="next", minutes=(now, now + self._rng.random()))
                self.plan("load", minutes=(0, 90), load=now)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def contexts(job: Job) -> Mapping[str, pl.DataFrame]:
    """Each state of the context that a plan has named, by its version."""
    files = job.lake.files.get_file_info(fs.FileSelector(f"_context/{job.name}"))
    return {f.base_name[:12]: pl.read_ipc(job.lake.files.open_input_stream(f.path).read()) for f in files}


def covers(context: pl.DataFrame, kind: str, unit: str, at: datetime) -> list[dict[str, Any]]:
    """The intervals of a kind that cover a moment of a unit, in a plain loop; its own come last."""
    ms = at.timestamp() * 1000
    found = [r for r in context.iter_rows(named=True) if r["kind"] == kind and r["asset"] in ("*", unit)]
    return sorted((r for r in found if r["from"] <= ms < r["to"]), key=lambda r: (r["asset"] == unit, r["from"]))


def test_each_row_is_judged_by_one_context_wherever_a_part_is_killed(
    cluster: None, kafka: KafkaServer, tmp_path: Path, kills: int
) -> None:
    job = Job(kafka.bootstrap_servers, tmp_path, factory="tests.crash.job:scheduled")
    job.create({f"context.{job.name}": 1})
    site = Site(job)
    site.plan("maintenance", unit="0", minutes=(0, 5))
    site.plan("load", load=0.25)
    site.read(100)
    deployed = Deployed(job, context=True)
    rng = random.Random(1)
    with site.running():
        for part in ["worker", "Supervisor", *rng.choices(["worker", "Supervisor"], k=(kills - 20) // 5)]:
            deployed.kill(part)
            deployed.goes_on()
    until(job.whole(), "all input to be in the table")
    until(
        lambda: job.lake.scan(f"context.{job.name}").collect().height == site.planned, "all context to be in its table"
    )
    deployed.stop()

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
            was_on, is_on = is_on, row["heat"] > HIGH and not maintained
            raised += [(str(unit), row["heat"])] if is_on and not was_on else []
    assert rows["maintenance"].any() and not rows["maintenance"].all()
    for _, own in itertools.groupby(rows.select("partition", "context").iter_rows(), lambda row: row[0]):
        states = [key for key, _ in itertools.groupby(version for _, version in own)]
        assert len(states) == len({*states}), "no shard went back to an older state"
    alerts = [r for r in job.read(f"alerts.{job.name}") if dict(r.headers)["ce_type"].endswith(b"raised")]
    said = [(dict(r.headers)["ce_subject"].decode(), orjson.loads(r.value)["heat"]) for r in alerts]
    assert sorted(said) == sorted(raised)
