"""The simulated films: the same each time, and frames that are what their path and their depth say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.films import ROOM, SEA, film
from tocsin.models.pose.simulation.film import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, Film
from tocsin.models.vision import flow


def test_no_seed_is_for_two_purposes() -> None:
    every = [*TRAIN_SEEDS, *VALIDATION_SEEDS, *TEST_SEEDS, ROOM, SEA]
    assert len(every) == len({*every})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [ROOM, SEA])
def test_a_seed_gives_the_same_film(seed: int) -> None:
    frames, path, focal = film(seed, 20)
    again = Film(seed, seconds=2)
    assert all(np.array_equal(a, b) for a, b in zip(frames[:5], again, strict=False))
    assert np.array_equal(path.place, again.path.place) and focal == again.focal
    assert frames[0].shape == (120, 160, 3) and np.mean(frames[0]) > 20 and np.std(frames[0]) > 4


@pytest.mark.parametrize("seed", [ROOM, SEA])
def test_frames_move_as_depth_and_path_say(seed: int) -> None:
    """Compare the measured flow with that of the true depth and the true step."""
    made = Film(seed, seconds=2)
    shown = {at: made.render(at) for at in (3, 4, 10, 11)}
    turns, shifts = made.path.steps()
    for at in (4, 11):
        before, after = (flow.grey_frame(shown[n][0], made.size) for n in (at - 1, at))
        points = flow.places(made.size, 8)
        measured = flow.sampled(flow.dense(before, after, fine=5), 8)
        rays = np.linalg.inv(made.lens) @ np.vstack([points.T, np.ones(len(points))])
        depth = shown[at][1][points[:, 1].astype(int), points[:, 0].astype(int)]
        back = made.lens @ (turns[at] @ (rays * depth) + shifts[at][:, None])
        away = np.linalg.norm(measured - ((back[:2] / back[2]).T - points), axis=1)
        assert np.median(away) < 0.35 and np.quantile(away, 0.8) < 1.5


def test_the_steps_add_up_to_the_path() -> None:
    _, path, _ = film(ROOM, 20)
    turns, shifts = path.steps()
    place, heading = path.place[0], path.turn[0]
    for turn, shift in zip(turns[1:], shifts[1:], strict=True):
        place, heading = place + heading @ shift, heading @ turn
    assert np.allclose(place, path.place[-1]) and np.allclose(heading, path.turn[-1])
    assert (
        np.allclose(heading @ heading.T, np.eye(3))
        and 0.1 < np.linalg.norm(np.diff(path.place, axis=0), axis=1).sum() < 3
    )
