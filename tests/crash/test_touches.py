"""The touch pipeline on simulated cameras, killed again and again: each frame judged once, with the frames around it, and each
touch said once."""

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
from tests.crash.harness import Worker, until
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.touches import CONFIG, clip, small_model, touches
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
    """A frame's camera, number, file and boxes by header, and what became of it on its way."""

    camera: int
    sequence: int
    file: bytes
    boxes: Mapping[str, float]
    fate: str = "good"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pipeline, with steps and checkpoints that are small; `silent`: after which it waits for a camera no longer."""
    with patch.object(touch, "WAIT", options["silent"]):
        declared = touch.pipeline({name: value for name, value in options.items() if name != "silent"}, model)
    return replace(declared, batch=Batch(rows=16), commit=Commit(every="500ms"))


@pytest.fixture(scope="module")
def weights(once: Once) -> Path:
    return once("touch-model", small_model)


def frames(seed: int) -> Iterator[Sent]:
    """What cameras see, frame by frame: now and then one is lost, sent twice, late, cut off, or has no proper box."""
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
    """A job on the touch pipeline with a small model, and what has been sent to it."""

    def __init__(self, make_job: MakeJob, weights: Path, *, seed: int, silent: str) -> None:
        self.job = make_job(factory="tests.crash.test_touches:pipeline", partitions=PARTITIONS, silent=silent)
        model = store_model(self.job.lake, weights, name="touch", version="1")
        self.job.plan = replace(self.job.plan, model=model, device="cpu")
        self._stream, self._start = frames(seed), int(time.time() * 1000) - 3_600_000
        self.sent = list[Sent]()

    def send(self, count: int) -> None:
        """The cameras' next frames."""
        some = list(islice(self._stream, count))
        assert len(some) == count
        self.job.send(map(self._message, some))
        self.sent += some

    def go_on(self, worker: Worker) -> None:
        """The cameras' next frames until the process falls, which may wait for alerts in flight."""
        for _ in range(12):
            self.send(9)
            worker.process.join(1)  # there are only so many frames: a slow machine must not use them up
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
        """What is in the topic, by partition and offset."""
        records, both = self.job.read(self.job.topic), list[tuple[ConsumerRecord, Sent]]()
        for p in range(PARTITIONS):
            here = sorted((r for r in records if r.partition == p), key=lambda r: r.offset)
            both += zip(here, [one for one in self.sent if one.camera % PARTITIONS == p], strict=True)
        return both


def test_each_touch_is_said_once_and_each_frame_judged_as_replayed_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls, weights: Path
) -> None:
    # How long a restart takes is chance, and must not end the wait for a camera's next frame.
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
    desk.send(150)  # while nobody runs, so that no camera is silent in between
    worker = desk.job.drain(desk.job.start())
    worker.kill()  # those that wait are in a snapshot, unless they have gone on in time
    rows, _ = _plainly(desk.came(), waiting=False)
    worker = desk.job.start()
    until(lambda: len(desk.table) >= rows.total(), "all rows, those that wait too", 60, worker)
    worker.stop()
    _see(desk, waiting=False, after="10s")


def _see(desk: Desk, *, waiting: bool, after: str) -> None:
    """That table, alerts, dead letters and kept files are what came, each once."""
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
    """Rows and dead letters by a loop over what came, without the runtime's code; of each camera's last frames some may wait."""
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
        # What is said of frames before a lapse waits for what is said of one after it, which waits for those ahead of it.
        waits = newest + AROUND if newest <= AHEAD else min(newest, AHEAD + AROUND)
        rows.update((f"cam{camera}", *one) for one in all_[: len(all_) - waiting * waits])
    return rows, dead


def _rang(table: pl.DataFrame, said: Sequence[Alert]) -> None:
    """That alerts follow from the table alone, one where a hand's touch begins and one where it ends; and what they say is true."""
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
    """What the same stages make of what came, partition by partition."""
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
