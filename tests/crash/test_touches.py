"""The touch pipeline on simulated cameras under repeated kills: each frame is processed once, with the frames around it, and each
touch raises one alert."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from tests.conftest import Once
from tests.crash.conftest import MakeJob
from tests.crash.filming import (
    CUT_OFF,
    KILLS,
    Came,
    Dead,
    Film,
    Rows,
    Sent,
    as_replayed,
    broken,
    disturbed,
    expected,
)
from tests.support.touches import CONFIG, clip, small_model, touches
from tests.support.waits import until
from tocsin.models.touch.truth import HANDS
from tocsin.pipelines import touch
from tocsin.pipelines.runtime.declare.pipeline import Batch, Commit, Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
CAMERAS, FRAMES, STEP_MS, LAPSE_MS, LAPSE_EVERY = 3, 300, 33, 1000, 70
AHEAD, AROUND = CONFIG.network.ahead, CONFIG.decode.wait
NO_BOX = "no box"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create the pipeline with small steps and checkpoints. `silent`: time after which a camera is inactive."""
    with patch.object(touch, "WAIT", options["silent"]):
        declared = touch.pipeline({name: value for name, value in options.items() if name != "silent"}, model)
    return replace(declared, batch=Batch(rows=16), commit=Commit(every="500ms"))


@pytest.fixture(scope="module")
def weights(once: Once) -> Path:
    return once("touch-model", small_model)


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames of cameras that see the same touches again and again."""
    clips = [[shot.frame for shot in clip(FRAMES, seed=20 + camera)] for camera in range(CAMERAS)]
    files = [[encoded(frame) for frame in one] for one in clips]
    for sequence in count():
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            at = sequence % FRAMES
            yield Sent(camera, sequence, files[camera][at], clips[camera][at].facts)


def spoiled(sent: Sent, rng: random.Random) -> Sent:
    """Cut a frame off, or give it a box outside the picture."""
    if rng.random() < 0.5:
        return broken(sent, CUT_OFF)
    return sent._replace(facts={**sent.facts, "left_x1": 500.0}, fate=NO_BOX)


def desk(make_job: MakeJob, weights: Path, *, seed: int, silent: str) -> Film:
    """A job of the touch pipeline with a small model."""
    job, rng = make_job(factory="tests.crash.test_touches:pipeline", silent=silent), random.Random(seed)
    return Film(
        job,
        disturbed(rng, frames(rng), spoiled),
        ("touch", weights),
        at=lambda n: STEP_MS * n + LAPSE_MS * (n // LAPSE_EVERY),
    )


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_touch_is_said_once_and_each_frame_judged_as_replayed_wherever_the_process_is_killed(
    make_job: MakeJob, weights: Path
) -> None:
    film = desk(make_job, weights, seed=3, silent="9999d")  # a slow restart must not make a camera inactive
    film.killed(kills=KILLS, between=45, seed=3)
    assert {one.fate for one in film.sent} == {"good", "again", "late", CUT_OFF, NO_BOX}
    _see(film, waiting=True, after="0s")


def test_cameras_that_fall_silent_have_their_last_frames_judged_once(make_job: MakeJob, weights: Path) -> None:
    film = desk(make_job, weights, seed=4, silent="1s")
    film.send(150)  # before the start, so that no camera becomes inactive in between
    worker = film.job.drain(film.job.start())
    worker.kill()  # the snapshot holds the frames that still wait
    rows, _ = _plainly(film, film.came(), waiting=False)
    worker = film.job.start()
    until(lambda: len(film.table) >= rows.total(), "all rows, those that wait too", 60, worker)
    worker.stop()
    _see(film, waiting=False, after="10s")


def _see(film: Film, *, waiting: bool, after: str) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    came = film.came()
    expected(film, *_plainly(film, came, waiting=waiting))
    as_replayed(film, came, within=1e-4, after=after)
    _rang(film.table, film.alerts)


def _plainly(film: Film, came: Came, *, waiting: bool) -> tuple[Rows, Dead]:
    """Return rows and dead letters by a plain loop, without the runtime's code. With `waiting`, the last frames have no rows."""
    dead, last = Dead(), dict[int, int]()
    judged: dict[int, list[tuple[int, int]]] = {camera: [] for camera in range(CAMERAS)}
    for record, sent in came:
        before = last.get(sent.camera, sent.sequence - 1)
        if sent.fate == CUT_OFF or sent.sequence < before or (sent.fate == NO_BOX and sent.sequence > before):
            dead[record.partition, record.offset, record.value] += 1
        if sent.fate != CUT_OFF and sent.sequence > before:
            last[sent.camera] = sent.sequence
            if sent.fate != NO_BOX:
                judged[sent.camera].append((sent.sequence, sent.sequence - before - 1))
    rows = Rows()
    for camera, all_ in judged.items():
        newest = sum(sequence // LAPSE_EVERY == all_[-1][0] // LAPSE_EVERY for sequence, _ in all_)
        # The last `AROUND` frames before a lapse wait for the first frame after it, which waits for `AHEAD` frames.
        waits = newest + AROUND if newest <= AHEAD else min(newest, AHEAD + AROUND)
        rows.update((f"camera{camera}", *one) for one in all_[: len(all_) - waiting * waits])
    return rows, dead


def _rang(table: pl.DataFrame, said: Sequence[Alert]) -> None:
    """Check that each hand has an alert where its touch begins and ends in the table, and that most match a true touch."""
    edges = Counter[tuple[str, str, str, int, int | None]]()
    hits = told = 0
    for (camera,), rows in table.sort("sequence").group_by("camera", maintain_order=True):
        truth = [(t.hand, t.contact) for t in touches(FRAMES, seed=20 + int(str(camera).removeprefix("camera")))]
        for number, hand in enumerate(HANDS):
            held = False
            for sequence, now, since in rows.select("sequence", f"{hand}_touches", f"{hand}_since").iter_rows():
                if now != held:
                    edges[str(camera), hand, "raised" if now else "cleared", sequence, since] += 1
                    held = now
                    told += now
                    hits += now and any(h == number and abs(at - sequence % FRAMES) <= 2 for h, at in truth)
    found = Counter((a.key, a.rule, a.transition, a.data["sequence"], a.data[f"{a.rule}_since"]) for a in said)
    assert found == edges
    print(f"{hits} of {told} touches begin where one does")
    assert hits > 0.7 * told > 5
