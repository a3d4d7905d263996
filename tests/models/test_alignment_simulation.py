"""Simulated scenes, cameras and rigs: the same bytes for a seed, the truth that they claim, and the gap between the cameras."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tocsin.models.alignment.geometry import distance
from tocsin.models.alignment.simulation.pairs import pair
from tocsin.models.alignment.simulation.rig import SIZE, Move, Rig, pushed
from tocsin.models.alignment.simulation.scene import BANDS, scene
from tocsin.models.alignment.simulation.scene import SIZE as STILL
from tocsin.models.alignment.simulation.sensors import SENSORS


def likeness(one: np.ndarray, other: np.ndarray, homography: np.ndarray) -> float:
    """The correlation of two frames where the second, brought over the first, shows anything."""
    size = one.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    brought = cv2.warpPerspective(other, homography, size, flags=flags)
    seen = cv2.warpPerspective(np.full_like(other, 255), homography, size, flags=flags) == 255
    return float(np.corrcoef(one[seen], brought[seen])[0, 1])


def test_a_scene_is_the_same_for_a_seed_and_another_for_another() -> None:
    one, again, other = scene(1), scene(1), scene(2)
    assert one.shape == (*STILL, BANDS) and one.min() >= 0 and one.max() <= 255
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.abs(one[..., 0] - one[..., -1]).mean() > 5  # bands differ


def test_pairs_lie_over_each_other_by_their_homography() -> None:
    rng = np.random.default_rng(0)
    for seed in range(3):
        p = pair(scene(seed), (120, 160), rng, second=SENSORS["same"], first=SENSORS["same"])
        assert likeness(p.first, p.second, p.homography) > 0.9
        assert likeness(p.first, p.second, np.eye(3)) < likeness(p.first, p.second, p.homography)


def test_an_inverting_camera_inverts() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(scene(4).mean(2, keepdims=True), BANDS, 2)
    p = pair(grey, (120, 160), rng, first=SENSORS["same"], second=SENSORS["inverted"], reach=0.2)
    assert abs(likeness(p.first, p.second, p.homography)) > 0.3


def test_a_rig_is_the_same_for_a_seed_whatever_its_moves_until_they_happen() -> None:
    plain, moved = list(Rig(3, pairs=4, every=600)), list(Rig(3, pairs=4, every=600, moves=[Move(2, 5.0)]))
    for number, (one, other) in enumerate(zip(plain, moved, strict=True)):
        same = np.array_equal(one.second, other.second)
        assert same == (number < 2) and one.first.shape == one.second.shape == SIZE
        expected = 0.0 if number < 2 else 5.0
        assert distance(one.homography, other.homography, SIZE) == pytest.approx(expected, rel=0.3, abs=1e-9)


def test_a_push_moves_places_by_what_it_says() -> None:
    for seed in range(4):
        push = pushed(np.eye(3), 3.0, np.random.default_rng(seed))
        assert distance(push, np.eye(3), SIZE) == pytest.approx(3.0, rel=0.05)


def test_the_first_camera_sees_little_at_night_and_heat_turns_over() -> None:
    noon, night = (next(iter(Rig(3, pairs=1, every=1.0, start=hour))) for hour in (12, 0))
    assert noon.first.std() > 2 * night.first.std()
    assert np.corrcoef(noon.second.ravel(), night.second.ravel())[0, 1] < 0.5
