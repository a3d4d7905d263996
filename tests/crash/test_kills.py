"""Exactly once: kill the process at every named point and at random moments; each row, alert and dead letter is there once."""

import random
import time
from collections import Counter
from itertools import count
from statistics import median

import orjson
import pytest

from tests.crash.conftest import MakeJob
from tests.crash.process import ANYWHERE
from tocsin.pipelines.runtime.telemetry.failpoints import POINTS

pytestmark = pytest.mark.crash
STEPPING = [p for p in POINTS if p.startswith(("alerts.", "checkpoint."))]
TAKEOVER = [p for p in POINTS if p.startswith("takeover.")]


def _plan(kills: int, rng: random.Random) -> list[list[str]]:
    """Return lists of crash points: one of a running process, then perhaps one of its successor's recovery."""
    falls: list[list[str]] = []
    for lap in count():
        lap_points = [[p] for p in STEPPING] + [[rng.choice([*STEPPING, ANYWHERE]), p] for p in TAKEOVER]
        rng.shuffle(lap_points)
        lap_points += [[ANYWHERE]] * (1 + 5 * lap)
        for fall in lap_points:
            if sum(map(len, falls)) >= kills:
                return falls
            falls.append(fall)
    raise AssertionError


def test_each_row_and_alert_is_there_once_wherever_the_process_is_killed(make_job: MakeJob, kills: int) -> None:
    rng, job, seen, flights = random.Random(3), make_job(), Counter[str](), []
    started = time.monotonic()
    with job.load():
        worker = job.start()
        for fall in _plan(kills, rng):
            time.sleep(rng.uniform(0, 0.4))
            for point in fall:
                if point in TAKEOVER:
                    worker = job.start(**{point.replace(".", "_"): "SIGKILL"})
                    worker.fell(point)
                else:
                    rows, alerts = worker.fall(point)
                    assert rows > 0, point
                    assert alerts > 0, point
                    flights.append((rows, alerts))
                seen[point] += 1
            worker = job.start()
    job.finish(worker)
    print(f"{seen.total()} kills in {time.monotonic() - started:.0f} s: {dict(seen)}")
    for what, counts in zip(("rows", "alerts"), zip(*flights, strict=True), strict=True):
        print(f"{what} in flight: least {min(counts)}, median {median(counts):g}, most {max(counts)}")
    assert seen.total() >= kills
    assert job.differences() == []


def test_a_journal_of_many_short_chains_is_read_back_whole(make_job: MakeJob) -> None:
    rng, job = random.Random(4), make_job()
    with job.load():
        for _ in range(6):
            time.sleep(rng.uniform(0, 0.4))
            job.start(flaw="short-chains").fall(rng.choice(["alerts.sent", "alerts.committed", "checkpoint.marked"]))
    job.finish(job.start(flaw="short-chains"))
    places = [orjson.loads(record.value).get("place", 0) for record in job.read(f"_tocsin.{job.name}")]
    assert max(places) == 2
    assert job.differences() == []
