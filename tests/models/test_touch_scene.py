"""The simulated clip: it is deterministic, its truth agrees with its solids, and its boxes contain what is drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tocsin.models.touch.baselines import changes, near
from tocsin.models.touch.simulation.hand import LEFT, RIGHT
from tocsin.models.touch.simulation.scene import (
    TEST,
    TEST_SEEDS,
    TRAIN,
    TRAIN_SEEDS,
    VALIDATION,
    VALIDATION_SEEDS,
    Distribution,
    Scene,
    Shot,
    distribution_of,
)
from tocsin.models.touch.simulation.script import CLEAR, NEAR
from tocsin.models.touch.simulation.table import placed

SEEDS = (TRAIN_SEEDS[2], TRAIN_SEEDS[7], VALIDATION_SEEDS[1], TEST_SEEDS[3])


@cache
def scene(seed: int) -> Scene:
    return Scene(seed)


def held(clip: Scene, thing: int) -> np.ndarray:
    """Whether a hand touches the thing, by frame and by the truth."""
    made = np.zeros(len(clip), bool)
    for touch in clip.touches:
        if touch.thing == thing:
            made[touch.contact : touch.release] = True
    return made


def test_the_same_seed_gives_the_same_clip_and_another_another() -> None:
    first, again, other = (Scene(seed, seconds=1) for seed in (5, 5, 6))
    assert first.touches == again.touches and first.misses == again.misses
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one[1:], two[1:], strict=True))
        assert np.array_equal(one.picture, two.picture)
    assert not np.array_equal(first.shot(0).picture, other.shot(0).picture)
    assert np.array_equal(first.shot(3).picture, list(first)[3].picture)


def test_a_shot_has_the_shapes_it_promises() -> None:
    clip = Scene(3, seconds=0.1, size=(144, 256))
    shot = clip.shot(0)
    assert len(clip) == 3 and shot.picture.shape == (144, 256, 3) and shot.picture.dtype == np.uint8
    assert shot.hands.shape == (2, 4) and shot.hands.dtype == shot.things.dtype == np.float32
    assert TRAIN.things[0] <= len(shot.things) <= TRAIN.things[1]


def test_seeds_and_looks_of_test_share_nothing_with_those_of_training_and_validation() -> None:
    assert len({*TRAIN_SEEDS, *VALIDATION_SEEDS, *TEST_SEEDS}) == 480 + 8 + 12
    for other in (TRAIN, VALIDATION):
        for part in ("kinds", "skins", "materials"):
            assert not set(getattr(TEST, part)) & set(getattr(other, part))
    assert set(VALIDATION.kinds) - set(TRAIN.kinds) and set(VALIDATION.skins) - set(TRAIN.skins)
    assert distribution_of(TEST_SEEDS[0]) == TEST and distribution_of(VALIDATION_SEEDS[0]) == VALIDATION
    assert distribution_of(TRAIN_SEEDS[0]) == distribution_of(1) == TRAIN


@pytest.mark.parametrize("seed", SEEDS)
def test_contact_and_release_are_where_the_solids_meet_and_part(seed: int) -> None:
    clip = scene(seed)
    assert clip.touches
    for touch in clip.touches:
        gap = clip.script.gaps(touch.hand)[touch.thing]
        assert (gap[touch.contact : touch.release] <= 0).all()
        assert touch.contact == 0 or gap[touch.contact - 1] > 0
        assert touch.release is None or gap[touch.release] > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_miss_comes_near_and_touches_nothing(seed: int) -> None:
    clip = scene(seed)
    for miss in clip.misses:
        gaps = clip.script.gaps(miss.hand)[:, miss.first : miss.last + 1]
        assert CLEAR <= gaps.min() < NEAR
        assert gaps[:, 0].min() < NEAR > gaps[:, -1].min()
        assert not any(
            touch.hand == miss.hand and touch.contact <= miss.last and (touch.release or len(clip)) > miss.first
            for touch in clip.touches
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_thing_moves_only_while_it_is_touched_and_comes_down_again(seed: int) -> None:
    clip = scene(seed)
    for thing, (place, turn) in enumerate(zip(clip.script.places, clip.script.turns, strict=True)):
        moves = (np.abs(np.diff(place, axis=0)).max(1) > 1e-9) | (np.abs(np.diff(turn, axis=0)).max((1, 2)) > 1e-9)
        touched = held(clip, thing)
        assert not np.any(moves & ~(touched[1:] & touched[:-1]))
        assert np.abs(place[~touched, 2]).max(initial=0) < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_jumps_and_things_turn_as_hands_do(seed: int) -> None:
    script = scene(seed).script
    assert np.linalg.norm(np.diff(script.places, axis=1), axis=-1).max() < 4  # cm a frame
    turning = [np.linalg.norm(np.diff(body.grip, axis=0), axis=(1, 2)) for body in script.hands]
    assert (np.linalg.norm(np.diff(script.turns, axis=1), axis=(2, 3)) <= np.max(turning, axis=0) + 1e-9).all()
    for body in script.hands:
        assert np.linalg.norm(np.diff(body.fingers, axis=0), axis=-1).max() < 10


def test_there_are_touches_and_misses_enough_and_some_move_nothing() -> None:
    clips = [scene(seed) for seed in SEEDS]
    touches, misses = (sum(len(getattr(clip, what)) for clip in clips) for what in ("touches", "misses"))
    minutes = sum(len(clip) for clip in clips) / 30 / 60
    assert 4 < touches / minutes < 16 and 3 < misses / minutes < 14
    travels = [
        np.ptp(clip.script.places[touch.thing, touch.contact : touch.release], axis=0).max()
        for clip in clips
        for touch in clip.touches
    ]
    assert min(travels) == 0 and max(travels) > 5


def test_a_box_holds_the_hand_that_is_drawn_and_little_else() -> None:
    clip, count = scene(SEEDS[0]), 0
    for frame in range(0, len(clip), 30):
        shot = clip.shot(frame)
        for hand in (LEFT, RIGHT):
            drawn = np.zeros((*clip.size, 3), np.uint8)
            parts = clip._skin.parts(clip.script.hands[hand], clip.head, frame)
            for _, paint in parts[1:]:
                paint(drawn)
            seen, box = np.argwhere(drawn.any(2)), shot.hands[hand]
            if np.isnan(box).any():
                assert len(seen) < 0.05 * drawn[..., 0].size
                continue
            count += 1
            low, high = seen.min(0)[::-1], seen.max(0)[::-1]
            corners = (box * [*clip.size[::-1], *clip.size[::-1]]).reshape(2, 2)
            assert (corners[0] <= low + 1).all() and (corners[1] >= high - 1).all()
            assert np.prod(high - low + 1) > 0.4 * np.prod(corners[1] - corners[0])
    assert count > 15


def test_a_hand_in_the_picture_changes_it_inside_its_box() -> None:
    clip, away = scene(SEEDS[0]), Scene(SEEDS[0])
    first = clip.touches[0]
    away.script.hands = tuple(
        replace(body, **{part: getattr(body, part) - [0, 300, 0] for part in ("fingers", "wrist", "elbow")})
        for body in away.script.hands
    )
    with_hands, without = clip.shot(first.contact), away.shot(first.contact)
    box = with_hands.hands[first.hand] * [*clip.size[::-1], *clip.size[::-1]]
    x0, y0, x1, y1 = box.astype(int)
    changed = np.abs(with_hands.picture.astype(int) - without.picture).max(2) > 25
    assert changed[y0:y1, x0:x1].mean() > 0.35
    assert np.isnan(without.hands).all()


def test_the_table_is_warped_as_points_on_it_are_projected() -> None:
    head = scene(SEEDS[1]).head
    points = np.array([[0.0, 20, 0], [-12, 30, 0], [15, 8, 0]])
    flat = np.column_stack([points[:, :2], np.ones(3)])
    warped = flat @ (head.table(40) @ np.linalg.inv(placed()) @ placed()).T
    assert head.project(points, 40)[0] == pytest.approx(warped[:, :2] / warped[:, 2:])
    nearer, depths = head.project(points + np.array([0, 0, 10.0]), 40)
    assert (depths < head.project(points, 40)[1]).all() and (nearer[:, 1] < warped[:, 1] / warped[:, 2]).all()


def test_hands_touch_in_sight() -> None:
    seen = []
    for seed in SEEDS:
        clip = scene(seed)
        for touch in clip.touches:
            tips, _ = clip.head.project(clip.script.hands[touch.hand].fingers[touch.contact, :, 3], touch.contact)
            seen.append(((tips > 0) & (tips < clip.size[::-1])).all(1).sum() >= 3)
    assert np.mean(seen) > 0.9


def test_shots_of_a_quiet_camera_differ_by_what_moves_only() -> None:
    still = Distribution(grain=(0, 0), drift=(0, 0), shutter=(0, 0), sway=(0, 0), walks=0)
    shots: list[Shot] = [Scene(8, seconds=0.2, distribution=still).shot(frame) for frame in (0, 1)]
    changed = np.abs(shots[0].picture.astype(int) - shots[1].picture).max(2) > 12
    assert changed.mean() < 0.02


def boxed(*lefts: float, clip: int = 100) -> list[Shot]:
    """Shots of a thing and a right hand, whose box begins at these x, in pixels. The left hand is never seen."""
    picture, away = np.zeros((50, clip, 3), np.uint8), [np.nan] * 4
    thing = np.array([[0.6, 0.2, 0.8, 0.6]], np.float32)
    return [Shot(picture, np.array([away, [x / clip, 0.2, (x + 20) / clip, 0.6]], np.float32), thing) for x in lefts]


def test_single_frames_tell_an_event_where_what_is_held_changes() -> None:
    held = torch.zeros(40, 2)
    held[12:30, RIGHT] = 1
    held[20, RIGHT] = 0  # one frame is misclassified
    scores = changes(held)
    assert scores.shape == (40, 2, 2) and not scores[:, 0].any()
    assert [int(scores[:, RIGHT, kind].argmax()) for kind in (0, 1)] == [12, 30]
    assert scores[12, RIGHT, 0] == scores[30, RIGHT, 1] == 1 and scores[20, RIGHT].max() < 0.3
    assert torch.equal(changes(held[:1]), torch.zeros(1, 2, 2))


def test_the_distance_baseline_tells_when_boxes_come_within_its_threshold() -> None:
    shots = boxed(10, 30, 38, 39, 45, 30, 10)  # gaps of 0.3, 0.1, 0.02, 0.01, -0.05, 0.1, 0.3 of the width
    assert [event[:3] for event in near(shots, 0.05)] == [(2, RIGHT, 0), (5, RIGHT, 1)]
    assert [event[:3] for event in near(shots, -0.01)] == [(4, RIGHT, 0), (5, RIGHT, 1)]
    assert [event[:3] for event in near(shots[:4], 0.05)] == [(2, RIGHT, 0)]
    deep, shallow = near(boxed(10, 45, 10), 0.05)[0][3], near(boxed(10, 38, 10), 0.05)[0][3]
    assert 1 > deep > shallow > 0
    assert near(boxed(10, float("nan"), 10), 0.05) == []
