"""Motion relative to the camera's own: how places of the picture moved and changed beyond what the camera's motion explains.

It shows a hand that reaches, stops and moves a thing, whatever the hand, the thing and the table look like.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.hands import present, squares
from tocsin.models.touch.truth import HANDS
from tocsin.models.vision import flow

EVERY = 16
"""Spacing, in pixels each way, of the flow vectors to which the camera's motion is fitted."""
CHANNELS = 3
"""Changes since the previous frame: motion right and down, pixels, and brightness, in units of `SHADE`."""
SHADE = 32.0
FINER = 4
"""Rows and columns into which a token divides its place."""
MOTION = CHANNELS * FINER**2
"""A token's channels of motion, its last ones: for each of `CHANNELS` the parts of the place in row order."""
BACK = 1 | 16
"""`cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP`, without importing `cv2`."""

Affine = NDArray[np.float64]
"""`[3, 3]`, maps pixels to pixels."""


class Moving(NamedTuple):
    """Changes from one frame to the next, beyond the camera's motion.

    Args:
        scene: `[B, CHANNELS, *size]`, of the reduced frame.
        hands: `[B, 2, CHANNELS, side, side]`, of a square around each hand, sampled from the full frame; zeros for an
            absent hand.
    """

    scene: Tensor
    hands: Tensor


def moving(pairs: Tensor, boxes: Tensor, *, size: tuple[int, int], side: int, enlarge: float) -> Moving:
    """Compute the motion beyond the camera's own.

    Args:
        pairs: `[B, 2, H, W] uint8`, grey, the previous frame and the frame.
        boxes: `[B, 2, 4]`, hands in the frame, see `tocsin.models.touch.hands.cut`.
        size: rows and columns to which frames are reduced to estimate the camera's motion.
        side, enlarge: `size` and `enlarge` of `tocsin.models.touch.hands.cut`, for a hand's square.
    """
    scene = torch.empty(len(pairs), CHANNELS, *size)
    hands = torch.zeros(len(pairs), len(HANDS), CHANNELS, side, side)
    middles, halves = (part.double().numpy() for part in squares(boxes, pairs.shape[2:], enlarge))
    for at, ((before, after), visible) in enumerate(zip(pairs.numpy(), present(boxes).tolist(), strict=True)):
        moved, camera = _scene_motion(before, after, size)
        scene[at] = torch.from_numpy(moved)
        for hand in (hand for hand, is_visible in enumerate(visible) if is_visible):
            square = _square(middles[at, hand], float(halves[at, hand, 0]), side)
            hands[at, hand] = torch.from_numpy(_hand_motion(before, after, square, camera, side))
    return Moving(scene, hands)


def _scene_motion(
    before: NDArray[np.uint8], after: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[NDArray[np.float32], Affine]:
    """Motion in the whole reduced frame, and the camera's motion as a map from a full frame's pixels to the previous frame's."""
    import cv2

    (height, width), (rows, columns) = size, after.shape
    small, previous = (cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in (after, before))
    moved, fitted = flow.between(previous, small, EVERY)
    (a, b, c), (d, e, f) = fitted.astype(np.float32)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    compensated = cv2.warpAffine(previous, fitted, (width, height), flags=BACK, borderMode=cv2.BORDER_REPLICATE)
    channels = np.stack(
        [
            a * x + b * y + c - x - moved[..., 0],
            d * x + e * y + f - y - moved[..., 1],
            (small.astype(np.float32) - compensated) / SHADE,
        ]
    )
    reduce = centred(np.array([width / columns, height / rows]), np.zeros(2))
    return channels, np.linalg.inv(reduce) @ np.vstack([fitted, [0, 0, 1]]) @ reduce


def _hand_motion(
    before: NDArray[np.uint8], after: NDArray[np.uint8], square: Affine, camera: Affine, side: int
) -> NDArray[np.float32]:
    """Motion in a square and its change of brightness, with the camera's motion removed."""
    now, compensated = _warped(before, after, square, camera, side)
    changed = (now.astype(np.float32) - compensated) / SHADE
    return np.concatenate([-flow.dense(compensated, now).transpose(2, 0, 1), changed[None]])


def over_scene(
    before: NDArray[np.uint8], after: NDArray[np.uint8], square: Affine, camera: Affine, side: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Motion over the scene in a square, `[side, side, 2]`, the square's pixels per frame, right and down; and the square.

    Args:
        before, after: `[H, W]`, two frames.
        square: maps the square's pixels to the frame's; `side` of them each way.
        camera: from `camera_motion`.
    """
    now, compensated = _warped(before, after, square, camera, side)
    return -flow.dense(compensated, now), now


def _warped(
    before: NDArray[np.uint8], after: NDArray[np.uint8], square: Affine, camera: Affine, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square of the frame, and the same of the previous frame as the camera would see it now."""
    import cv2

    now, compensated = (
        np.asarray(
            cv2.warpAffine(part, transform[:2], (side, side), flags=BACK, borderMode=cv2.BORDER_REPLICATE), np.uint8
        )
        for part, transform in ((after, square), (before, camera @ square))
    )
    return now, compensated


def camera_motion(before: NDArray[np.uint8], after: NDArray[np.uint8], size: tuple[int, int]) -> Affine:
    """Estimate the camera's motion as a map from a frame's pixels to the previous frame's, from frames reduced to `size`."""
    return _scene_motion(before, after, size)[1]


def _square(middle: NDArray[np.float64], half: float, side: int) -> Affine:
    """Map from a square's pixels to the frame's."""
    scale = 2 * half / side
    return centred(np.full(2, scale), middle - half)


def centred(scale: NDArray[np.float64], shift: NDArray[np.float64]) -> Affine:
    """A map that scales and shifts pixel edges. Pixel coordinates are those of pixel centres."""
    moved = shift + scale / 2 - 0.5
    return np.array([[scale[0], 0, moved[0]], [0, scale[1], moved[1]], [0, 0, 1]])
