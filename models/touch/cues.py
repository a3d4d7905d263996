"""Cues of touch in two successive frames: how a hand moves over the scene, and whether what lies around its fingers moves with it.

An empty hand moves over a scene that stands still. What a hand holds moves with it, whatever hand and thing look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.moving import camera_motion, centred, over_scene
from tocsin.models.touch.truth import HANDS

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

REDUCED = (144, 256)
"""Rows and columns to which frames are reduced to estimate the camera's motion."""
SIDE = 128
"""Rows and columns of the square around a hand in which motion is computed."""
HALF = 1.7
"""Half of the square's side, in sizes of the hand."""
LEAST = 6.0
"""Least size of a hand, pixels."""
SLOW = 0.05
"""Motion per frame, in sizes of the hand, below which it is not said whether the surroundings move with the hand."""
FLESH = 0.17
"""Radius of a finger, in sizes of the hand."""
RING = (0.1, 0.55)
"""Bounds of the distance of the surroundings from the hand, in its sizes."""
WITH, STILL = 0.5, 0.4
"""Greatest difference from the hand's motion of what moves with it, and greatest motion of what stands still, over that motion."""
TEXTURE = 12.0
"""Least mean gradient of brightness, levels, where motion can be seen."""
ENOUGH = 30
"""Least number of pixels of the surroundings."""
WRIST, KNUCKLES, TIPS = 0, (5, 9, 13, 17), (4, 8, 12)
PALM, OUTLINE = (0, *KNUCKLES), (0, 1, *KNUCKLES)
FINGERS = [(3, 4), (6, 7), (7, 8), (10, 11), (11, 12)]
"""Bones of thumb, index and middle finger that are nearest to the tips."""
BONES = [(0, 1), (0, 5), (0, 17), (5, 9), (9, 13), (13, 17)] + [
    (first + joint, first + joint + 1) for first in (1, 5, 9, 13, 17) for joint in range(3)
]
"""Pairs of joints, in MediaPipe's order: the wrist, then four of each finger from the thumb on."""


class Cues(NamedTuple):
    """Cues of a hand in a frame.

    Args:
        seen: 1 where the hand is found.
        speed: of its fingertips or its palm over the scene, whichever is slower, pixels per frame.
        size: of the hand, pixels: about the length of its palm.
        known: 1 where the hand moves and its surroundings have texture; else the next two are 0.
        along: share of the surroundings that moves with the hand.
        still: share of the surroundings that stands still.
    """

    seen: float
    speed: float
    size: float
    known: float
    along: float
    still: float


def cues(pairs: Tensor, joints: Tensor) -> Tensor:
    """Compute the cues of both hands.

    Args:
        pairs: `[B, 2, H, W] uint8`, grey, the previous frame and the frame.
        joints: `[B, 2, 2, 21, 2]`, in the previous frame and the frame, of the left and the right hand, in MediaPipe's order, as
            shares of the frame's width and height; NaN for an absent hand.

    Returns:
        `[B, 2, len(Cues._fields)] float32`, zeros for an absent hand.
    """
    found = torch.zeros(len(pairs), len(HANDS), len(Cues._fields))
    scale = np.array([pairs.shape[3], pairs.shape[2]], float)
    for at, ((before, after), hands) in enumerate(zip(pairs.numpy(), joints.double().numpy(), strict=True)):
        present = ~np.isnan(hands[1]).any((1, 2))
        if not present.any():
            continue
        camera = camera_motion(before, after, REDUCED)
        for hand in np.flatnonzero(present):
            found[at, hand] = torch.tensor(_of_hand(before, after, camera, *(hands[:, hand] * scale)))
    return found


