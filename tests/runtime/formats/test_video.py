"""Footage as a stream: names, numbers and times of frames, of one camera or of a rig of several."""

from __future__ import annotations

import numpy as np

from tocsin.models.domain import Shot
from tocsin.pipelines.runtime.formats.video import sent


def shots(count: int) -> list[Shot]:
    return [Shot(np.full((8, 8, 3), 10 * n, np.uint8), {"view": f"v{n % 2}"}) for n in range(count)]


def test_frames_of_a_camera_have_numbers_and_times_at_its_rate() -> None:
    rows = [table.row(0, named=True) for table in sent(shots(4), camera="cam", rate=10)]
    assert [(row["camera"], row["sequence"], row["view"]) for row in rows] == [
        ("cam", n, f"v{n % 2}") for n in range(4)
    ]
    assert np.diff([row["time"] for row in rows]).tolist() == [100] * 3
    assert all(row["jpeg"].startswith(b"\xff\xd8") for row in rows)


def test_frames_of_a_rig_share_a_number_and_a_time() -> None:
    rows = [table.row(0, named=True) for table in sent(shots(6), camera="mast", rate=20, key="rig", views=2)]
    assert [(row["rig"], row["sequence"], row["view"]) for row in rows] == [
        ("mast", n // 2, f"v{n % 2}") for n in range(6)
    ]
    times = [row["time"] for row in rows]
    assert times[::2] == times[1::2] and np.diff(times[::2]).tolist() == [100] * 2


def test_frames_that_arrive_at_once_have_times_of_their_own() -> None:
    times = [table["time"][0] for table in sent(shots(6), camera="cam", rate=10, live=True)]
    assert len({*times}) == 6
    times = [table["time"][0] for table in sent(shots(6), camera="cam", rate=10, live=True, views=3)]
    assert len({*times}) == 2
