"""Frames under kills on Apache Kafka: each is processed once, each kept file is whole; and stores that lose or regain frames."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg

from tests.crash.conftest import Falls, MakeJob
from tests.crash.filming import BROKEN, POINTS, Film, Sent, disturbed, expected, plainly
from tests.crash.harness import Job
from tests.crash.job import JUMP
from tests.crash.load import Message
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter

pytestmark = pytest.mark.crash
FACTORY = "tests.crash.job:filmed"
CAMERAS = 4
NUMBERS = range(1, 31)


def file(shade: int) -> bytes:
    """A frame of one shade as JPEG."""
    return simplejpeg.encode_jpeg(np.full((24, 32, 3), shade, np.uint8), quality=90)


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames. At a few, the light jumps."""
    shades = [100] * CAMERAS
    for sequence in count(1):
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            if rng.random() < 0.1:
                shades[camera] = 20 if shades[camera] > 100 else 200
            yield Sent(camera, sequence, file(shades[camera] + rng.randrange(10)))


def test_each_frame_is_judged_once_and_each_kept_file_is_whole_wherever_the_process_is_killed(
    make_job: MakeJob, falls: Falls
) -> None:
    rng, job = random.Random(5), make_job(factory=FACTORY)
    film = Film(job, disturbed(rng, frames(rng)))
    film.killed_at(falls(rng, POINTS), between=150)
    assert {one.fate for one in film.sent} == {"good", "again", "late", *BROKEN}
    came = film.came()
    rows, dead = plainly(film, came)
    expected(film, rows, dead)
    _see_jumps(film, [sent for _, sent in came if sent.fate == "good"])


def _see_jumps(film: Film, frames: Sequence[Sent]) -> None:
    """Check alerts and kept files against a loop over the frames that shares no code with the runtime."""
    last, rang, standing, jumps = dict[int, float](), Counter[tuple[str, str, int]](), dict[int, bool](), {}
    for sent in frames:
        shade, name = float(simplejpeg.decode_jpeg(sent.file).mean()), film.name(sent)
        jumped = abs(shade - last.get(sent.camera, shade)) > JUMP
        if jumped != standing.get(sent.camera, False):
            rang[name, "raised" if jumped else "cleared", sent.sequence] += 1
            standing[sent.camera] = jumped
        if jumped:
            jumps[name, sent.sequence] = sent.file
        last[sent.camera] = shade
    assert Counter((a.key, a.transition, a.data["sequence"]) for a in film.alerts) == rang
    kept = film.table.filter(pl.col("frame").is_not_null()).select("camera", "sequence", "frame").rows()
    lake = film.job.lake
    assert {(name, number): Path(lake.place(at)).read_bytes() for name, number, at in kept} == jumps
    assert len(jumps) > 20 and len(list(Path(lake.place("frames")).rglob("*.jpg"))) == len(jumps)
    assert not [line for w in film.job.workers for line in w.said.splitlines() if "re-ran" in line]


def test_a_frame_that_was_missing_when_it_was_judged_stays_so_when_it_is_back(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job, store = _stored(make_job, tmp_path)
    gone = {number for number in NUMBERS if number % 3 == 0}
    worker = job.start()
    job.send(map(store.message, NUMBERS))
    until(lambda: sum(job.letters().values()) == len(gone), "the letters of those that are missing", worker=worker)
    worker.kill()
    assert not job.stored("0#checkpoint") & 0xFFFFFFFF > 1, "expected no checkpoint behind the first"
    for number in gone:
        store.put(number)
    job.finish(job.start())
    assert not [line for w in job.workers for line in w.said.splitlines() if "re-ran" in line]
    letters = [DeadLetter.read(m) for m in job.read(f"{job.topic}.dlq")]
    assert Counter(x.error for x in letters) == {"FrameMissing": len(gone)}
    table = pl.read_delta(job.lake.uri(job.name))
    assert sorted(table["sequence"]) == [number for number in NUMBERS if number not in gone]


def test_a_frame_that_was_judged_and_is_gone_when_it_is_judged_again_stops_the_shard(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job, store = _stored(make_job, tmp_path)
    there = [number for number in NUMBERS if store.place(number).exists()]
    worker = job.start()
    job.send(map(store.message, NUMBERS))
    missing = len(NUMBERS) - len(there)
    until(lambda: sum(job.letters().values()) == missing, "the steps to be journaled", worker=worker)
    worker.kill()
    store.place(there[0]).unlink()
    again = job.start()
    assert again.ended() != 0
    assert "FrameLost: " in again.said and "put it back where its message says, or continue without it" in again.said
    store.put(there[0])
    job.finish(job.start())
    table = pl.read_delta(job.lake.uri(job.name))
    assert sorted(table["sequence"]) == there


class FrameStore:
    """A folder of frames of one camera, by their numbers, and the messages that refer to them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file, self._start = folder, file(100), int(time.time() * 1000) - 3_600_000

    def place(self, number: int) -> Path:
        return self._folder / f"{number}.jpg"

    def put(self, number: int) -> None:
        self.place(number).write_bytes(self._file)

    def message(self, number: int) -> Message:
        facts = {
            "frame-uri": self.place(number),
            "frame-sha256": hashlib.sha256(self._file).hexdigest(),
            "camera": "cam0",
            "sequence": number,
            "time": self._start + 100 * number,
        }
        return Message(0, None, [(name, str(value).encode()) for name, value in facts.items()], self._start, b"k")


def _stored(make_job: MakeJob, tmp_path: Path) -> tuple[Job, FrameStore]:
    """Create a job that reads frames from a store, which lacks a third of them. It makes one checkpoint an hour."""
    (folder := tmp_path / "store").mkdir()
    store = FrameStore(folder)
    for number in NUMBERS:
        if number % 3:
            store.put(number)
    return make_job(factory=FACTORY, roots=[str(folder)], every="1h", partitions=1), store
