"""Frames under kills on Apache Kafka: each is processed once, each kept file is whole; and stores that lose or regain frames."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import simplejpeg

from tests.crash.conftest import Falls, MakeJob
from tests.crash.harness import Job
from tests.crash.job import JUMP
from tests.crash.load import Message
from tests.crash.process import ANYWHERE
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.engine.alerts import Alert

pytestmark = pytest.mark.crash
FACTORY = "tests.crash.job:filmed"
CAMERAS, STEP_MS = 4, 100
FALLS = ["alerts.sent", "alerts.committed", "checkpoint.files", "checkpoint.snapshot", "checkpoint.delta", ANYWHERE]


class Shot(NamedTuple):
    """A sent frame: its camera, number, shade, and what is wrong with it."""

    camera: int
    sequence: int
    shade: int
    fate: str = "good"


def shots(seed: int) -> Iterator[Shot]:
    """Yield endless frames. At a few, the light jumps, or the frame is lost, sent twice, late or broken."""
    rng = random.Random(seed)
    numbers, shades = [0] * CAMERAS, [100] * CAMERAS
    while True:
        camera, chance = rng.randrange(CAMERAS), rng.random()
        if chance < 0.1:
            shades[camera] = 20 if shades[camera] > 100 else 200
        numbers[camera] += 2 if chance > 0.97 else 1
        shot = Shot(camera, numbers[camera], shades[camera] + rng.randrange(10))
        fate = "broken" if 0.90 < chance < 0.92 else "twice" if 0.92 < chance < 0.94 else "good"
        yield shot._replace(fate=fate)
        if fate == "twice":
            yield shot._replace(fate="again")
        if 0.94 < chance < 0.96:
            yield shot._replace(sequence=shot.sequence - 3, fate="late")


def file(shot: Shot) -> bytes:
    """Encode a frame of one shade as JPEG; a broken one is cut off."""
    whole = simplejpeg.encode_jpeg(np.full((24, 32, 3), shot.shade, np.uint8), quality=90)
    return whole[:-40] if shot.fate == "broken" else whole


def message(shot: Shot, *, at: int, store: Path | None = None) -> Message:
    """Return a frame's message; with `store`, the message refers to the frame's file there."""
    facts = [
        ("camera", f"cam{shot.camera}".encode()),
        ("sequence", str(shot.sequence).encode()),
        ("time", str(at + STEP_MS * shot.sequence).encode()),
    ]
    if store is None:
        return Message(shot.camera % 2, file(shot), [("content-type", b"image/jpeg"), *facts], at, b"k")
    digest = hashlib.sha256(file(shot)).hexdigest().encode()
    ownership = [("frame-uri", f"{_place(store, shot)}".encode()), ("frame-sha256", digest)]
    return Message(shot.camera % 2, None, [*ownership, *facts], at, b"k")


def _place(store: Path, shot: Shot) -> Path:
    return store / f"{shot.camera}-{shot.sequence}.jpg"


def test_each_frame_is_judged_once_and_each_kept_file_is_whole_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls
) -> None:
    rng, job, stream = random.Random(5), make_job(factory=FACTORY), shots(5)
    start = int(time.time() * 1000) - 3_600_000
    sent: list[Shot] = []

    def send(count: int) -> None:
        some = [next(stream) for _ in range(count)]
        job.send(message(shot, at=start) for shot in some)
        sent.extend(some)

    flights = []
    for fall in falls(rng, FALLS):
        worker = job.start()
        send(150)
        worker.arm(fall)
        send(150)
        flights.append(worker.fell(fall))
    worker = job.start()
    send(100)
    job.finish(worker)
    print(f"rows and alerts in flight: {flights}")
    assert any(rows for rows, _ in flights) and any(alerts for _, alerts in flights)
    _see(job, sent)


def _see(job: Job, sent: list[Shot]) -> None:
    """Check the output against a loop over the frames that shares no code with the runtime."""
    last: dict[int, Shot] = {}
    rows, rang, dead, standing = Counter[tuple[str, int, int]](), Counter[tuple[str, str, int]](), 0, dict[int, bool]()
    jumps = []
    for shot in sent:
        before = last.get(shot.camera)
        if shot.fate == "broken" or (before and shot.sequence < before.sequence):
            dead += 1
            continue
        if before and shot.sequence == before.sequence:
            continue
        missed = shot.sequence - before.sequence - 1 if before else 0
        rows[f"cam{shot.camera}", shot.sequence, missed] += 1
        jumped = before is not None and abs(shot.shade - before.shade) > JUMP
        if jumped != standing.get(shot.camera, False):
            rang[f"cam{shot.camera}", "raised" if jumped else "cleared", shot.sequence] += 1
            standing[shot.camera] = jumped
        if jumped:
            jumps.append(shot)
        last[shot.camera] = shot
    table = pl.read_delta(job.lake.uri(job.name))
    assert Counter(table.select("camera", "sequence", "missed").rows()) == rows
    assert sum(job.letters().values()) == dead and max(job.letters().values()) == 1
    said = [Alert.read(m.headers, m.value) for m in job.read(f"alerts.{job.name}")]
    assert Counter((a.key, a.transition, a.data["sequence"]) for a in said) == rang
    kept = table.filter(pl.col("frame").is_not_null())
    wanted = {(f"cam{s.camera}", s.sequence): file(s) for s in jumps}
    found = {(r["camera"], r["sequence"]): Path(job.lake.place(r["frame"])).read_bytes() for r in kept.to_dicts()}
    assert found == wanted and len(found) > 20
    assert len(list(Path(job.lake.place("frames")).rglob("*.jpg"))) == len(found)
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]


def test_a_frame_that_was_missing_when_it_was_judged_stays_so_when_it_is_back(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job, store, sent, start = _stored(make_job, tmp_path)
    gone = [shot for shot in sent if shot.fate == "gone"]
    worker = job.start()
    job.send(message(shot, at=start, store=store) for shot in sent)
    until(lambda: sum(job.letters().values()) == len(gone), "the letters of those that are missing", worker=worker)
    worker.kill()
    assert not job.stored("0#checkpoint") & 0xFFFFFFFF > 1, "expected no checkpoint behind the first"
    for shot in gone:
        _place(store, shot).write_bytes(file(shot))
    job.finish(job.start())
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    assert Counter(x.error for x in letters) == {"FrameMissing": len(gone)}
    table = pl.read_delta(job.lake.uri(job.name))
    assert sorted(table["sequence"]) == [shot.sequence for shot in sent if shot.fate == "good"]


def test_a_frame_that_was_judged_and_is_gone_when_it_is_judged_again_stops_the_shard(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job, store, sent, start = _stored(make_job, tmp_path)
    there = [shot for shot in sent if shot.fate == "good"]
    worker = job.start()
    job.send(message(shot, at=start, store=store) for shot in sent)
    until(lambda: sum(job.letters().values()) == len(sent) - len(there), "the steps to be journaled", worker=worker)
    worker.kill()
    _place(store, there[0]).unlink()
    again = job.start()
    assert again.ended() != 0
    assert "FrameLost: " in again.said and "put it back where its message says, or continue without it" in again.said
    _place(store, there[0]).write_bytes(file(there[0]))
    job.finish(job.start())
    table = pl.read_delta(job.lake.uri(job.name))
    assert sorted(table["sequence"]) == [shot.sequence for shot in there]


def _stored(make_job: MakeJob, tmp_path: Path) -> tuple[Job, Path, list[Shot], int]:
    """Create a job that reads frames from a store, which lacks a third of them. It makes one checkpoint an hour."""
    (store := tmp_path / "store").mkdir()
    job = make_job(factory=FACTORY, roots=[str(store)], every="1h", partitions=1)
    sent = [Shot(0, number, 100, "gone" if number % 3 == 0 else "good") for number in range(1, 31)]
    for shot in sent:
        if shot.fate == "good":
            _place(store, shot).write_bytes(file(shot))
    return job, store, sent, int(time.time() * 1000) - 3_600_000
