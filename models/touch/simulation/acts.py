"""Acts of hands, as keyframes of a motion: acts that touch a thing, and acts that only look as if they would.

Reach, transport and grasp follow what is known of human motion. A hand moves with minimum jerk, opens wider than the thing before
it closes, and opens before it withdraws. The repertoire is this project's own choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation.grip import finger, grip
from tocsin.models.touch.simulation.hand import LEFT, RIGHT, Key, Pose
from tocsin.models.touch.simulation.things import Thing

Array = NDArray[np.float64]


class Hold(NamedTuple):
    """The thing moves with the hand from the end of key `first` to the end of key `last`."""

    hand: int
    first: int
    last: int


@dataclass(frozen=True)
class Act:
    """Motion of one or two hands from a given frame on.

    Args:
        keys: keys of each hand that takes part.
        touches: how often each of these hands must touch the thing; 0 is a miss.
        holds: when the thing is moved.
        goal: `[2]`, where the thing is left, if it is moved.
    """

    keys: dict[int, list[Key]]
    touches: dict[int, int]
    holds: list[Hold] = field(default_factory=list)
    goal: Array | None = None


@dataclass(frozen=True)
class Stage:
    """Initial state of an act.

    Args:
        thing: the thing that the act is about.
        place: `[3]`, position of the thing, cm.
        yaw: yaw of the thing, rad.
        goal: `[2]`, a place with room for the thing, cm.
        poses: poses of both hands.
        haste: factor on all durations.
        arc: bounds of the height that a hand's path rises by, cm.
        rng: generator of the person's random choices.
    """

    thing: Thing
    place: Array
    yaw: float
    goal: Array
    poses: tuple[Pose, Pose]
    haste: float
    arc: tuple[float, float]
    rng: np.random.Generator

    def duration(self, low: float, high: float) -> float:
        return float(self.haste * self.rng.uniform(low, high))

    def grip(self, hand: int, *, above: bool | None = None, along: float | None = None) -> Pose:
        return grip(self.thing, self.place, self.yaw, hand, self.rng, above=above, along=along)

    def reach(self, pose: Pose, hand: int) -> tuple[list[Key], Pose]:
        """Keys of a reach that ends with the hand open around `pose`, and the open pose."""
        rng = self.rng
        wide = pose._replace(aperture=pose.aperture + 2 * (rng.uniform(1.0, 2.4)))
        before = self.off(wide, hand, rng.uniform(2.5, 6))
        far = float(np.linalg.norm(np.subtract(before[:3], self.poses[hand][:3])))
        keys = [Key(self.haste * (0.4 + far / 55), before, rng.uniform(*self.arc), rng.uniform(0, 1.5))]
        keys.append(Key(self.duration(0.2, 0.45), wide))
        if rng.random() < 0.35:
            keys.append(Key(self.duration(0.1, 0.6), wide))  # the open hand waits around the thing
        return keys, wide

    def leave(self, pose: Pose, hand: int) -> list[Key]:
        """Keys in which the fingers open and the hand withdraws."""
        wide = pose._replace(aperture=pose.aperture + 2 * self.rng.uniform(1.0, 2.2))
        return [
            Key(self.duration(0.15, 0.35), wide),
            Key(self.duration(0.3, 0.5), self.off(wide, hand, self.rng.uniform(4, 7))),
        ]

    def off(self, pose: Pose, hand: int, far: float) -> Pose:
        """The hand `far` cm away from the thing: above it if the palm is down, else beside it."""
        sin, cos = np.sin(pose.heading), np.cos(pose.heading)
        back, beside = np.array([sin, -cos, 0]), (1 if hand == RIGHT else -1) * np.array([cos, sin, 0])
        return pose.moved(far * (0.55 * back + [0, 0, 0.85] if pose.roll < 0.8 else 0.4 * back + 0.9 * beside))


def close(stage: Stage, pose: Pose) -> Key:
    """The key in which the fingers close on the thing."""
    return Key(stage.duration(0.12, 0.4), pose)


def _carry_seconds(stage: Stage, way: Array) -> float:
    """Time that the distance `way` adds to carrying a thing, s."""
    return stage.haste * float(np.linalg.norm(way)) / 50


def carry(stage: Stage, hand: int) -> Act:
    """Lift the thing, perhaps tilt it, carry it elsewhere and place it."""
    rng, pose = stage.rng, stage.grip(hand)
    keys, _ = stage.reach(pose, hand)
    keys += [close(stage, pose)] + ([Key(stage.duration(0.1, 0.5), pose)] if rng.random() < 0.5 else [])
    first = len(keys) - 1
    high = np.array([0, 0, rng.uniform(3, 10)])
    shift = np.append(stage.goal - stage.place[:2], 0)
    end = pose.moved(shift)._replace(heading=pose.heading + rng.normal(0, 0.2))
    keys.append(Key(stage.duration(0.35, 0.7), pose.moved(high)))
    if rng.random() < 0.3:
        poured = pose.moved(high)._replace(tilt=float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)))
        keys += [Key(stage.duration(0.4, 0.8), poured), Key(stage.duration(0.5, 1.2), poured)]
    keys += [
        Key(stage.duration(0.3, 0.6) + _carry_seconds(stage, shift), end.moved(high)),
        Key(stage.duration(0.3, 0.6), end),
    ]
    holds = [Hold(hand, first, len(keys) - 1)]
    keys += [Key(stage.duration(0.05, 0.5), end), *stage.leave(end, hand)]
    return Act({hand: keys}, {hand: 1}, holds, stage.goal)


def slide(stage: Stage, hand: int) -> Act:
    """Push or pull the thing along the table."""
    pose = stage.grip(hand)
    keys, _ = stage.reach(pose, hand)
    keys.append(close(stage, pose))
    goal = stage.place[:2] + np.clip(stage.goal - stage.place[:2], -9, 9)
    end = pose.moved(np.append(goal - stage.place[:2], 0))
    keys.append(Key(stage.duration(0.5, 1.1), end))
    return Act({hand: keys + stage.leave(end, hand)}, {hand: 1}, [Hold(hand, len(keys) - 2, len(keys) - 1)], goal)


def steady(stage: Stage, hand: int) -> Act:
    """Grasp and hold the thing without moving it."""
    pose = stage.grip(hand)
    keys, _ = stage.reach(pose, hand)
    keys += [close(stage, pose), Key(stage.duration(0.5, 2.5), pose)]
    return Act({hand: keys + stage.leave(pose, hand)}, {hand: 1})


def regrasp(stage: Stage, hand: int) -> Act:
    """Grasp the thing, let go without withdrawing, and grasp it again."""
    pose = stage.grip(hand)
    keys, wide = stage.reach(pose, hand)
    keys += [close(stage, pose), Key(stage.duration(0.4, 1.0), pose), Key(stage.duration(0.15, 0.35), wide)]
    keys += [Key(stage.duration(0.4, 0.9), wide), close(stage, pose), Key(stage.duration(0.4, 1.0), pose)]
    return Act({hand: keys + stage.leave(pose, hand)}, {hand: 2})


def tap(stage: Stage, hand: int) -> Act:
    """Lay the index finger on the thing once or twice, briefly or for longer."""
    rng, pose = stage.rng, finger(stage.thing, stage.place, stage.yaw, hand, stage.rng)
    over = pose.moved(np.array([0, -1, rng.uniform(3, 7)]))
    keys = [Key(stage.duration(0.7, 1.2), over, rng.uniform(*stage.arc))]
    times = int(rng.choice([1, 2], p=[0.7, 0.3]))
    for _ in range(times):
        stays = stage.duration(0.04, 0.15) if rng.random() < 0.5 else stage.duration(0.5, 1.5)
        keys += [Key(stage.duration(0.15, 0.35), pose), Key(stays, pose), Key(stage.duration(0.2, 0.4), over)]
    return Act({hand: keys}, {hand: times})


def pair(stage: Stage, hand: int) -> Act:
    """Both hands take the thing by its ends, lift it and place it."""
    rng, thing = stage.rng, stage.thing
    end = max(thing.half) - 2.2
    way = stage.yaw if thing.lies or thing.half[0] > thing.half[1] else stage.yaw + np.pi / 2
    right = 1 if np.cos(way) > 0 else -1
    high = np.array([0, 0, rng.uniform(3, 8)])
    shift = np.append(np.clip(stage.goal - stage.place[:2], -7, 7), 0)
    durations = [stage.duration(0.4, 0.8) for _ in range(3)]
    keys_by_hand = {}
    for side, along in ((RIGHT, right * end), (LEFT, -right * end)):
        pose = stage.grip(side, above=True, along=along)
        keys, wide = stage.reach(pose, side)
        elapsed = sum(key.seconds for key in keys)
        keys += [Key(max(0.1, 2.6 * stage.haste - elapsed), wide), close(stage, pose)]
        elapsed = sum(key.seconds for key in keys)
        keys += [Key(max(0.05, 3.2 * stage.haste - elapsed), pose)]
        moves = (pose.moved(high), pose.moved(high + shift), pose.moved(shift))
        keys += [Key(time, move) for time, move in zip(durations, moves, strict=True)]
        keys_by_hand[side] = [*keys, Key(stage.duration(0.1, 0.6), moves[-1]), *stage.leave(moves[-1], side)]
    first = len(keys_by_hand[hand]) - 7
    return Act(keys_by_hand, {LEFT: 1, RIGHT: 1}, [Hold(hand, first, first + 3)], stage.place[:2] + shift[:2])


def pass_over(stage: Stage, hand: int) -> Act:
    """One hand lifts the thing and gives it to the other, which places it."""
    rng, other = stage.rng, 1 - hand
    above = bool(rng.random() < 0.5)
    pose = stage.grip(hand, above=above)
    keys, _ = stage.reach(pose, hand)
    keys.append(close(stage, pose))
    middle = np.array([rng.uniform(-4, 4), rng.uniform(14, 22), rng.uniform(5, 10)])
    shift = middle - stage.place
    lift = Hold(hand, len(keys) - 1, len(keys))
    keys.append(Key(stage.duration(0.3, 0.6) + _carry_seconds(stage, shift), pose.moved(shift), 3.0))
    elapsed = sum(key.seconds for key in keys)
    other_pose = grip(stage.thing, middle, stage.yaw, other, rng, above=not above)
    other_keys, _ = stage.reach(other_pose, other)
    other_keys = [Key(0.7 * elapsed, stage.poses[other]), *other_keys]
    other_keys.append(Key(max(0.1, elapsed + 0.3 - sum(key.seconds for key in other_keys)), other_keys[-1].pose))
    other_keys += [close(stage, other_pose), Key(stage.duration(0.2, 0.5), other_pose)]
    keys.append(Key(max(0.1, sum(key.seconds for key in other_keys) - elapsed), pose.moved(shift)))
    keys += stage.leave(pose.moved(shift), hand)
    other_keys.append(Key(keys[-1].seconds + keys[-2].seconds + 0.1, other_pose))
    way = np.append(stage.goal, 0) - middle
    end = other_pose.moved(way)
    handover = Hold(other, len(other_keys) - 1, len(other_keys) + 1)
    other_keys += [
        Key(stage.duration(0.3, 0.6) + _carry_seconds(stage, way), end.moved(np.array([0, 0, 4.0]))),
        Key(stage.duration(0.3, 0.6), end),
    ]
    other_keys += [Key(stage.duration(0.05, 0.4), end), *stage.leave(end, other)]
    return Act({hand: keys, other: other_keys}, {hand: 1, other: 1}, [lift, handover], stage.goal)


def hover(stage: Stage, hand: int) -> Act:
    """Hold an open hand over the thing."""
    rng, pose = stage.rng, stage.grip(hand, above=True)
    wide = pose._replace(aperture=pose.aperture + rng.uniform(-1, 3)).moved(np.array([0, -1, rng.uniform(3.0, 7.0)]))
    keys = [Key(stage.duration(0.6, 1.2), wide, rng.uniform(*stage.arc))]
    keys += [Key(stage.duration(0.4, 1.0), wide.moved(rng.normal(0, 0.7, 3)))]
    return Act({hand: [*keys, Key(stage.duration(0.4, 0.7), stage.off(wide, hand, 6))]}, {hand: 0})


def snatch(stage: Stage, hand: int) -> Act:
    """Close the hand above the thing, beside it, or short of it."""
    rng, pose = stage.rng, stage.grip(hand)
    back = np.array([np.sin(pose.heading), -np.cos(pose.heading), 0])
    aside = rng.choice([-1, 1]) * np.array([np.cos(pose.heading), np.sin(pose.heading), 0])
    clear = max(stage.thing.half) + 3.5
    off = (
        np.array([0, 0, stage.thing.height - (pose.z - stage.place[2]) + rng.uniform(2.2, 4)]),
        aside * (clear + pose.aperture / 2 + rng.uniform(0.5, 3)),
        back * (clear + rng.uniform(0.5, 3)),
    )[rng.integers(3)]
    empty = pose.moved(off)
    keys, _ = stage.reach(empty, hand)
    keys += [Key(stage.duration(0.12, 0.4), empty._replace(aperture=rng.uniform(1.6, 0.9 * pose.aperture)))]
    return Act({hand: [*keys, *stage.leave(empty, hand)]}, {hand: 0})


def short(stage: Stage, hand: int) -> Act:
    """Reach for the thing, stop, and withdraw."""
    rng, pose = stage.rng, stage.grip(hand)
    wide = pose._replace(aperture=pose.aperture + rng.uniform(1, 3))
    stop = stage.off(wide, hand, rng.uniform(4, 8))
    keys = [Key(stage.duration(0.7, 1.1), stop, rng.uniform(*stage.arc)), Key(stage.duration(0.05, 0.6), stop)]
    return Act({hand: [*keys, Key(stage.duration(0.4, 0.7), stage.off(stop, hand, 7))]}, {hand: 0})


def pass_by(stage: Stage, hand: int) -> Act:
    """Cross over the thing to its other side."""
    rng, pose = stage.rng, stage.grip(hand, above=True)
    way = rng.choice([-1, 1]) * np.array([rng.uniform(7, 12), rng.normal(0, 4), 0])
    over = pose.moved(np.array([0, 0, stage.thing.height - (pose.z - stage.place[2]) + rng.uniform(2.5, 6)]))
    keys = [
        Key(stage.duration(0.6, 1.0), over.moved(-way), rng.uniform(*stage.arc)),
        Key(stage.duration(0.5, 1.2), over.moved(way)),
    ]
    return Act({hand: keys}, {hand: 0})


def show(stage: Stage, hand: int) -> Act:
    """Point at the thing, with one to three jabs."""
    rng, pose = stage.rng, finger(stage.thing, stage.place, stage.yaw, hand, stage.rng)
    at = pose.moved(np.array([rng.normal(0, 1), rng.uniform(-4, 0), rng.uniform(1.8, 5)]))
    jab = at.moved(np.array([0, -1.5, 2.5]))
    keys = [Key(stage.duration(0.7, 1.1), jab, rng.uniform(*stage.arc))]
    for _ in range(rng.integers(1, 4)):
        keys += [
            Key(stage.duration(0.15, 0.3), at),
            Key(stage.duration(0.1, 0.5), at),
            Key(stage.duration(0.15, 0.3), jab),
        ]
    return Act({hand: keys}, {hand: 0})


TOUCHES: dict[Callable[[Stage, int], Act], float] = {
    carry: 0.34, slide: 0.12, steady: 0.12, tap: 0.16, regrasp: 0.08, pair: 0.1, pass_over: 0.08,
}  # fmt: skip
"""Acts that touch, and the probability that each is drawn."""
MISSES: dict[Callable[[Stage, int], Act], float] = {hover: 0.22, snatch: 0.32, short: 0.18, pass_by: 0.12, show: 0.16}
"""Acts that do not touch, and the probability that each is drawn."""
BOTH_HANDS = (pair, pass_over)
"""Acts for which the other hand must be idle."""
