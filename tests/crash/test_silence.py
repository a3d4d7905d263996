"""Rooms that stop sending under repeated kills: each silence raises one alert, and delays no other room."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import orjson
import polars as pl
import pytest
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job, Worker
from tests.support.waits import until
from tocsin.models.occupancy.model import OFFICES
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model

pytestmark = pytest.mark.crash
PARTITIONS, MINUTE = 3, 60_000
WINDOW, GAP = 60, 60
"""Minutes until a room's first row, and minutes that a room may send nothing and still have rows."""
ROOMS, PROPERTIES = "abcdef", ("co2", "temperature", "humidity")
SILENT = 4
"""Seconds without a reading after which a room's alert is raised."""
BEAT = 0.4
"""Seconds per simulated minute. A room has one row a minute, and a test can't wait that long."""
WARM = 70
"""Simulated minutes that are sent at the start. A room has rows after an hour."""


class Building:
    """Sends a reading per room, property and minute from a thread while in the `with` block. Kafka stamps the current time."""

    def __init__(self, job: Job) -> None:
        self._topic, self._producer = job.topic, KafkaProducer(**job.kafka, acks="all", linger_ms=0)
        self._begin = (int(time.time() * 1000) - 6 * 60 * MINUTE) // MINUTE * MINUTE
        self._sending = {(room, name) for room in ROOMS for name in PROPERTIES}
        self._lock, self._over, self._thread = (
            threading.Lock(),
            threading.Event(),
            threading.Thread(target=self._send_clock),
        )
        self._minute = 0

    def __enter__(self) -> Building:
        for _ in range(WARM):
            self._send()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._producer.close(timeout=30)

    @property
    def now(self) -> datetime:
        """The simulated time: the end of the last minute that was sent."""
        return datetime.fromtimestamp((self._begin + self._minute * MINUTE) / 1000, UTC)

    def stop(self, room: str, *properties: str) -> None:
        """Stop the readings of a room, or of some of its properties."""
        with self._lock:
            self._sending -= {(room, name) for name in properties or PROPERTIES}

    def resume(self, room: str) -> None:
        """Let a room send again."""
        with self._lock:
            self._sending |= {(room, name) for name in PROPERTIES}

    def _send_clock(self) -> None:
        while not self._over.wait(BEAT):
            self._send()

    def _send(self) -> None:
        with self._lock:
            for room, name in sorted(self._sending):
                place = ROOMS.index(room)
                at = self._begin + self._minute * MINUTE + 1000 * (7 * place + PROPERTIES.index(name))
                moves = (self._minute * 7 + place) % 30
                value = 420.0 + 10 * place + moves if name == "co2" else 20 + moves / 10
                reading = {"room": room, "property": name, "time": at, "value": value}
                self._producer.send(self._topic, orjson.dumps(reading), room.encode(), partition=place % PARTITIONS)
            self._producer.flush()
            self._minute += 1


@pytest.mark.slow  # nearly a minute; tests/crash/test_rooms.py kills the same pipeline
def test_a_silence_rings_once_wherever_the_process_is_killed_and_nobody_waits_for_it(make_job: MakeJob) -> None:
    job = make_job(
        factory="tocsin.pipelines.occupancy:pipeline",
        partitions=PARTITIONS,
        days="mon-sun",
        hours="00:00-24:00",
        silent=f"{SILENT}s",
        late="1min",
        every=f"{SILENT + 2}s",
    )
    job.plan = replace(job.plan, model=store_model(job.lake, OFFICES, name="occupancy", version="1"), device="cpu")
    with Building(job) as building:
        worker = job.start()
        _go_on(job, building, ROOMS, worker)
        building.stop("f", "temperature")

        building.stop("a")
        time.sleep(SILENT / 2)
        worker.kill()
        time.sleep(SILENT)
        assert not _said(job)
        worker = job.replace()  # the timer expired while no process ran
        _rings(job, 1, worker)

        flights = list[tuple[int, int]]()
        for said, (room, point) in enumerate((("b", "alerts.sent"), ("e", "alerts.committed")), 2):
            worker.arm(point)
            building.stop(room)  # right after a checkpoint: the alert is published before the next
            flights.append(worker.fell(point))
            worker = job.replace()
            _rings(job, said, worker)
        _go_on(job, building, "cdf", worker)

        building.resume("a")
        _rings(job, 4, worker)
        worker.kill()  # right after the alert was cleared
        worker = job.replace()
        building.stop("a")
        building.resume("e")
        _rings(job, 6, worker)
        worker.kill()  # right after the alert was raised again
        worker = job.replace()
        _go_on(job, building, "cdef", worker)
    # The building has stopped: the other rooms raise alerts; the inactive ones must not raise another.
    _rings(job, 10, worker)
    time.sleep(SILENT / 2)
    job.finish(worker)

    assert all(rows and alerts == 1 for rows, alerts in flights)
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]
    _see(job, {"a": 2, "b": 1, "c": 1, "d": 1, "e": 2, "f": 1})


