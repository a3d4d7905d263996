"""Kinematics of a hand: positions of the forearm, the palm and five fingers of three bones for a pose. Centimetres, as in `head`.

A pose defines the position and orientation of the grasp. Each finger bends in a plane, with equal joint angles, so that its tip
reaches the grasp. Proportions are those of an adult; the model is this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.models.touch.simulation.head import minimum_jerk

Array = NDArray[np.float64]

LEFT, RIGHT = 0, 1
TIP = 0.75
"""Radius of a fingertip, cm."""
BONES = np.array([[4.4, 3.4, 2.8], [4.6, 2.7, 2.2], [5.0, 3.0, 2.4], [4.6, 2.8, 2.3], [3.7, 2.2, 2.0]])
"""Bone lengths from the knuckle on, cm: thumb, index, middle, ring, little finger."""
KNUCKLES = np.array([[3.2, -2.8, -0.8], [8.8, -2.9, 0.2], [9.1, -0.9, 0.5], [8.7, 1.0, 0.4], [8.0, 2.8, 0.0]])
"""Positions of the knuckles from the wrist, cm: ahead, towards the little finger, towards the back of the hand."""
RADII = np.array([[1.35, 1.05, 0.95, TIP]] + 3 * [[1.0, 0.88, 0.82, TIP]] + [[0.9, 0.75, 0.7, 0.68]])
"""Radii of knuckle, joints and tip of each finger, cm."""
SPREAD = np.array([0.0, -1.95, -0.65, 0.65, 1.95])
"""Offsets of the fingertips along the thing in a grasp, cm."""
WRIST, ELBOW = 2.4, 3.6
SHOULDER = np.array([24.0, -44.0, 10.0])
"""Point towards which the right arm leaves the picture, cm. No upper arm is drawn, so `elbow` lies farther off than a real one."""
_ARM = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
_ANGLES = np.linspace(0, 1.9, 64)
_SPINE = BONES[:, 0, None] + BONES[:, 1, None] * np.exp(1j * _ANGLES) + BONES[:, 2, None] * np.exp(2j * _ANGLES)


class Pose(NamedTuple):
    """Position and posture of a hand.

    Args:
        x, y, z: the middle between thumb and fingers, or the tip of a pointing index finger, cm.
        heading: direction of the hand seen from above, rad, counterclockwise; 0 points away from the person.
        pitch: how steeply the hand points down, rad.
        roll: rad; 0 is palm down, a quarter turn is little finger down.
        tilt: rotation of the hand and what it holds about its heading, rad, as in pouring.
        oppose: angle from the heading to the direction from thumb to fingers, rad, towards the little finger.
        aperture: distance between the centres of the tips of thumb and fingers, cm.
        point: 0 is a grasp, 1 is the index finger extended and the others in a fist.
        reach: distance from the wrist to x, y, z along the hand's direction, cm.
        aside: offset of the palm from that line, towards the back of the hand, cm.
    """

    x: float
    y: float
    z: float
    heading: float = 0.0
    pitch: float = 0.7
    roll: float = 0.2
    tilt: float = 0.0
    oppose: float = 0.9
    aperture: float = 5.0
    point: float = 0.0
    reach: float = 13.0
    aside: float = 0.0

    def moved(self, shift: Array) -> Pose:
        """The same hand elsewhere; `shift` is `[3]`, cm."""
        return self._replace(x=self.x + shift[0], y=self.y + shift[1], z=self.z + shift[2])


class Key(NamedTuple):
    """A pose to reach in `seconds`. On the way the hand is up to `arc` cm higher and `open` cm wider than on a straight path."""

    seconds: float
    pose: Pose
    arc: float = 0.0
    open: float = 0.0


@dataclass(frozen=True)
class Joints:
    """Joint positions of a hand.

    Args:
        fingers: `[T, 5, 4, 3]`, each from knuckle to tip.
        wrist, elbow: `[T, 3]`.
        side: `[T, 3]`, unit vectors towards the little finger.
        back: `[T, 3]`, unit vectors out of the back of the hand.
        grip: `[T, 3, 3]`, rotations of what the hand holds.
    """

    fingers: Array
    wrist: Array
    elbow: Array
    side: Array
    back: Array
    grip: Array

    def solid(self) -> tuple[Array, Array]:
        """Points `[T, N, 3]` along all bones and the forearm, and their radii `[N]`, to compute what the hand touches."""
        middles = (self.fingers[:, :, 1:] + self.fingers[:, :, :-1]) / 2
        arm = self.wrist[:, None] + _ARM[:, None] * (self.elbow - self.wrist)[:, None]
        count = len(self.wrist)
        points = np.concatenate([self.fingers.reshape(count, -1, 3), middles.reshape(count, -1, 3), arm], 1)
        thick = np.concatenate(
            [RADII.ravel(), ((RADII[:, 1:] + RADII[:, :-1]) / 2).ravel(), WRIST + _ARM * (ELBOW - WRIST)]
        )
        return points, thick


def tracked(start: Pose, keys: list[Key], rate: float) -> Array:
    """Poses `[T, 12]` of a hand that moves from key to key with minimum jerk, excluding `start`."""
    segments, before = [], np.array(start)
    for key in keys:
        steps = max(1, round(key.seconds * rate))
        share = np.arange(1, steps + 1) / steps
        progress = minimum_jerk(share)
        poses = before + progress[:, None] * (np.array(key.pose) - before)
        bump = 16 * progress**2 * (1 - progress) ** 2
        poses[:, 2] += key.arc * bump
        poses[:, Pose._fields.index("aperture")] += key.open * bump
        segments.append(poses)
        before = np.array(key.pose)
    return np.concatenate(segments)


def joints(poses: Array, hand: int) -> Joints:
    """Joints of the left or right `hand` in poses `[T, 12]`. A finger that cannot reach its target points straight at it."""
    x, y, z, heading, pitch, roll, tilt, oppose, aperture, point, reach, aside = np.asarray(poses, float).T
    mirror = 1.0 if hand == RIGHT else -1.0
    level = np.zeros_like(x)
    grasp = np.stack([x, y, z], 1)
    up = np.array([0.0, 0.0, 1.0])
    ahead = np.stack([-np.sin(heading), np.cos(heading), level], 1)
    beside = mirror * np.stack([np.cos(heading), np.sin(heading), level], 1)
    forth = np.cos(pitch)[:, None] * ahead - np.sin(pitch)[:, None] * up
    flat = np.sin(pitch)[:, None] * ahead + np.cos(pitch)[:, None] * up
    side = np.cos(roll)[:, None] * beside - np.sin(roll)[:, None] * flat
    across = np.cos(oppose)[:, None] * ahead + np.sin(oppose)[:, None] * beside
    tilted = _about(ahead, tilt)
    forth, side, across = (np.einsum("tij,tj->ti", tilted, way) for way in (forth, side, across))
    back = mirror * np.cross(side, forth)
    along = _unit(side - np.sum(side * across, 1, keepdims=True) * across)
    wrist = grasp - reach[:, None] * forth + aside[:, None] * back
    frame = np.stack([forth, side, back], 1)
    knuckles = wrist[:, None] + KNUCKLES @ frame
    sign = np.array([-0.5, 0.5, 0.5, 0.5, 0.5])[:, None]
    closed = grasp[:, None] + sign * (aperture[:, None] * across)[:, None] + SPREAD[:, None] * along[:, None]
    fist = knuckles + np.array([[4.5, 3.0, -2.0]] + 4 * [[1.6, 0.0, -2.5]]) @ frame
    fist[:, 1] = grasp
    tips = closed + point[:, None, None] * (fist - closed)
    around = (1 - point)[:, None] * across
    outward = np.stack([_unit(back - 1.5 * around - side), *[_unit(back + 0.8 * around)] * 4], 1)
    shoulder = SHOULDER * [mirror, 1, 1]
    return Joints(
        fingers=_bent(knuckles, tips, outward),
        wrist=wrist,
        elbow=wrist + 0.75 * (shoulder - wrist),
        side=side,
        back=back,
        grip=tilted @ _about(np.broadcast_to(up, ahead.shape), heading),
    )


def _bent(knuckles: Array, tips: Array, outward: Array) -> Array:
    """Chains of joints `[T, 5, 4, 3]` from `knuckles` to `tips`, both `[T, 5, 3]`, that bend towards `outward`."""
    chord = tips - knuckles
    length = np.linalg.norm(chord, axis=-1)
    bend, rise = np.empty_like(length), np.empty_like(length)
    for finger, spine in enumerate(_SPINE):
        bend[:, finger] = np.interp(-length[:, finger], -np.abs(spine), _ANGLES)
        rise[:, finger] = np.interp(bend[:, finger], _ANGLES, np.angle(spine))
    chord = chord / np.maximum(length, 1e-6)[..., None]
    bow = _unit(outward - np.sum(outward * chord, -1, keepdims=True) * chord)
    chain = [knuckles]
    for bone in range(3):
        angle = (rise - bone * bend)[..., None]
        chain.append(chain[-1] + BONES[:, bone, None] * (np.cos(angle) * chord + np.sin(angle) * bow))
    return np.stack(chain, 2)


def _unit(ways: Array) -> Array:
    return ways / np.maximum(np.linalg.norm(ways, axis=-1, keepdims=True), 1e-9)


def _about(axis: Array, angle: Array) -> Array:
    """Rotations `[T, 3, 3]` about unit vectors `[T, 3]` (Rodrigues)."""
    cross = np.zeros((len(axis), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    cross -= cross.transpose(0, 2, 1)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * (cross @ cross)