def _of_hand(before: NDArray[np.uint8], after: NDArray[np.uint8], camera: Array, earlier: Array, joints: Array) -> Cues:
    size = max(_size(joints), LEAST)
    unit = SIDE / (2 * HALF * size)  # the square's pixels in one of the frame
    corner = joints[list(KNUCKLES)].mean(0) - HALF * size
    square = centred(np.full(2, 1 / unit), corner)
    moved, now = over_scene(before, after, square, camera, SIDE)
    spots, radius = (joints - corner) * unit, max(1, round(FLESH * size * unit))
    if np.isnan(earlier).any():
        motion = np.median(moved[_covered(spots, radius, FINGERS)], 0) / unit
        speed = float(np.hypot(*motion))
    else:
        steps = [(joints @ camera[:2, :2].T + camera[:2, 2] - earlier)[list(part)].mean(0) for part in (PALM, TIPS)]
        motion, speed = np.mean(steps, 0), min(float(np.hypot(*step)) for step in steps)
    if np.hypot(*motion) < SLOW * size:
        return Cues(1, speed, size, 0, 0, 0)
    around = _around(spots, _covered(spots, radius), size * unit) & _inside(square, after.shape) & _textured(now)
    if np.count_nonzero(around) < ENOUGH:
        return Cues(1, speed, size, 0, 0, 0)
    flows, shift = moved[around], motion * unit
    along = float((np.hypot(*(flows - shift).T) < WITH * np.hypot(*shift)).mean())
    still = float((np.hypot(*flows.T) < STILL * np.hypot(*shift)).mean())
    return Cues(1, speed, size, 1, along, still)


def _size(joints: Array) -> float:
    """About the length of the palm, whichever way the hand is turned."""
    wrist, index, middle, little = joints[[WRIST, 5, 9, 17]]
    ends = ((wrist, index), (wrist, middle), (wrist, little))
    lengths = [float(np.hypot(*(one - other))) for one, other in ends]
    return float(np.median([*lengths, 1.6 * float(np.hypot(*(index - little)))]))


def _covered(spots: Array, radius: int, bones: Sequence[tuple[int, int]] = BONES) -> Flags:
    """The square's pixels that bones of the hand cover, and its palm if they are `BONES`."""
    import cv2

    mask, corners = np.zeros((SIDE, SIDE), np.uint8), np.round(spots).astype(np.int32)
    for one, other in bones:
        cv2.line(mask, corners[one].tolist(), corners[other].tolist(), 1, 2 * radius)
    if bones is BONES:
        cv2.fillConvexPoly(mask, cv2.convexHull(corners[list(OUTLINE)]), 1)
    return mask.astype(bool)


def _around(spots: Array, hand: Flags, size: float) -> Flags:
    """The square's pixels near the hand that it does not cover."""
    import cv2

    apart = cv2.distanceTransform((~hand).astype(np.uint8), cv2.DIST_L2, 3) / size
    around: Flags = (apart > RING[0]) & (apart < RING[1]) & _ahead(spots, size)
    return around


def _ahead(spots: Array, size: float) -> Flags:
    """The square's pixels ahead of the wrist, where there is no forearm."""
    way = spots[9] - spots[WRIST]
    way /= max(float(np.hypot(*way)), 1e-6)
    down, right = np.mgrid[:SIDE, :SIDE]
    ahead: Flags = (right - spots[WRIST, 0]) * way[0] + (down - spots[WRIST, 1]) * way[1] > 0.35 * size
    return ahead


def _inside(square: Array, shape: tuple[int, ...]) -> Flags:
    """The square's pixels that lie within the frame."""
    axis = np.arange(SIDE)
    right, down = (square[k, k] * axis + square[k, 2] for k in range(2))
    return ((down > 0) & (down < shape[0] - 1))[:, None] & ((right > 0) & (right < shape[1] - 1))


def _textured(now: NDArray[np.uint8]) -> Flags:
    """The pixels around which brightness changes."""
    import cv2

    gradient = np.hypot(*(cv2.Sobel(now, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    textured: Flags = cv2.blur(gradient, (7, 7)) > TEXTURE
    return textured
