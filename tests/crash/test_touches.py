"""The touch pipeline on simulated cameras under repeated kills: each frame is processed once, with the frames around it, and each
touch raises one alert."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from polars.testing import assert_frame_equal

from tests.conftest import Once
from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Worker
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.touches import CONFIG, clip, small_model, touches
from tests.support.waits import until
from tocsin.models.touch.truth import HANDS
from tocsin.pipelines import touch
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.pipeline import Batch, Commit, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model, store_model
from tocsin.pipelines.runtime.engine.replay import replay
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
CAMERAS, PARTITIONS, FRAMES, STEP_MS, LAPSE_MS, LAPSE_EVERY = 3, 2, 300, 33, 1000, 70
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]
AHEAD, AROUND = CONFIG.network.ahead, CONFIG.decode.wait
REFUSED = ("cut off", "no box")


class Sent(NamedTuple):
    """A sent frame: its camera, number, file, boxes by header, and what is wrong with it."""

    camera: int
    sequence: int
    file: bytes
    boxes: Mapping[str, float]
    fate: str = "good"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create the pipeline with small steps and checkpoints. `silent`: time after which a camera is inactive."""
    with patch.object(touch, "WAIT", options["silent"]):
        declared = touch.pipeline({name: value for name, value in options.items() if name != "silent"}, model)
    return replace(declared, batch=Batch(rows=16), commit=Commit(every="500ms"))


@pytest.fixture(scope="module")
def weights(once: Once) -> Path:
    return once("touch-model", small_model)


def frames(seed: int) -> Iterator[Sent]:
    """Yield the cameras' frames in order. A few are lost, sent twice, late, cut off, or have no valid box."""
    rng = random.Random(seed)
    clips = [[shot.frame for shot in clip(FRAMES, seed=20 + camera)] for camera in range(CAMERAS)]
    for sequence in range(FRAMES):
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            chance, frame = rng.random(), clips[camera][sequence]
            if chance < 0.02:
                continue  # lost
            one = Sent(camera, sequence, encoded(frame), frame.facts)
            if chance < 0.04:
                yield one._replace(file=one.file[:-40], fate="cut off")
            elif chance < 0.06:
                yield one._replace(boxes={**one.boxes, "left_x1": 500.0}, fate="no box")
            else:
                yield one
            if 0.94 < chance < 0.97:
                yield one._replace(fate="again")
            elif chance > 0.97 and sequence > 3:
                yield one._replace(sequence=sequence - 3, fate="late")


