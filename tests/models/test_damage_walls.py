"""The simulator of damage: what it draws is where it says, alike for a seed; its frames and its camera at a wall."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.damage.lessons import FAINT, SHAPES, drawn
from tocsin.models.damage.simulation.camera import taken
from tocsin.models.damage.simulation.flaws import FLAWS, distraction
from tocsin.models.damage.simulation.frames import frame
from tocsin.models.damage.simulation.near import near
from tocsin.models.damage.simulation.walls import mosaic, stepped, wall
from tocsin.models.damage.simulation.watch import Watch


@pytest.mark.parametrize("kind", FLAWS)
def test_damage_changes_the_wall_where_it_says_and_little_elsewhere(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        bare = wall(rng, (160, 224))
        hurt, mask = FLAWS[kind](rng, bare, 1.0)
        assert hurt.shape == bare.shape and mask.shape == (160, 224) and mask.min() >= 0 and mask.max() <= 1
        change = np.abs(hurt - bare).mean(2)
        if (mask > 0.3).sum() > FAINT:
            assert change[mask > 0.3].mean() > 3 * change[mask < 0.01].mean() + 2


def test_a_gap_along_joints_is_darker_than_its_wall() -> None:
    rng = np.random.default_rng(0)
    found = [stepped(rng, (224, 224)) for _ in range(6)]
    seen = [
        (image[mask > 0.7].mean(), image[mask < 0.05].mean()) for image, mask in found if (mask > 0.7).sum() > FAINT
    ]
    assert len(seen) > 2 and all(gap < around for gap, around in seen)


def test_a_gap_in_masonry_from_close_by_is_dark_and_without_one_nothing_is_damaged() -> None:
    rng = np.random.default_rng(0)
    for size in ((224, 224), (112, 448)):
        image, mask = near(rng, size, gap=False)
        assert image.shape == (*size, 3) and mask.shape == size and not mask.any()
    found = [near(rng, (224, 224), gap=True) for _ in range(8)]
    seen = [
        (image[mask > 0.9].mean(), image[mask < 0.05].mean()) for image, mask in found if (mask > 0.9).sum() > FAINT
    ]
    assert len(seen) > 5 and all(gap < 0.5 * around for gap, around in seen)


def test_most_of_what_is_harmless_changes_the_picture_too() -> None:
    rng = np.random.default_rng(1)
    bare = wall(rng, (120, 120))
    changed = [np.abs(distraction(rng, bare) - bare).max() > 1 for _ in range(12)]
    assert sum(changed) > 8  # a cable may pass by


def test_a_seed_draws_the_same_picture_and_every_class_comes() -> None:
    (one, kind, mask), (again, same, _) = (drawn(np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one, again) and kind == same and one.shape[:2] == mask.shape and mask.shape in SHAPES
    rng = np.random.default_rng(5)
    pictures = [drawn(rng) for _ in range(40)]
    assert {kind for _, kind, _ in pictures} == {0, 1, 2, 3}
    assert all((mask > 0.3).any() == (kind > 0) for _, kind, mask in pictures)


def test_a_camera_that_does_nothing_gives_the_wall() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (20, 30, 3)).astype(np.float32)
    assert np.array_equal(taken(np.random.default_rng(0), image, strength=0), np.rint(image).astype(np.uint8))
    assert np.abs(taken(np.random.default_rng(0), image).astype(float) - image).max() > 5


def test_frames_have_damage_on_little_of_them() -> None:
    rng, real = np.random.default_rng(2), [np.full((60, 90, 3), 120, np.uint8)]
    shown = [frame(rng, real, (360, 640)) for _ in range(6)]
    assert {picture.shape for picture, _, _ in shown} == {(360, 640, 3)}
    damaged = [mask.mean() for _, kind, mask in shown if kind]
    assert damaged and all(0 < share < 0.5 for share in damaged)
    assert all(not mask.any() for _, kind, mask in shown if not kind)


def test_a_small_picture_covers_a_large_wall() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert mosaic(np.random.default_rng(0), np.repeat(np.repeat(picture, 40, 0), 40, 1), (700, 900)).shape == (
        700,
        900,
        3,
    )


def test_a_watched_wall_is_whole_first_and_then_its_damage_grows() -> None:
    still = Watch(4, frames=24, begins=8, ends=20, size=(96, 160), sway=0)
    frames = [frame.astype(float) for frame in still]
    plain = [frame.astype(float) for frame in Watch(4, frames=24, begins=None, size=(96, 160), sway=0)]
    apart = [float((np.abs(one - other).mean(2) > 20).mean()) for one, other in zip(frames, plain, strict=True)]
    assert max(apart[:9]) < 0.001 and 0.001 < apart[14] < apart[20] == pytest.approx(apart[23], abs=0.01)
    assert all(np.array_equal(a, b) for a, b in zip(still, still, strict=True))
