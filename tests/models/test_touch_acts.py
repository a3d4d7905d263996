"""Simulated hands: bones keep their lengths, grasps close on things, and acts do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.touch.simulation.acts import BOTH_HANDS, MISSES, TOUCHES, Stage
from tocsin.models.touch.simulation.grip import finger, grip
from tocsin.models.touch.simulation.hand import BONES, LEFT, RIGHT, Key, Pose, joints, tracked
from tocsin.models.touch.simulation.script import CLEAR
from tocsin.models.touch.simulation.things import KINDS, Thing, make

RATE = 30.0
MIRROR = np.array([-1, 1, 1])


def turned(yaw: float) -> np.ndarray:
    return np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])


def gaps(thing: Thing, place: np.ndarray, yaw: float, poses: np.ndarray, hand: int) -> np.ndarray:
    """Gap between each of a hand's points and the thing, `[T, N]`. Every fourth of the first twenty points is a tip."""
    points, radii = joints(poses, hand).solid()
    count = len(points)
    return thing.gap(points, np.tile(place, (count, 1)), np.tile(turned(yaw), (count, 1, 1))) - radii


def test_a_motion_goes_through_its_keys_and_stops_at_each() -> None:
    start, there = Pose(0, 10, 0), Pose(0, 30, 0, aperture=9)
    track = tracked(start, [Key(1.0, there, arc=5, open=3), Key(0.5, start)], RATE)
    assert (
        len(track) == 45 and track[29] == pytest.approx(np.array(there)) and track[-1] == pytest.approx(np.array(start))
    )
    speed = np.diff(np.vstack([np.array(start), track])[:, 1])
    assert speed[14] == speed[:30].max() == pytest.approx(1.875 * 20 / 30, rel=0.01)
    assert abs(speed[[0, 29, 30, 44]]).max() < 0.05 * speed.max()
    assert track[:30, 2].max() == pytest.approx(5, rel=0.01) and track[:30, 8].max() > 9.5


@pytest.mark.parametrize("hand", [LEFT, RIGHT])
def test_bones_keep_their_lengths_and_tips_get_where_they_are_sent(hand: int) -> None:
    rng = np.random.default_rng(0)
    poses = np.array(
        [
            Pose(0, 20, 5, heading=h, pitch=0.2, aperture=w, reach=11, aside=4.9)
            for h, w in rng.uniform((-1, 2), (1, 7), (20, 2))
        ]
    )
    body = joints(poses, hand)
    lengths = np.linalg.norm(np.diff(body.fingers, axis=2), axis=-1)
    assert np.allclose(lengths, BONES)
    opened = np.linalg.norm(body.fingers[:, 0, 3] - body.fingers[:, 2:4, 3].mean(1), axis=-1)
    assert opened == pytest.approx(poses[:, 8], abs=0.05)


def test_the_left_hand_is_the_right_one_in_a_mirror() -> None:
    right, left = Pose(5, 20, 5, 0.3, tilt=0.4), Pose(-5, 20, 5, -0.3, tilt=-0.4)
    one, two = (joints(np.array([pose]), hand) for pose, hand in ((right, RIGHT), (left, LEFT)))
    assert np.allclose(one.fingers * MIRROR, two.fingers) and np.allclose(one.elbow * MIRROR, two.elbow)
    assert one.back[0, 2] > 0 and one.side[0, 0] > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_grasp_has_the_thing_between_thumb_and_fingers_and_one_that_is_open_has_not(kind: str) -> None:
    rng, free = np.random.default_rng(1), []
    for _ in range(12):
        thing, hand, yaw = make(kind, rng), int(rng.integers(2)), rng.uniform(-3, 3)
        place = np.array([rng.uniform(-15, 15), rng.uniform(12, 30), 0])
        pose = grip(thing, place, yaw, hand, rng)
        closed, opened = gaps(thing, place, yaw, np.array([pose, pose._replace(aperture=pose.aperture + 2.4)]), hand)
        tips = closed[3:20:4]
        assert tips[0] <= 0 and tips[1:].min() <= 0 and closed.min() > -1.6
        free.append(opened.min() > 0)
    assert np.mean(free) >= 0.25  # a short little finger may stay in the way; such acts are redrawn


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_index_lies_on_the_thing_and_nothing_else_does(kind: str) -> None:
    rng = np.random.default_rng(2)
    thing, place = make(kind, rng), np.array([3.0, 20, 0])
    pose = finger(thing, place, 0.4, RIGHT, rng)
    found = gaps(thing, place, 0.4, np.array([pose, pose.moved(np.array([0, 0, 1.0]))]), RIGHT)
    assert found[0].argmin() == 7 and -0.4 < found[0].min() <= 0 < found[1].min()


def test_a_gap_is_the_distance_to_the_surface_however_a_thing_is_turned() -> None:
    rng = np.random.default_rng(3)
    box, ball = make("carton", rng), make("ball", rng)
    place, turn = np.array([[4.0, 9, 2]]), turned(0.7)[None]
    out = place + np.array([box.half[0] + 2, 0, 3]) @ turn[0].T
    assert box.gap(out[:, None], place, turn)[0] == pytest.approx(2)
    assert box.gap(place[:, None] + [0, 0, box.height / 2], place, turn)[0, 0] == pytest.approx(
        -min(*box.half, box.height / 2)
    )
    assert ball.gap(place[:, None] + [0, 0, ball.height + 1.5], place, turn)[0] == pytest.approx(1.5)
    assert ball.gap(place[:, None] + [9, 0, ball.height / 2], place, turn)[0] == pytest.approx(
        9 - ball.radii.max(), abs=0.1
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_thing_is_drawn_where_it_is_solid(kind: str) -> None:
    thing = make(kind, np.random.default_rng(4))
    inside = thing.gap(thing.vertices[None], np.zeros((1, 3)), np.eye(3)[None])
    assert inside.max() < 0.35 and thing.vertices[:, 2].min() == pytest.approx(0, abs=0.1)
    assert thing.vertices[:, 2].max() == pytest.approx(thing.height, rel=0.01)
    middle = thing.vertices[thing.faces].mean(1) - [0, 0, thing.height / 2]
    assert np.mean(np.sum(thing.normals * middle, 1) > 0) > 0.85  # faces point outwards


@pytest.mark.parametrize("draw", [*TOUCHES, *MISSES], ids=lambda draw: draw.__name__)
def test_an_act_touches_as_often_as_it_says_in_most_draws(draw) -> None:  # type: ignore[no-untyped-def]
    agrees = []
    for seed in range(12):
        rng = np.random.default_rng((5, seed))
        thing, place, yaw = make("can", rng), np.array([rng.uniform(-8, 8), 20.0, 0]), 0.0
        poses = (Pose(-15, -10, 6), Pose(15, -10, 6))
        act = draw(Stage(thing, place, yaw, np.array([2.0, 26]), poses, 1.0, (6.0, 9.0), rng), RIGHT)
        assert set(act.keys) == ({LEFT, RIGHT} if draw in BOTH_HANDS else {RIGHT})
        keys = act.keys[RIGHT]
        before = act.holds[0].first + 1 if act.holds else len(keys)  # until the thing is moved
        gap = gaps(thing, place, yaw, tracked(poses[RIGHT], keys[:before], RATE), RIGHT).min(1)
        meets = int((np.diff((gap <= 0).astype(int)) == 1).sum())
        agrees.append(meets == act.touches[RIGHT] and (meets > 0 or gap.min() > CLEAR))
    assert np.mean(agrees) > 0.4
