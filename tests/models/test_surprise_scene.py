"""The simulated dive: it moves as recorded, and novelties are in sight exactly when the labels say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest

from tocsin.models.surprise.simulation import bottom, shapes
from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.novelties import GAP, LASTS, SETTLED, SIGHT, SIZES, View, appear
from tocsin.models.surprise.simulation.scene import (
    TEST,
    TEST_SEEDS,
    TRAIN,
    TRAIN_SEEDS,
    VALIDATION,
    VALIDATION_SEEDS,
    Dive,
    Scene,
    scene_of,
    simulate,
)
from tocsin.models.surprise.simulation.vehicle import Path, drive
from tocsin.models.surprise.simulation.water import wrapped

SIZE = (90, 160)
STILL = Scene(
    speed=0, jerks=0, flicker=(0, 0), particles=(0, 0), grain=(0, 0), caustics=(0, 0), quality=None, often=(0, 0)
)
BUSY = Scene(often=(6, 6), empty=0.0, kinds=tuple(SIZES))


def view(seed: int, seconds: int = 60) -> View:
    return View(drive(seconds * 10, 10, np.random.default_rng(seed)).cameras(SIZE), SIZE, 10, 0.5)


def placed(x: float, y: float, *, scale: float = 0.5, distance: float = 0.0) -> Actor:
    """A tyre centred at (x, y) in one frame, the third."""
    sprite = shapes.paint("tyre", np.random.default_rng(0))
    rows, columns = sprite.size
    placing = [[scale, 0, x - scale * columns / 2], [0, scale, y - scale * rows / 2]]
    return Actor(sprite, 2, np.array([placing]), np.array([distance]), np.zeros(1), np.ones(1))


def test_the_same_seed_gives_the_same_clip_and_another_another() -> None:
    first, again, other = (simulate(seed, seconds=4, size=SIZE, scene=BUSY) for seed in (5, 5, 6))
    assert np.array_equal(first.frames, again.frames) and first.novelties == again.novelties
    assert not np.array_equal(first.frames, other.frames)
    assert first.frames.shape == (40, *SIZE, 3) and first.frames.dtype == np.uint8
    assert first.times[-1] == pytest.approx(3.9)


def test_seeds_of_test_validation_and_training_are_disjoint_and_test_holds_back_kinds_and_bottoms() -> None:
    assert len({*TEST_SEEDS, *VALIDATION_SEEDS, *TRAIN_SEEDS}) == 12 + 22 + 40
    assert scene_of(TEST_SEEDS[0]) == TEST and scene_of(VALIDATION_SEEDS[0]) == VALIDATION
    assert scene_of(TRAIN_SEEDS[0]) == scene_of(1) == TRAIN
    assert {"reef fish", "jellyfish", "diver", "anchor", "light"} == set(TEST.kinds) - {*TRAIN.kinds, *VALIDATION.kinds}
    assert {"reef", "rubble"} == set(TEST.grounds) - {*TRAIN.grounds, *VALIDATION.grounds}


def test_a_clip_shows_the_same_at_another_size() -> None:
    small, large = (next(iter(Dive(3, seconds=1, size=size, scene=STILL))) for size in (SIZE, (180, 320)))
    shrunk = cv2.resize(large, SIZE[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 8


def test_the_motion_says_how_one_frame_becomes_the_next() -> None:
    rng = np.random.default_rng(1)
    path = Path(rng.normal(500, 4, (2, 2)), np.array([0.1, 0.14]), np.array([1.0, 0.95]), 0.0)
    texture = bottom.paint("rock", rng)
    before, after = (wrapped(texture, camera, SIZE) for camera in path.cameras(SIZE))
    right, down, zoom, roll = path.motion(SIZE)[1]
    middle = (np.array(SIZE[::-1]) - 1) / 2
    turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    moved = np.column_stack([turn, middle + np.array([right, down]) - turn @ middle])
    made = cv2.warpAffine(before, moved, SIZE[::-1])
    inner = np.s_[20:-20, 20:-20]
    assert np.abs(made[inner].astype(int) - after[inner]).mean() < 6
    assert np.abs(before[inner].astype(int) - after[inner]).mean() > 12


def test_a_vehicle_without_speed_stays_and_one_that_is_knocked_jumps() -> None:
    quiet = drive(300, 10, np.random.default_rng(2), speed=0, jerks=0).motion(SIZE)
    knocked = drive(300, 10, np.random.default_rng(2), speed=0, jerks=10).motion(SIZE)
    assert np.abs(quiet - [0, 0, 1, 0]).max() < 1e-6
    assert np.hypot(*knocked[:, :2].T).max() > 5


def test_a_still_scene_without_novelties_does_not_change_but_for_weed_and_fry() -> None:
    frames = simulate(4, seconds=3, size=SIZE, scene=STILL).frames.astype(int)
    assert np.median(np.abs(frames[-1] - frames[0])) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_what_is_new_lasts_as_long_as_it_may_and_keeps_apart(seed: int) -> None:
    seen = view(seed)
    found = appear(seen, np.random.default_rng(seed), kinds=tuple(SIZES), often=(4, 6), empty=0.0)
    assert 1 <= len(found) <= 6
    for novelty, actors in found:
        assert LASTS[0] <= (novelty.last - novelty.first + 1) / 10 <= LASTS[1]
        assert novelty.first >= SETTLED * 10 and novelty.last < 600
        share = np.sum([actor.visible_share(600, SIZE, seen.haze) for actor in actors], axis=0)
        assert share[[novelty.first, novelty.last]].min() >= SIGHT
        assert share[: novelty.first].max() < SIGHT and share[novelty.last + 1 :].max(initial=0) < SIGHT
    for (one, _), (two, _) in pairwise(found):
        assert two.first - one.last > GAP * 10


@pytest.mark.parametrize("kind", SIZES)
def test_every_kind_comes_into_sight(kind: str) -> None:
    found = [
        novelty.kind
        for seed in (0, 3)
        for novelty, _ in appear(view(seed), np.random.default_rng(seed), kinds=(kind,), often=(2, 2), empty=0.0)
    ]
    assert len(found) >= 2 and set(found) == {kind}


def test_a_minute_is_empty_as_often_as_it_is_told() -> None:
    counts = [
        len(appear(view(seed), np.random.default_rng(seed), kinds=("fish",), often=(3, 3), empty=e))
        for seed in range(4)
        for e in (0.0, 1.0)
    ]
    assert min(counts[::2]) > 0 and max(counts[1::2]) == 0


def test_what_is_new_changes_the_picture_within_its_interval_and_not_outside() -> None:
    scene = replace(BUSY, particles=(0, 0), quality=None)
    dive, without = (
        Dive(8, seconds=30, size=SIZE, scene=scene),
        Dive(8, seconds=30, size=SIZE, scene=replace(scene, often=(0, 0))),
    )
    changed = [np.abs(one.astype(int) - two).max(2) > 12 for one, two in zip(dive, without, strict=True)]
    share = np.array([change.mean() for change in changed])
    new = np.zeros(300, bool)
    for novelty in dive.novelties:
        new[novelty.first : novelty.last + 1] = True
    assert len(dive.novelties) >= 2
    assert share[new].mean() > 0.004 > 10 * np.median(share[~new])


def test_a_sprite_is_drawn_where_it_is_placed_and_in_its_frame_only() -> None:
    grey = np.full((*SIZE, 3), 128, np.float32)
    picture, clear = grey.copy(), np.zeros(3, np.float32)
    actor = placed(100, 40)
    actor.draw(picture, 1, clear, clear)
    assert np.array_equal(picture, grey)
    actor.draw(picture, 2, clear, clear)
    rows, columns = np.nonzero((picture != grey).any(2))
    assert (columns.min() + columns.max()) / 2 == pytest.approx(100, abs=1.5)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(40, abs=1.5)
    assert picture[40, 100].tolist() == [128] * 3  # the background shows through the hole


def test_haze_hides_what_is_far() -> None:
    water, dim = np.full(3, 128, np.float32), np.ones(3, np.float32)
    near, far = (np.full((*SIZE, 3), 128, np.float32) for _ in range(2))
    placed(80, 45, distance=0.1).draw(near, 2, water, dim)
    placed(80, 45, distance=5.0).draw(far, 2, water, dim)
    assert np.abs(near - 128).max() > 40 and np.abs(far - 128).max() < 3


def test_what_is_half_outside_is_half_seen() -> None:
    whole, half, none = (placed(x, 45).visible_share(5, SIZE, 0.0) for x in (80, 0, -200))
    assert whole[2] > 0 and np.count_nonzero(whole) == 1
    assert half[2] == pytest.approx(whole[2] / 2, rel=0.1) and none.max() == 0


def test_a_bottom_repeats_without_a_seam() -> None:
    for name in bottom.GROUNDS:
        made = bottom.paint(name, np.random.default_rng(1)).astype(int)
        seam, inside = np.abs(made[0] - made[-1]).mean(), np.abs(np.diff(made, axis=0)).mean()
        assert seam < 1.3 * inside