def _see(job: Job, silences: dict[str, int]) -> None:
    """Check alerts and table against the log, without the runtime's code.

    Args:
        silences: number of silences of each room.
    """
    records, by_room = job.read(job.topic), defaultdict[str, list[ConsumerRecord]](list)
    for record in records:
        by_room[record.key.decode()].append(record)
    alerts, told = Counter[tuple[str, str, int]](), Counter[tuple[str, int]]()
    minutes = Counter[tuple[str, int]]()
    for room, sent in by_room.items():
        read = [orjson.loads(r.value)["time"] // MINUTE for r in sent]
        quiet = [i for i, (r, s) in enumerate(pairwise(sent)) if s.timestamp - r.timestamp >= 1000 * SILENT]
        assert len(quiet) + 1 == silences[room], "expected a building that sends without a pause"
        # The event time of "raised" is the end of the last reading's minute; "cleared" has the minute after.
        ends = [(read[i] + 1) * MINUTE for i in (*quiet, -1)]
        told.update((room, end) for end in ends)
        alerts.update((room, "raised", end) for end in ends)
        alerts.update((room, "cleared", end + MINUTE) for end in ends[:-1])
        following = pairwise([*sorted(set(read)), read[-1] + 1])
        closed = [m for minute, after in following for m in range(minute, min(after, minute + GAP + 1))]
        minutes.update((room, (m + 1) * MINUTE) for m in closed[WINDOW - 1 :])

    said = _said(job)
    assert {a.rule for a in said} == {"silent_sensor"}
    assert Counter((a.key, a.transition, round(a.time.timestamp() * 1000)) for a in said) == alerts
    assert len({a.id for a in said}) == len(said)
    got = pl.read_delta(job.lake.uri(job.name)).with_columns(time=pl.col("event_time").dt.epoch("ms"))
    assert Counter(got.filter("silent").select("room", "time").iter_rows()) == told
    rows = got.filter(~pl.col("silent"))
    assert Counter(rows.select("room", "time").iter_rows()) == minutes
    assert not job.letters()
    _see_ages(rows, records)


def _see_ages(rows: pl.DataFrame, records: Sequence[ConsumerRecord]) -> None:
    """Check that each row has every property's last value and its age, whatever else the room has sent."""
    came = pl.DataFrame(orjson.loads(r.value) for r in records)
    for name in PROPERTIES:
        last = came.filter(property=name).select("room", "time", read="value", at="time").sort("time")
        ends = rows.select("room", "time", now=name, age=f"{name}_age").sort("time")
        known = ends.join_asof(last, on="time", by="room", allow_exact_matches=False, check_sortedness=False)
        assert known["now"].equals(known["read"])
        assert known.select((pl.col("age") == (pl.col("time") - pl.col("at")) / 1000).all()).item()
    lost = rows.filter(room="f").select((pl.col("temperature_age") > 1800).any(), (pl.col("co2_age") < 60).all())
    assert lost.row(0) == (True, True)


def _said(job: Job) -> list[Alert]:
    return [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]


def _rings(job: Job, alerts: int, worker: Worker) -> None:
    """Wait until this many alerts were published in all."""
    until(lambda: len(_said(job)) >= alerts, f"{alerts} alerts", worker=worker)


def _go_on(job: Job, building: Building, rooms: str, worker: Worker) -> None:
    """Wait until the table has a row of each of these rooms for a minute that has not been sent yet."""
    now = building.now
    why = f"minutes of {rooms} after {now}"
    until(lambda: job.stored("0#checkpoint") and _newest(job, rooms) > now, why, worker=worker)


def _newest(job: Job, rooms: str) -> datetime:
    """Return the time up to which all of these rooms have rows."""
    table = pl.scan_delta(job.lake.uri(job.name)).filter(pl.col("room").is_in(list(rooms)))
    ends: list[datetime] = table.group_by("room").agg(pl.max("event_time")).collect()["event_time"].to_list()
    return min(ends) if len(ends) == len(rooms) else datetime.min.replace(tzinfo=UTC)
