"""The underwater pipeline on simulated cameras under repeated kills: each frame, alert and kept file is there once."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import simplejpeg
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.conftest import Once
from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Job, Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.crash.test_overload import _skipped
from tests.support.dives import pan, small_model
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka.librdkafka import KAFKA_PYTHON

pytestmark = pytest.mark.crash
CAMERAS, PARTITIONS, STEP_MS, KEEP_EVERY = 4, 3, 100, 5
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]
EVENTS = range(20, 500, 35)
"""Frames at which something new appears in a camera's picture. It stays for `LASTS` more frames."""
LASTS = 10
BROKEN = ("cut off", "no JPEG", "bomb")


class Shot(NamedTuple):
    """A sent frame: its camera, number, file, and what is wrong with it."""

    camera: int
    sequence: int
    file: bytes
    fate: str = "good"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, once: Once) -> Path:
    """A model whose low threshold raises many alerts."""
    folder = tmp_path_factory.mktemp("rings") / "model"
    shutil.copytree(once("surprise-model", small_model), folder)
    config = SurpriseConfig.load(folder)
    replace(config, detector=replace(config.detector, factor=3.0)).save(folder)
    return folder


def shots(seed: int) -> Iterator[Shot]:
    """Yield the cameras' frames in order. A few are lost, sent twice, late, broken, or larger than the others."""
    rng, count = random.Random(seed), EVENTS.stop
    clips = []
    for camera in range(CAMERAS):
        frames = pan(count, seed=camera, speed=3.0 + camera)
        for begin in EVENTS:
            seen = range(begin + 2 * camera, min(begin + 2 * camera + LASTS + 1, count))
            frames[seen.start : seen.stop] = pan(
                seen.stop, seed=camera, speed=3.0 + camera, fish=(seen.start, seen.stop)
            )[seen.start :]
        clips.append(frames.permute(0, 2, 3, 1).contiguous().numpy())
    for sequence in range(count):
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            chance, image = rng.random(), clips[camera][sequence]
            if chance < 0.02:
                continue  # lost
            if chance < 0.04:
                image = cv2.resize(image, None, fx=2, fy=2)
            whole = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90)
            shot = Shot(camera, sequence, whole)
            if 0.95 < chance < 0.99:
                yield _broken(shot, BROKEN[rng.randrange(3)])
                continue
            yield shot
            if 0.91 < chance < 0.93:
                yield shot._replace(fate="again")
            if 0.93 < chance < 0.95 and sequence > 3:
                yield shot._replace(sequence=sequence - 3, fate="late")


def _broken(shot: Shot, how: str) -> Shot:
    file = shot.file[:-40]
    if how == "no JPEG":
        file = b"no frame at all"
    if how == "bomb":  # a header of 10,000 x 10,000 pixels
        at = shot.file.index(b"\xff\xc0") + 5
        file = shot.file[:at] + (10_000).to_bytes(2, "big") * 2 + shot.file[at + 4 :]
    return shot._replace(file=file, fate=how)


