"""The tampering pipeline on simulated cameras under repeated kills: each frame, interval, alert and kept file is there once."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.filming import BROKEN, KILLS, Film, Sent, as_replayed, disturbed, expected, plainly
from tocsin.models.domain import Shot
from tocsin.models.tampering.model import SHIPPED
from tocsin.models.tampering.simulation.stream import Stream
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
CAMERAS = 3


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames of cameras that are covered and frozen now and then."""
    streams = [
        iter(Stream(camera, size=(135, 240), kinds=("covered", "frozen"), quiet=25, attack=10))
        for camera in range(CAMERAS)
    ]
    for sequence, pictures in enumerate(zip(*streams, strict=True)):
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            yield Sent(camera, sequence, encoded(Shot(pictures[camera])))


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_interval_is_said_once_and_as_replayed_wherever_the_process_is_killed(make_job: MakeJob) -> None:
    options, rng = {"level": 0.6, "warm": 20, "hold": 2, "keep_every": 4}, random.Random(7)
    job = make_job(factory="tocsin.pipelines.tampering:pipeline", rows=16, every="500ms", **options)
    film = Film(job, disturbed(rng, frames(rng)), ("tampering", SHIPPED))
    film.killed(kills=KILLS, between=24, seed=7)
    assert {one.fate for one in film.sent} == {"good", "again", "late", *BROKEN}
    came = film.came()
    expected(film, *plainly(film, came))
    alerts = as_replayed(film, came, within=1e-3, relative=1e-3)
    assert len(alerts) > 8 and {a.transition for a in alerts} == {"raised", "cleared"}
    assert {"covered", "frozen"} <= {*film.table["kind"].drop_nulls()}
