"""Centered windows under kills on Apache Kafka: waiting rows are not lost or processed twice, and their windows do not change."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import PARTITIONS, Job, Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.runtime.stages.test_centered_window import Naive, Row
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, AlertRule, Batch, Commit, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.stages.centered_window import CenteredWindow
from tocsin.pipelines.runtime.stages.infer import Infer
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

pytestmark = pytest.mark.crash
FACTORY = "tests.crash.test_around:pipeline"
PAST, AHEAD, LAPSE_MS = 5, 4, 1000
FALLS = ["alerts.sent", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", "takeover.live", ANYWHERE]
READING = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
    ]
)
Seen = tuple[str, int, float, int]
"""A row of the table: unit, number, total of its window, number of rows in its window."""


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create a pipeline that adds to each reading the total of the readings around it. A total above 60 raises an alert."""
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=READING,
        key="unit",
        event_time="at",
        stages=[
            SlidingWindow(1, ["x"], name="x"),
            CenteredWindow(PAST, AHEAD, "x", shape=(1, 1), lapse=f"{LAPSE_MS}ms", wait=options["silent"]),
            Infer(lambda window: {"total": window.sum((1, 2, 3))}),
            Infer(lambda there: {"count": there.sum(1)}, tensor="window_there"),
        ],
        results=pa.schema([*READING.remove(2), ("total", pa.float32()), ("count", pa.int64())]),
        rules=[AlertRule(name="much", severity="warning", when=pl.col("total") > 60)],
        batch=Batch(rows=16),
        commit=Commit(every="300ms"),
    )


def readings(seed: int) -> Iterator[Row]:
    """Yield endless readings of six units. A unit's readings are 100 ms apart, with a lapse in 5%. Values are whole numbers."""
    rng, start = random.Random(seed), int(time.time() * 1000) - 3_600_000
    at = dict.fromkeys(range(6), start)
    number = 0
    while True:
        unit = rng.randrange(6)
        at[unit] += LAPSE_MS + 1 if rng.random() < 0.05 else 100
        yield Row(number, f"u{unit}", at[unit], float(rng.randrange(1, 13)))
        number += 1


def send(job: Job, rows: Sequence[Row], came: int | None = None) -> None:
    """Send rows. `came` is the Kafka timestamp of all of them, in ms since the epoch; None: each row's event time."""
    job.send(
        Message(
            int(row.key[1:]) % PARTITIONS,
            orjson.dumps({"unit": row.key, "number": row.offset, "at": row.at, "x": row.x}),
            [],
            row.at if came is None else came,
            row.key.encode(),
        )
        for row in rows
    )


def table(job: Job) -> list[Seen]:
    columns = ("unit", "number", "total", "count")
    return sorted(pl.read_delta(job.lake.uri(job.name)).select(columns).iter_rows(), key=lambda row: row[1])


def said(naive: Naive, rows: Sequence[Row], *, silent: bool) -> list[Seen]:
    """Return the rows expected by a loop over all rows; with `silent`, every unit has become inactive at the end."""
    out = naive.step(rows, set())
    if silent:
        out += naive.step((), {row.key for row in rows})
    there = [(row, [x for x in window if x is not None]) for row, window in out]
    return [(row.key, row.offset, sum(window), len(window)) for row, window in there]


def re_ran(job: Job) -> list[str]:
    """Return the differences that re-runs logged."""
    return [line for worker in job.workers for line in worker.said.splitlines() if "re-ran" in line]


@pytest.mark.slow  # tests/runtime/stages has the windows
def test_each_row_has_the_window_that_a_replay_gives_it_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls
) -> None:
    rng, job, stream = random.Random(4), make_job(factory=FACTORY, silent="9999d"), readings(4)
    sent: list[Row] = []

    def more(count: int) -> None:
        some = [next(stream) for _ in range(count)]
        send(job, some)
        sent.extend(some)

    def feed(worker: Worker) -> bool:
        """Send more, since a crash point waits for alerts in flight. Returns whether the process has died."""
        if worker.process.is_alive():
            more(20)
        return not worker.process.is_alive()

    flights = []
    for fall in falls(rng, FALLS):
        worker = job.start()
        more(60)
        job.drain(worker)  # the waiting rows are in a snapshot
        if fall.startswith("takeover"):
            worker.kill()
            job.start(**{fall.replace(".", "_"): "SIGKILL"}).fell(fall)
            continue
        worker.arm(fall)
        until(partial(feed, worker), f"{fall} to be reached", 60, worker)
        flights.append(worker.fell(fall))
    more(60)
    job.finish(job.start())
    print(f"rows and alerts in flight: {flights}")
    assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)
    assert re_ran(job) == []

    expected = said(Naive(PAST, AHEAD, LAPSE_MS), sent, silent=False)
    assert table(job) == expected
    counts = [count for *_, count in expected]
    assert min(counts) <= AHEAD and max(counts) == PAST + 1 + AHEAD  # lapses on both sides of a row, and full windows
    _see_replay(job, sent)


def _see_replay(job: Job, sent: Sequence[Row]) -> None:
    """Check that rows and alerts equal those of a replay of the topic."""
    records = [
        {"_partition": r.partition, "_offset": r.offset, "_row": 0, "_timestamp": r.timestamp, **orjson.loads(r.value)}
        for r in job.read(job.topic)
    ]
    assert len(records) == len(sent)
    came = pa.Table.from_pylist(records, schema=pa.schema([*IDENTITY, *READING])).sort_by(
        [("_partition", "ascending"), ("_offset", "ascending")]
    )
    rows, alerts = replay(job.plan.build(job.lake), came)
    assert sorted(rows.select("unit", "number", "total", "count").iter_rows(), key=lambda row: row[1]) == table(job)
    rang = Counter((a.key, a.transition, a.data["number"]) for a in alerts)
    read = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    assert Counter((a.key, a.transition, a.data["number"]) for a in read) == rang
    assert len(rang) > 20


def test_rows_of_silent_units_go_on_once_and_stay_as_they_are_when_the_unit_comes_back(make_job: MakeJob) -> None:
    job, stream, naive = make_job(factory=FACTORY, silent="1s"), readings(5), Naive(PAST, AHEAD, LAPSE_MS)
    expected: list[Seen] = []
    for _ in range(2):
        some = [next(stream) for _ in range(60)]
        send(job, some, round(time.time() * 1000))  # at once, so that no unit becomes inactive in between
        worker = job.start()
        job.drain(worker)
        worker.kill()  # the snapshot holds the rows that still wait
        expected += said(naive, some, silent=True)
        worker = job.start()
        until(partial(_has, job, len(expected)), "all rows, those that wait too", worker=worker)
        worker.stop()
        assert table(job) == sorted(expected, key=lambda row: row[1])
    assert re_ran(job) == []


def _has(job: Job, count: int) -> bool:
    return len(table(job)) >= count
