"""The damage pipeline under repeated kills: each frame, alert and kept file is there once, as a replay gives them."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Job, Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.crash.test_dives import BROKEN, Shot, _broken
from tocsin.models.damage.model import SHIPPED
from tocsin.models.damage.simulation.watch import Watch
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec

pytestmark = pytest.mark.crash
CAMERAS, PARTITIONS, STEP_MS, SIZE = 3, 2, 500, (96, 160)
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]
PERIOD = 30
"""Frames after which a camera turns to another wall."""


def shots(seed: int) -> Iterator[Shot]:
    """Yield endless frames of cameras at walls on which damage grows. A few are lost, sent twice, late or broken."""
    rng = random.Random(seed)
    views = [iter(()) for _ in range(CAMERAS)]
    sequence = 0
    while True:
        if sequence % PERIOD == 0:
            views = [
                iter(Watch(100 * camera + sequence // PERIOD, frames=PERIOD, begins=8, ends=14, size=SIZE))
                for camera in range(CAMERAS)
            ]
        for camera in range(CAMERAS):
            image, chance = next(views[camera]), rng.random()
            shot = Shot(camera, sequence, simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=40))
            if chance < 0.02:
                continue  # lost
            if 0.95 < chance < 0.98:
                yield _broken(shot, BROKEN[rng.randrange(3)])
                continue
            yield shot
            if 0.91 < chance < 0.93:
                yield shot._replace(fate="again")
            if 0.93 < chance < 0.95 and sequence > 3:
                yield shot._replace(sequence=sequence - 3, fate="late")
        sequence += 1


class Walls:
    """A job of the damage pipeline, and the frames sent to it."""

    def __init__(self, make_job: MakeJob, seed: int) -> None:
        self.job = make_job(
            factory="tocsin.pipelines.damage:pipeline",
            partitions=PARTITIONS,
            rows=8,
            every="500ms",
            settle=3,
            hold=2,
            keep_every=4,
        )
        stored = store_model(self.job.lake, SHIPPED, name="damage", version="1")
        self.job.plan = self.job.plan.__class__(**{**vars(self.job.plan), "model": stored, "device": "cpu"})
        self._stream, self._start, self.sent = shots(seed), int(time.time() * 1000) - 3_600_000, list[Shot]()

    def send(self, count: int) -> None:
        """Send the cameras' next frames."""
        some = [*islice(self._stream, count)]
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """Send frames at about the cameras' pace until the process dies."""
        for _ in range(30):
            self.send(9)
            time.sleep(0.2)
            if not worker.process.is_alive():
                break

    def _message(self, shot: Shot) -> Message:
        facts = [
            ("camera", f"cam{shot.camera}".encode()),
            ("sequence", str(shot.sequence).encode()),
            ("time", str(self._start + STEP_MS * shot.sequence).encode()),
        ]
        headers = [("content-type", b"image/jpeg"), *facts]
        return Message(shot.camera % PARTITIONS, shot.file, headers, round(time.time() * 1000), b"k")

    def came(self) -> list[tuple[ConsumerRecord, Shot]]:
        """The topic's records and their frames, by partition and offset."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Shot]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [shot for shot in self.sent if shot.camera % PARTITIONS == p], strict=True)
        return both


def _through(make_job: MakeJob, falls: list[str], *, seed: int, between: int) -> None:
    walls, flights = Walls(make_job, seed), []
    for fall in falls:
        worker = walls.job.start()
        walls.send(between)
        worker.arm(fall)
        walls.go_on(worker)
        flights.append(worker.fell(fall))
    worker = walls.job.start()
    walls.send(between)
    walls.job.finish(worker)
    print(f"rows and alerts in flight: {flights}")
    _see(walls)


@pytest.mark.slow
def test_frames_alerts_and_files_are_there_once_wherever_the_process_is_killed(make_job: MakeJob, falls: Falls) -> None:
    _through(make_job, [*falls(random.Random(21), FALLS)], seed=21, between=60)


def _see(walls: Walls) -> None:
    """Check the table, alerts, dead letters and files by a plain loop over the records, and by a replay of them."""
    job, came = walls.job, walls.came()
    table = pl.read_delta(job.lake.uri(job.name))
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rows, dead, last, files = (
        Counter[tuple[str, int, int]](),
        dict[tuple[int, int], bytes](),
        dict[int, int](),
        dict[Any, bytes](),
    )
    for record, shot in came:
        before = last.get(shot.camera, shot.sequence - 1)
        if shot.fate in BROKEN or shot.sequence < before:
            dead[record.partition, record.offset] = record.value
        elif shot.sequence > before:
            rows[f"cam{shot.camera}", shot.sequence, shot.sequence - before - 1] += 1
            files[f"cam{shot.camera}", shot.sequence] = shot.file
            last[shot.camera] = shot.sequence
    assert Counter(table.select("camera", "sequence", "missed").rows()) == rows
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    assert len(letters) == len(dead) and {(x.partition, x.offset): x.value for x in letters} == dead
    kept = {r["frame"]: (r["camera"], r["sequence"]) for r in table.to_dicts() if r["frame"] is not None}
    folder = Path(job.lake.place("frames"))
    there = {str(p.relative_to(job.lake.place())): p.read_bytes() for p in folder.rglob("*.jpg")}
    assert there == {path: files[place] for path, place in kept.items()} and len(there) > 3
    assert {alert.rule for alert in said} >= {"damage"} and len(said) > 3
    _as_replayed(job, came, table, said)
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def _as_replayed(job: Job, came: list[tuple[ConsumerRecord, Shot]], table: pl.DataFrame, said: list[Alert]) -> None:
    pipeline = job.plan.build(job.lake)
    codec, tables, alerts = Codec(topic=pipeline.topic, schema=pipeline.schema), list[pl.DataFrame](), list[Alert]()
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        rows, rang = replay(pipeline, pa.Table.from_batches([batch]))
        tables.append(rows)
        alerts += rang
    both = (frame.drop("processed_at").sort("camera", "sequence") for frame in (table, pl.concat(tables)))
    assert_frame_equal(*both, rel_tol=1e-4, abs_tol=1e-4, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    assert all(math.isfinite(a.data["score"]) for a in said if a.rule == "damage")
