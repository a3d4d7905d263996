"""The pose pipeline on simulated cameras under repeated kills: each frame, alert and kept frame is there once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from tests.crash.conftest import MakeJob
from tests.crash.filming import BROKEN, KILLS, Film, Sent, as_replayed, disturbed, expected, plainly
from tests.support.films import ROOM, SEA, shots
from tocsin.models.domain import Shot
from tocsin.models.pose.model import SHIPPED
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
WORLDS = (ROOM, SEA, ROOM)
DARK_EVERY, DARK = 30, 10
"""Frames from one darkness of a camera to the next, and how long it lasts. Each raises an alert."""


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames of cameras that go to and fro."""
    ways = [[encoded(shot) for shot in shots(world, 20)] for world in WORLDS]
    dark = encoded(Shot(np.full((120, 160, 3), 4, np.uint8)))
    for sequence in count():
        for camera in rng.sample(range(len(WORLDS)), len(WORLDS)):
            at, blind = (sequence + 7 * camera) % 40, (sequence + 9 * camera) % DARK_EVERY >= DARK_EVERY - DARK
            yield Sent(camera, sequence, dark if blind else ways[camera][at if at < 20 else 39 - at])


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_frame_has_its_pose_once_as_replayed_wherever_the_process_is_killed(make_job: MakeJob) -> None:
    options, rng = {"hold": 3, "away": "1s", "places": 8}, random.Random(5)
    job = make_job(factory="tocsin.pipelines.pose:pipeline", rows=16, every="500ms", **options)
    film = Film(job, disturbed(rng, frames(rng)), ("pose", SHIPPED))
    film.killed(kills=KILLS, between=24, seed=5)
    assert {one.fate for one in film.sent} == {"good", "again", "late", *BROKEN}
    came = film.came()
    expected(film, *plainly(film, came))
    # Positions add up: how the size of a batch changes a sum is magnified.
    alerts = as_replayed(film, came, within=1e-3, relative=1e-3)
    assert len(alerts) > 8 and {a.transition for a in alerts} == {"raised", "cleared"}
    assert film.table["revisit"].any()