class Desk:
    """A job of the touch pipeline with a small model, and the frames sent to it."""

    def __init__(self, make_job: MakeJob, weights: Path, *, seed: int, silent: str) -> None:
        self.job = make_job(factory="tests.crash.test_touches:pipeline", partitions=PARTITIONS, silent=silent)
        model = store_model(self.job.lake, weights, name="touch", version="1")
        self.job.plan = replace(self.job.plan, model=model, device="cpu")
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
        at = self._start + STEP_MS * sent.sequence + LAPSE_MS * (sent.sequence // LAPSE_EVERY)
        facts = {"camera": f"cam{sent.camera}", "sequence": sent.sequence, "time": at, **sent.boxes}
        headers = [("content-type", b"image/jpeg"), *((name, str(value).encode()) for name, value in facts.items())]
        return Message(sent.camera % PARTITIONS, sent.file, headers, round(time.time() * 1000), b"k")

    @property
    def table(self) -> pl.DataFrame:
        return pl.read_delta(self.job.lake.uri(self.job.name))

    def came(self) -> list[tuple[ConsumerRecord, Sent]]:
        """Return the topic's records and their frames, by partition and offset."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Sent]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [one for one in self.sent if one.camera % PARTITIONS == p], strict=True)
        return both


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_touch_is_said_once_and_each_frame_judged_as_replayed_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls, weights: Path
) -> None:
    # A slow restart must not make a camera inactive.
    rng, desk = random.Random(3), Desk(make_job, weights, seed=3, silent="9999d")
    flights = []
    for fall in falls(rng, FALLS):
        worker = desk.job.start()
        desk.send(45)
        worker.arm(fall)
        desk.go_on(worker)
        flights.append(worker.fell(fall))
    desk.send(45)
    desk.job.finish(desk.job.start())
    print(f"rows and alerts in flight: {flights}; {len(desk.sent)} frames")
    assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)
    assert {one.fate for one in desk.sent} == {"good", "again", "late", *REFUSED}
    _see(desk, waiting=True, after="0s")


def test_cameras_that_fall_silent_have_their_last_frames_judged_once(make_job: MakeJob, weights: Path) -> None:
    desk = Desk(make_job, weights, seed=4, silent="1s")
    desk.send(150)  # before the start, so that no camera becomes inactive in between
    worker = desk.job.drain(desk.job.start())
    worker.kill()  # the snapshot holds the frames that still wait
    rows, _ = _plainly(desk.came(), waiting=False)
    worker = desk.job.start()
    until(lambda: len(desk.table) >= rows.total(), "all rows, those that wait too", 60, worker)
    worker.stop()
    _see(desk, waiting=False, after="10s")


def _see(desk: Desk, *, waiting: bool, after: str) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    job, came, table = desk.job, desk.came(), desk.table
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    rows, dead = _plainly(came, waiting=waiting)
    assert Counter(table.select("camera", "sequence", "missed").rows()) == rows
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    assert Counter((x.partition, x.offset, x.value) for x in letters) == dead
    _rang(table, said)
    _as_replayed(job.plan.build(job.lake), came, table, said, after=after)
    files = {(f"cam{s.camera}", s.sequence): s.file for _, s in came if s.fate == "good"}
    kept = {frame: files[camera, n] for camera, n, frame in table.select("camera", "sequence", "frame").rows() if frame}
    there = {
        str(p.relative_to(job.lake.place())): p.read_bytes() for p in Path(job.lake.place("frames")).rglob("*.jpg")
    }
    assert there == kept and len(there) > 10
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def _plainly(
    came: Sequence[tuple[ConsumerRecord, Sent]], *, waiting: bool
) -> tuple[Counter[tuple[str, int, int]], Counter[tuple[int, int, bytes]]]:
    """Return rows and dead letters by a plain loop, without the runtime's code. With `waiting`, the last frames have no rows."""
    dead, last = Counter[tuple[int, int, bytes]](), dict[int, int]()
    judged: dict[int, list[tuple[int, int]]] = {camera: [] for camera in range(CAMERAS)}
    for record, sent in came:
        before = last.get(sent.camera, sent.sequence - 1)
        if sent.fate == "cut off" or sent.sequence < before or (sent.fate == "no box" and sent.sequence > before):
            dead[record.partition, record.offset, record.value] += 1
        if sent.fate != "cut off" and sent.sequence > before:
            last[sent.camera] = sent.sequence
            if sent.fate != "no box":
                judged[sent.camera].append((sent.sequence, sent.sequence - before - 1))
    rows = Counter[tuple[str, int, int]]()
    for camera, all_ in judged.items():
        newest = sum(sequence // LAPSE_EVERY == all_[-1][0] // LAPSE_EVERY for sequence, _ in all_)
        # The last `AROUND` frames before a lapse wait for the first frame after it, which waits for `AHEAD` frames.
        waits = newest + AROUND if newest <= AHEAD else min(newest, AHEAD + AROUND)
        rows.update((f"cam{camera}", *one) for one in all_[: len(all_) - waiting * waits])
    return rows, dead


def _rang(table: pl.DataFrame, said: Sequence[Alert]) -> None:
    """Check that each hand has an alert where its touch begins and ends in the table, and that most match a true touch."""
    edges = Counter[tuple[str, str, str, int, int | None]]()
    hits = told = 0
    for (camera,), rows in table.sort("sequence").group_by("camera", maintain_order=True):
        truth = [(t.hand, t.contact) for t in touches(FRAMES, seed=20 + int(str(camera)[3:]))]
        for number, hand in enumerate(HANDS):
            held = False
            for sequence, now, since in rows.select("sequence", f"{hand}_touches", f"{hand}_since").iter_rows():
                if now != held:
                    edges[str(camera), hand, "raised" if now else "cleared", sequence, since] += 1
                    held = now
                    told += now
                    hits += now and any(h == number and abs(at - sequence) <= 2 for h, at in truth)
    found = Counter((a.key, a.rule, a.transition, a.data["sequence"], a.data[f"{a.rule}_since"]) for a in said)
    assert found == edges
    print(f"{hits} of {told} touches begin where one does")
    assert hits > 0.7 * told > 5


def _as_replayed(
    pipeline: Pipeline,
    came: Sequence[tuple[ConsumerRecord, Sent]],
    table: pl.DataFrame,
    said: Sequence[Alert],
    *,
    after: str,
) -> None:
    """Check that a replay of each partition's records gives the same rows and alerts."""
    codec, tables, alerts = Codec(topic=pipeline.topic, schema=pipeline.schema), list[pl.DataFrame](), list[Alert]()
    for p in range(PARTITIONS):
        batch, _ = codec.decode([record for record, _ in came if record.partition == p])
        rows, rang = replay(pipeline, pa.Table.from_batches([batch]), after=after)
        tables.append(rows)
        alerts += rang
    both = (frame.drop("processed_at").sort("camera", "sequence") for frame in (table, pl.concat(tables)))
    assert_frame_equal(*both, rel_tol=0, abs_tol=1e-4, check_dtypes=False)
    assert Counter(a.id for a in said) == Counter(a.id for a in alerts)
    seen = {a.id: a.data for a in alerts}
    for a in said:
        ours, theirs = ([v for v in data.values() if isinstance(v, int | float)] for data in (a.data, seen[a.id]))
        assert np.allclose(ours, theirs, rtol=0, atol=1e-4) and a.data["frame"] == seen[a.id]["frame"]
