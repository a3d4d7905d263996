"""The pose pipeline on simulated cameras under repeated kills: each frame, alert and kept frame is there once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.films import ROOM, SEA, shots
from tocsin.models.domain import Shot
from tocsin.models.pose.model import SHIPPED
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.video import encoded
from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original

pytestmark = pytest.mark.crash
CAMERAS, PARTITIONS, FRAMES, STEP_MS = 3, 2, 400, 100
DARK_EVERY, DARK = 30, 10
"""Frames from one darkness of a camera to the next, and how long it lasts. Each raises an alert."""
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]
REFUSED = "cut off"


class Sent(NamedTuple):
    """A sent frame: its camera, number, file, and what is wrong with it."""

    camera: int
    sequence: int
    file: bytes
    fate: str = "good"


def frames(seed: int) -> Iterator[Sent]:
    """Yield the cameras' frames in order. A few are lost, sent twice, late or cut off."""
    rng = random.Random(seed)
    ways = [[encoded(shot) for shot in shots(world, 20)] for world in (ROOM, SEA, ROOM)]
    dark = encoded(Shot(np.full((120, 160, 3), 4, np.uint8)))
    for sequence in range(FRAMES):
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            chance, at = rng.random(), (sequence + 7 * camera) % 40
            blind = (sequence + 9 * camera) % DARK_EVERY >= DARK_EVERY - DARK
            one = Sent(camera, sequence, dark if blind else ways[camera][at if at < 20 else 39 - at])  # to and fro
            if chance < 0.02:
                continue  # lost
            if chance < 0.04:
                one = one._replace(file=one.file[:-40], fate=REFUSED)
            yield one
            if 0.94 < chance < 0.97:
                yield one._replace(fate="again")
            elif chance > 0.97 and sequence > 3:
                yield one._replace(sequence=sequence - 3, fate="late")


class Watch:
    """A job of the pose pipeline with the shipped model, and the frames sent to it."""

    def __init__(self, make_job: MakeJob, seed: int) -> None:
        options = {"hold": 3, "away": "1s", "places": 8}
        self.job = make_job(
            factory="tocsin.pipelines.pose:pipeline", partitions=PARTITIONS, rows=16, every="500ms", **options
        )
        self.job.plan = replace(
            self.job.plan, model=store_model(self.job.lake, SHIPPED, name="pose", version="1"), device="cpu"
        )
        self._stream, self._start = frames(seed), int(time.time() * 1000) - 3_600_000
        self.sent = list[Sent]()

    def send(self, count: int) -> None:
        """Send the cameras' next frames."""
        some = list(islice(self._stream, count))
        assert len(some) == count
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """Send the cameras' next frames until the process dies. A crash point may wait for alerts in flight."""
        for _ in range(12):
            self.send(9)
            worker.process.join(1)  # a slow machine must not use up the frames
            if not worker.process.is_alive():
                break

    def _message(self, sent: Sent) -> Message:
        facts = {
            "camera": f"cam{sent.camera}",
            "sequence": sent.sequence,
            "time": self._start + STEP_MS * sent.sequence,
        }
        headers = [("content-type", b"image/jpeg"), *((name, str(value).encode()) for name, value in facts.items())]
        return Message(sent.camera % PARTITIONS, sent.file, headers, round(time.time() * 1000), b"k")

    def came(self) -> list[tuple[ConsumerRecord, Sent]]:
        """Return the topic's records and their frames, by partition and offset."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Sent]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [one for one in self.sent if one.camera % PARTITIONS == p], strict=True)
        return both


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_frame_has_its_pose_once_as_replayed_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls
) -> None:
    rng, watch = random.Random(5), Watch(make_job, seed=5)
    flights = []
    for fall in falls(rng, FALLS):
        worker = watch.job.start()
        watch.send(24)
        worker.arm(fall)
        watch.go_on(worker)
        flights.append(worker.fell(fall))
    watch.send(45)
    watch.job.finish(watch.job.start())
    print(f"rows and alerts in flight: {flights}; {len(watch.sent)} frames")
    assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)
    assert {one.fate for one in watch.sent} == {"good", "again", "late", REFUSED}
    _see(watch)


def _see(watch: Watch) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    job, came = watch.job, watch.came()
    table = pl.read_delta(job.lake.uri(job.name))
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rows, dead, last = Counter[tuple[str, int, int]](), Counter[tuple[int, int, bytes]](), dict[int, int]()
    for record, sent in came:  # a plain loop, without the runtime's code
        before = last.get(sent.camera, sent.sequence - 1)
        if sent.fate == REFUSED or sent.sequence < before:
            dead[record.partition, record.offset, record.value] += 1
        elif sent.sequence > before:
            rows[f"cam{sent.camera}", sent.sequence, sent.sequence - before - 1] += 1
            last[sent.camera] = sent.sequence
    assert Counter(table.select("camera", "sequence", "missed").rows()) == rows
    store = OriginalStore(job.lake.files, "", job.lake.place())  # of late frames over 5 KB
    letters = [load_original(DeadLetter.read(m), store) for m in job.read(f"{job.topic}.dlq")]
    assert Counter((x.partition, x.offset, x.value) for x in letters) == dead
    _as_replayed(job.plan.build(job.lake), came, table, said)
    files = {(f"cam{s.camera}", s.sequence): s.file for _, s in came if s.fate == "good"}
    kept = {frame: files[camera, n] for camera, n, frame in table.select("camera", "sequence", "frame").rows() if frame}
    there = {
        str(p.relative_to(job.lake.place())): p.read_bytes() for p in Path(job.lake.place("frames")).rglob("*.jpg")
    }
    assert there == kept and len(there) >= CAMERAS
    assert table["revisit"].any() and {a.transition for a in said} == {"raised", "cleared"}
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def _as_replayed(
    pipeline: Pipeline, came: Sequence[tuple[ConsumerRecord, Sent]], table: pl.DataFrame, said: Sequence[Alert]
) -> None:
    """Check that a replay of each partition's records gives the same rows and alerts."""
    codec, tables, alerts = Codec(topic=pipeline.topic, schema=pipeline.schema), list[pl.DataFrame](), list[Alert]()
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        rows, rang = replay(pipeline, pa.Table.from_batches([batch]))
        tables.append(rows)
        alerts += rang
    both = (frame.drop("processed_at").sort("camera", "sequence") for frame in (table, pl.concat(tables)))
    # Positions add up: how the size of a batch changes a sum is magnified.
    assert_frame_equal(*both, rel_tol=1e-3, abs_tol=1e-3, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    assert len(alerts) > 8
