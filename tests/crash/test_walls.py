"""The damage pipeline under repeated kills: each frame, alert and kept file is there once, as a replay gives them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import simplejpeg

from tests.crash.conftest import MakeJob
from tests.crash.filming import BROKEN, KILLS, Film, Sent, as_replayed, disturbed, expected, plainly
from tocsin.models.damage.model import SHIPPED
from tocsin.models.damage.simulation.watch import Watch

pytestmark = pytest.mark.crash
CAMERAS, SIZE = 3, (96, 160)
PERIOD = 30
"""Frames after which a camera turns to another wall."""


def frames() -> Iterator[Sent]:
    """Yield endless frames of cameras at walls on which damage grows."""
    for period in count():
        walls = [Watch(100 * camera + period, frames=PERIOD, begins=8, ends=14, size=SIZE) for camera in range(CAMERAS)]
        for sequence, images in enumerate(zip(*walls, strict=True), PERIOD * period):
            for camera, image in enumerate(images):
                yield Sent(camera, sequence, simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=40))


@pytest.mark.slow
def test_frames_alerts_and_files_are_there_once_wherever_the_process_is_killed(make_job: MakeJob) -> None:
    options = {"settle": 3, "hold": 2, "keep_every": 4}
    job = make_job(factory="tocsin.pipelines.damage:pipeline", rows=8, every="500ms", **options)
    film = Film(job, disturbed(random.Random(21), frames()), ("damage", SHIPPED), at=lambda n: 500 * n)
    film.killed(kills=KILLS, between=30, seed=21)
    assert {one.fate for one in film.sent} == {"good", "again", "late", *BROKEN}
    came = film.came()
    expected(film, *plainly(film, came))
    alerts = as_replayed(film, came, within=1e-4, relative=1e-4)
    assert {alert.rule for alert in alerts} >= {"damage"} and len(alerts) > 3
