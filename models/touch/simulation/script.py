"""Plan of a clip, made before a frame is rendered: the motion of hands and things, and the touches.

Acts are drawn one after the other. An act is kept if the geometry agrees with it: the hand's solid must meet the thing's as often
as the act specifies, and no other thing. The frames of a touch are computed from the solids, frame by frame, not from the plan.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation.acts import BOTH_HANDS, MISSES, TOUCHES, Act, Stage
from tocsin.models.touch.simulation.hand import LEFT, RIGHT, Joints, Key, Pose, joints, tracked
from tocsin.models.touch.simulation.things import Thing
from tocsin.models.touch.truth import Miss, Touch

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

CLEAR = 0.8
"""Least distance between a hand and a thing that it must not touch, cm."""
NEAR = 5.0
"""A miss lasts while the hand is nearer to the thing than this, cm."""
DESK = np.array([[-23.0, 10.0], [23.0, 33.0]])
"""Area in which things stand: least and greatest (x, y), cm."""
TAIL = 12.0
"""Time planned beyond the clip's end, s, so that the clip may end in the middle of an act."""
TRIES = 12


class Script:
    """A clip's plan.

    Args:
        things: things on the table.
        count: frames.
        rate: frames per second.
        rng: random generator.
        haste: bounds of a factor on the duration of acts.
        arc: bounds of the height that a hand's path rises by, cm.
        idle: mean time between two acts of a hand, s.
        missing: share of acts that only look as if they would touch.

    Attributes:
        hands: joints of the left and right hand, `[T, ...]`.
        places: `[K, T, 3]`, position of each thing's foot, cm.
        turns: `[K, T, 3, 3]`, rotations from each thing's frame to the world's.
        work: (frame, place): from that frame on the person looks at place (x, y).
        touches, misses: the truth, in order.
    """

    def __init__(
        self,
        things: list[Thing],
        count: int,
        rate: float,
        rng: np.random.Generator,
        *,
        haste: tuple[float, float],
        arc: tuple[float, float],
        idle: float,
        missing: float,
    ) -> None:
        self.things, self._rate, self._rng = things, rate, rng
        total = count + round(TAIL * rate)
        self.places, self.turns = _lay_out(things, total, rng)
        self._poses = [np.tile(np.array(self._initial_pose(hand)), (total, 1)) for hand in (LEFT, RIGHT)]
        self._free = np.zeros(len(things), int)
        self._next = [int(rate * rng.uniform(0.2, 2.5)) for _ in range(2)]
        self.work: list[tuple[int, Array]] = []
        misses: list[Miss] = []
        while min(self._next) < count:
            hand = int(np.argmin(self._next))
            acts = MISSES if rng.random() < missing else TOUCHES
            make_act = rng.choice(np.array(list(acts)), p=np.array(list(acts.values())))
            start = max(self._next) if make_act in BOTH_HANDS else self._next[hand]
            is_kept = any(self._try_act(make_act, hand, start, rng.uniform(*haste), arc, misses) for _ in range(TRIES))
            self._next[hand] += 1 + round(rng.exponential(idle if is_kept else 0.3) * rate)
        self.places, self.turns = self.places[:, :count], self.turns[:, :count]
        self.hands = tuple(joints(poses[:count], hand) for hand, poses in enumerate(self._poses))
        self.work.sort(key=lambda pair: pair[0])
        self.touches = self._touches(count)
        self.misses = sorted(
            (Miss(miss.hand, miss.first, min(miss.last, count - 1)) for miss in misses if miss.first < count),
            key=lambda miss: miss.first,
        )

    def gap(self, hand: Joints, thing: int, frames: slice) -> Array:
        """Distance of a hand, with the joints of `frames`, from a thing, `[T]` cm; 0 or less where it touches."""
        points, radii = hand.solid()
        return (self.things[thing].gap(points, self.places[thing, frames], self.turns[thing, frames]) - radii).min(1)

    def gaps(self, hand: int) -> Array:
        """Distance of a hand from each thing in each frame, `[K, T]` cm."""
        body, frames = self.hands[hand], slice(0, self.places.shape[1])
        return np.stack([self.gap(body, thing, frames) for thing in range(len(self.things))])

    def _try_act(
        self,
        make_act: Callable[[Stage, int], Act],
        hand: int,
        start: int,
        haste: float,
        arc: tuple[float, float],
        misses: list[Miss],
    ) -> bool:
        """Draw an act of a hand that begins at frame `start`, and keep it if the geometry agrees; return whether it was kept."""
        rng, free = self._rng, np.flatnonzero(self._free <= start)
        if not len(free) or start + 1 >= len(self._poses[0]):
            return False
        weights = np.exp((1 if hand == RIGHT else -1) * self.places[free, start, 0] / 6)  # arms seldom cross
        thing = int(rng.choice(free, p=weights / weights.sum()))
        goal = self._room(thing)
        place, turn = self.places[thing, start], self.turns[thing, start]
        yaw = float(np.arctan2(turn[1, 0], turn[0, 0]))
        poses = (Pose(*self._poses[LEFT][start].tolist()), Pose(*self._poses[RIGHT][start].tolist()))
        act = make_act(Stage(self.things[thing], place, yaw, goal, poses, haste, arc, rng), hand)
        return self._apply(act, thing, start, misses)

    def _room(self, thing: int) -> Array:
        """A random place `[2]` on the table that is clear of every other thing, or the clearest one tried."""
        others = [other for other in range(len(self.things)) if other != thing]
        apart = np.array([_radius(self.things[thing]) + _radius(self.things[other]) + 1 for other in others])
        goals = self._rng.uniform(DESK[0], DESK[1], (64, 2))
        away = np.linalg.norm(goals[:, None] - self.places[others, -1, :2], axis=-1) - apart
        fits = np.flatnonzero(away.min(1) > 0)
        return goals[fits[0] if len(fits) else away.min(1).argmax()]

    def _apply(self, act: Act, thing: int, start: int, misses: list[Miss]) -> bool:
        saved = (self._poses, self.places, self.turns)
        self._poses = [poses.copy() for poses in self._poses]
        self.places, self.turns = self.places.copy(), self.turns.copy()
        ends = {}
        for hand, keys in act.keys.items():
            keys = [*keys, self._rest_key(hand)] if self._rng.random() < 0.75 else keys
            track = tracked(Pose(*self._poses[hand][start].tolist()), keys, self._rate)
            if start + len(track) >= len(self._poses[hand]):
                track = track[: len(self._poses[hand]) - start - 1]
            ends[hand] = start + len(track)
            self._poses[hand][start : ends[hand]] = track
            self._poses[hand][ends[hand] :] = track[-1]
        for hold in act.holds:
            steps = np.cumsum([max(1, round(key.seconds * self._rate)) for key in act.keys[hold.hand]]) + start - 1
            self._move(hold.hand, thing, int(steps[hold.first]), int(steps[hold.last]))
        found = self._check(act, thing, start, ends)
        if found is None:
            self._poses, self.places, self.turns = saved
            return False
        misses += found
        self.work.append((start - round(0.2 * self._rate), self.places[thing, start, :2]))
        if act.goal is not None:
            self.work.append(((start + 2 * max(ends.values())) // 3, act.goal))
        self._free[thing] = max(ends.values())
        for hand, end in ends.items():
            self._next[hand] = end
        return True

    def _move(self, hand: int, thing: int, first: int, last: int) -> None:
        """Move a thing with a hand from frame `first` to frame `last`, and leave it there."""
        total = self.places.shape[1]
        last = min(last, total - 1)
        if first >= last:
            return
        poses = self._poses[hand][first : last + 1]
        grip = joints(poses, hand).grip
        rotated = grip @ grip[0].T
        offset = self.places[thing, first] - poses[0, :3]
        self.places[thing, first : last + 1] = poses[:, :3] + rotated @ offset
        self.turns[thing, first : last + 1] = rotated @ self.turns[thing, first]
        self.places[thing, last:] = self.places[thing, last]
        self.turns[thing, last:] = self.turns[thing, last]

    def _check(self, act: Act, thing: int, start: int, ends: dict[int, int]) -> list[Miss] | None:
        """Check that the solids meet as often as the act specifies. Return its misses, or None if they do not."""
        misses = []
        for hand, end in ends.items():
            span = slice(start, end)
            body = joints(self._poses[hand][span], hand)
            for other in range(len(self.things)):
                gap = self.gap(body, other, span)
                if other != thing or not act.touches[hand]:
                    if gap.min() < CLEAR:
                        return None
                elif end < len(self._poses[hand]) - 1 and len(_runs(gap <= 0)) != act.touches[hand]:
                    return None
                if other == thing and not act.touches[hand]:
                    close = np.flatnonzero(gap < NEAR)
                    if not len(close):
                        return None
                    misses.append(Miss(hand, start + int(close[0]), start + int(close[-1])))
        end = max(ends.values())
        for hand in {LEFT, RIGHT} - ends.keys():
            span = slice(start, max(end, self._next[hand]))
            if self.gap(joints(self._poses[hand][span], hand), thing, span).min() < CLEAR:
                return None
        return misses if not act.holds or self._is_clear(thing, slice(start, end)) else None

    def _is_clear(self, thing: int, span: slice) -> bool:
        """Whether a thing passes through no other thing."""
        path, size = self.places[thing, span], _radius(self.things[thing])
        for other, solid in enumerate(self.things):
            if other != thing:
                offset = self.places[other, span] - path
                close = np.linalg.norm(offset[:, :2], axis=1) < 0.85 * (size + _radius(solid))
                if np.any(close & (offset[:, 2] + solid.height > 0) & (offset[:, 2] < self.things[thing].height)):
                    return False
        return True

    def _initial_pose(self, hand: int) -> Pose:
        """The pose of a hand at the start, clear of all things."""
        for _ in range(50):
            pose = _rest(hand, self._rng)
            body = joints(np.array([pose]), hand)
            if min(self.gap(body, thing, slice(0, 1)).min() for thing in range(len(self.things))) > CLEAR:
                break
        return pose

    def _rest_key(self, hand: int) -> Key:
        rng = self._rng
        return Key(float(rng.uniform(0.6, 1.1)), _rest(hand, rng), float(rng.uniform(5, 10)))

    def _touches(self, count: int) -> list[Touch]:
        found = []
        for hand in (LEFT, RIGHT):
            for thing, gap in enumerate(self.gaps(hand)):
                for first, last in _runs(gap <= 0):
                    found.append(Touch(hand, first, last + 1 if last + 1 < count else None, thing))
        return sorted(found, key=lambda touch: (touch.contact, touch.hand))


def _rest(hand: int, rng: np.random.Generator) -> Pose:
    """The pose of a waiting hand: out of sight, or on the table's near edge."""
    mirror = 1 if hand == RIGHT else -1
    if rng.random() < 0.55:
        return Pose(mirror * rng.uniform(12, 22), rng.uniform(-18, -12), rng.uniform(4, 10), mirror * 0.3)
    return Pose(
        mirror * rng.uniform(8, 17),
        rng.uniform(-2, 3),
        rng.uniform(1.2, 3),
        mirror * rng.uniform(0.0, 0.6),
        pitch=0.2,
        aperture=rng.uniform(4, 8),
    )


def _lay_out(things: list[Thing], total: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Lay things on the table, apart from each other: places `[K, T, 3]` and turns `[K, T, 3, 3]`."""
    spots: list[Array] = []
    for thing in things:
        for _ in range(200):
            spot = rng.uniform(DESK[0], DESK[1])
            if all(
                np.linalg.norm(spot - other) > _radius(thing) + _radius(things[at]) + 1.5
                for at, other in enumerate(spots)
            ):
                break
        spots.append(spot)
    yaws = rng.uniform(-np.pi, np.pi, len(things))
    cos, sin, zero, one = np.cos(yaws), np.sin(yaws), np.zeros(len(things)), np.ones(len(things))
    turns = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).reshape(-1, 1, 3, 3)
    places = np.column_stack([np.array(spots), zero])[:, None]
    return np.repeat(places, total, 1), np.repeat(turns, total, 1)


def _radius(thing: Thing) -> float:
    return float(np.hypot(*thing.half)) if not thing.round else thing.half[0]


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]
