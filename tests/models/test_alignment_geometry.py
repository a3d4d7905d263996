"""Homographies: how they move places and change with the size of frames, and what fits find in matches of which many are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.alignment.geometry import corners, distance, drawn, from_offsets, moved, offsets, scaled
from tocsin.models.alignment.robust import NOTHING, plausible, ransac, refined

SIZE = (120, 160)


def test_a_homography_is_known_by_where_it_puts_the_corners() -> None:
    rng = np.random.default_rng(0)
    homography = drawn(rng, SIZE)
    again = from_offsets(offsets(homography, SIZE), SIZE)
    assert distance(homography, again, SIZE) < 1e-3
    shift = np.array([[1, 0, 3], [0, 1, -4], [0, 0, 1]], float)
    assert distance(shift, np.eye(3), SIZE) == pytest.approx(5)
    assert offsets(shift, SIZE).tolist() == [[3, -4]] * 4


def test_frames_that_are_scaled_keep_the_same_places() -> None:
    homography = drawn(np.random.default_rng(1), SIZE, reach=0.5)
    small = scaled(homography, (0.5, 0.25), (2.0, 1.0))
    places = corners(SIZE)
    half = (places + 0.5) * (0.5, 0.25) - 0.5  # the middle of the first pixel is at 0
    expected = (moved(homography, places) + 0.5) * (2.0, 1.0) - 0.5
    np.testing.assert_allclose(moved(small, half), expected, atol=1e-6)


def test_a_place_behind_the_camera_is_nowhere() -> None:
    tilted = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])
    assert np.isinf(moved(tilted, np.array([[150.0, 10.0]]))).all()
    assert not plausible(tilted, SIZE) and plausible(np.eye(3), SIZE)
    assert not plausible(np.diag([-1.0, 1, 1]), SIZE)  # a mirror
    assert not plausible(np.diag([3.0, 3, 1]), SIZE)


def test_a_fit_finds_the_motion_among_wrong_matches_and_is_better_than_its_start() -> None:
    fits = [fitted(seed) for seed in range(6)]
    assert max(off for off, _ in fits) < 0.3
    assert np.mean([off for off, _ in fits]) < 0.8 * np.mean([before for _, before in fits])


def fitted(seed: int) -> tuple[float, float]:
    """How far a fit to matches, a third of which are wrong, is off; and its start."""
    rng = np.random.default_rng(seed)
    homography = drawn(rng, SIZE)
    first = rng.uniform(0, 1, (600, 2)) * SIZE[::-1]
    width = rng.uniform(0.3, 1.5, 600)
    second = moved(homography, first) + rng.normal(0, 1, (600, 2)) * width[:, None] / np.sqrt(2)
    second[:200] = rng.uniform(0, 1, (200, 2)) * SIZE[::-1]
    start = ransac(first, second, threshold=3.0)
    found = refined(first, second, width, start.homography, SIZE)
    off, before = (distance(h, homography, SIZE) for h in (found.homography, start.homography))
    assert 0.5 < found.support < 0.75
    assert off < found.error < 2  # the fit assumes that neighbours err alike, which these do not
    return off, before


def test_too_few_matches_give_nothing() -> None:
    few = np.zeros((5, 2))
    assert ransac(few, few, threshold=3.0) is NOTHING
    assert refined(few, few, np.ones(5), np.eye(3), SIZE) is NOTHING