class Dive:
    """A job of the underwater pipeline with a small model, and the frames sent to it."""

    def __init__(self, make_job: MakeJob, weights: Path, seed: int, **options: Any) -> None:
        self.job = make_job(
            factory="tocsin.pipelines.surprise:pipeline",
            partitions=PARTITIONS,
            keep_every=KEEP_EVERY,
            rows=16,
            every="500ms",
            **options,
        )
        stored = store_model(self.job.lake, weights, name="surprise", version="1")
        self.job.plan = replace(self.job.plan, model=stored, device="cpu")
        self._stream, self._start = shots(seed), int(time.time() * 1000) - 3_600_000
        self.sent = list[Shot]()

    def send(self, count: int) -> None:
        """Send the cameras' next frames."""
        some = list(islice(self._stream, count))
        assert len(some) == count
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """Send the cameras' next frames at about their pace until the process dies. They raise alerts."""
        for _ in range(20):
            self.send(12)
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

    def came(self, skipped: Mapping[int, Sequence[range]]) -> list[tuple[ConsumerRecord, Shot]]:
        """Return the topic's records and their frames by partition and offset, without the skipped offsets."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Shot]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [shot for shot in self.sent if shot.camera % PARTITIONS == p], strict=True)
        assert all(record.value == shot.file for record, shot in both)
        return [
            (record, shot)
            for record, shot in both
            if not any(record.offset in r for r in skipped.get(record.partition, ()))
        ]


@pytest.mark.slow  # a minute; test_frames.py and test_touches.py kill pipelines of frames
def test_each_frame_is_judged_once_each_alert_said_once_and_each_kept_file_whole_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls, weights: Path
) -> None:
    rng, dive = random.Random(11), Dive(make_job, weights, seed=11)
    flights = []
    for fall in falls(rng, FALLS):
        worker = dive.job.start()
        dive.send(60)
        worker.arm(fall)
        dive.go_on(worker)
        flights.append(worker.fell(fall))
    worker = dive.job.start()
    dive.send(60)
    dive.job.finish(worker)
    print(f"rows and alerts in flight: {flights}")
    assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)
    _see(dive, {})
    assert {shot.fate for shot in dive.sent} == {"good", "again", "late", *BROKEN}


@pytest.mark.slow
def test_with_latest_a_frame_is_judged_once_or_lies_in_a_skipped_range_that_a_dead_letter_stands_for(
    make_job: MakeJob, weights: Path
) -> None:
    dive = Dive(make_job, weights, seed=12, overload="latest", max_lag="1s")
    # Small polls, which librdkafka does not have: frames already read do not count as lag.
    polls = {**dive.job.kafka, "client": KAFKA_PYTHON, "fetch_max_bytes": 1 << 16}
    worker = dive.job.start(kafka=polls)
    dive.send(60)
    dive.job.drain(worker)
    worker.kill()
    for fall in ("alerts.sent", "alerts.committed", "checkpoint.delta"):
        dive.send(150)
        time.sleep(1.2)  # no process runs; the frames become older than `max_lag`
        worker = dive.job.drain(dive.job.start(kafka=polls))
        worker.arm(fall)
        dive.go_on(worker)
        worker.fell(fall)
    dive.job.finish(dive.job.start(kafka=polls))
    skipped = _skipped(dive.job)
    left_out = sum(len(r) for ranges in skipped.values() for r in ranges)
    print(f"{left_out} of {len(dive.sent)} frames skipped")
    assert 100 < left_out < len(dive.sent) - 100
    _see(dive, skipped)


def _see(dive: Dive, skipped: Mapping[int, Sequence[range]]) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    job, came = dive.job, dive.came(skipped)
    table = pl.read_delta(job.lake.uri(job.name))
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    files = _plainly(job, came, table, said, skipped)
    _as_replayed(job.plan.build(job.lake), came, table, said)
    kept = {r["frame"]: (r["camera"], r["sequence"]) for r in table.to_dicts() if r["frame"] is not None}
    there = {
        str(p.relative_to(job.lake.place())): p.read_bytes() for p in Path(job.lake.place("frames")).rglob("*.jpg")
    }
    assert there == {path: files[place] for path, place in kept.items()} and len(there) > 5
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def _plainly(
    job: Job,
    came: Sequence[tuple[ConsumerRecord, Shot]],
    table: pl.DataFrame,
    said: Sequence[Alert],
    skipped: Mapping[int, Sequence[range]],
) -> dict[tuple[str, int], bytes]:
    """Check the same by a plain loop over the records, without the runtime's code. Returns the files of the processed frames."""
    rows, dead = Counter[tuple[str, int, int]](), dict[tuple[int, int], bytes]()
    last, files = dict[int, int](), dict[tuple[str, int], bytes]()
    for record, shot in came:
        before = last.get(shot.camera, shot.sequence - 1)
        if shot.fate in BROKEN or shot.sequence < before:
            dead[record.partition, record.offset] = record.value
        elif shot.sequence > before:
            rows[f"cam{shot.camera}", shot.sequence, shot.sequence - before - 1] += 1
            files[f"cam{shot.camera}", shot.sequence] = shot.file
            last[shot.camera] = shot.sequence
    assert Counter(table.select("camera", "sequence", "missed").rows()) == rows
    dead |= {(p, r.start): b"" for p, ranges in skipped.items() for r in ranges}
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    assert len(letters) == len(dead)
    assert {(x.partition, x.offset): x.value for x in letters} == dead

    # Alerts and kept files follow from the table: an alert where an event begins or ends, a file every `KEEP_EVERY` frames.
    edges, kept = Counter[tuple[str, str, int]](), set[tuple[str, int]]()
    for (camera,), frames in table.sort("sequence").group_by("camera", maintain_order=True):
        run, standing = 0, False
        for sequence, novel, score, level in frames.select("sequence", "novel", "score", "level").iter_rows():
            if novel != standing:
                edges[str(camera), "raised" if novel else "cleared", sequence] += 1
                standing = novel
            # The first frame after a lapse has no score, and a lapse ends an event.
            assert not novel if score is None else score > level or not novel or run
            if novel and run % KEEP_EVERY == 0:
                kept.add((str(camera), sequence))
            run = run + 1 if novel else 0
    assert Counter((a.key, a.transition, a.data["sequence"]) for a in said) == edges
    assert len(edges) > 8
    assert {*table.filter(pl.col("frame").is_not_null()).select("camera", "sequence").rows()} == kept
    return files


def _as_replayed(
    pipeline: Pipeline, came: Sequence[tuple[ConsumerRecord, Shot]], table: pl.DataFrame, said: Sequence[Alert]
) -> None:
    """Check that a replay of each partition's records gives the same rows and alerts."""
    codec, tables, alerts = Codec(topic=pipeline.topic, schema=pipeline.schema), list[pl.DataFrame](), list[Alert]()
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        rows, rang = replay(pipeline, pa.Table.from_batches([batch]))
        tables.append(rows)
        alerts += rang
    both = (frame.drop("processed_at").sort("camera", "sequence") for frame in (table, pl.concat(tables)))
    # Scores are errors in units of the expected error, which may be 1/20. This magnifies how batch size changes a sum.
    assert_frame_equal(*both, rel_tol=1e-3, abs_tol=1e-3, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    seen = {a.id: a.data for a in alerts}
    for a in said:
        assert (a.data["frame"], a.data["sequence"]) == (seen[a.id]["frame"], seen[a.id]["sequence"])
        # An event that ended with a lapse is cleared by a frame without a score.
        scores = [math.nan if data["score"] is None else data["score"] for data in (a.data, seen[a.id])]
        assert np.allclose(*scores, rtol=1e-3, atol=1e-3, equal_nan=True)
        assert np.allclose(a.data["map"], seen[a.id]["map"], rtol=1e-3, atol=1e-3)
