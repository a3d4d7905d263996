"""Crops around the boxes of hands, and a detector of hands with their joints."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.truth import HANDS

FINDER, NONE = "finder", "none"
"""Values of the option `hands` besides a file: Tocsin's own detector, or no detector."""
JOINTS = 21
"""Joints that MediaPipe finds: the wrist, then four of each finger from the thumb on."""
AT_ONCE = 4
"""Frames cropped together. More of them, as floats, do not fit a CPU's caches."""
UNSEEN = 0.03
"""Share of a hand's frames in which a detector does not find it."""
MIN_CONFIDENCE = 0.3
"""Lowest confidence of a detected hand. It is low because moving hands are blurred, and a missed hand is worse than a false one."""


NEAR = 1.5
"""Distance, in sizes of the hand, from where a hand was in the previous frame, within which it is the same hand."""
FARTHER = 0.3
"""Growth of that distance per frame without the hand, as a share of it."""
DOUBLE = 0.5
"""Distance, in sizes of the hand, below which two found hands are one."""


class FoundHand(NamedTuple):
    """A hand that a detector has found.

    Args:
        right: whether it looks like a right hand.
        score: how likely, 0 to 1.
        joints: `[21, 2]`, shares of the frame's width and height.
    """

    right: bool
    score: float
    joints: NDArray[np.float32]


def joints_are_found(hands: str) -> bool:
    """Whether the option `hands` names MediaPipe's model, which finds joints."""
    return hands not in (FINDER, NONE)


def present(boxes: Tensor) -> Tensor:
    """Whether each hand is present: boxes `[B, 2, 4]`, NaN for an absent hand, -> `[B, 2] bool`."""
    return ~boxes.isnan().any(-1)


def crops(pixels: Tensor, boxes: Tensor, *, size: int, enlarge: float) -> Tensor:
    """Crop a square around each hand, `[B, 2, 3, size, size] uint8`, from pixels `[B, 3, H, W] uint8`; the rest as in `cut`."""
    parts = zip(pixels.split(AT_ONCE), boxes.split(AT_ONCE), strict=True)
    return torch.cat(
        [cut(batch.float(), where, size=size, enlarge=enlarge).round().to(torch.uint8) for batch, where in parts]
    )


def cut(pictures: Tensor, boxes: Tensor, *, size: int, enlarge: float) -> Tensor:
    """Crop a square around each hand, zeros where it leaves the picture.

    Args:
        pictures: `[B, C, H, W] float32`.
        boxes: `[B, 2, 4] float32`, x0, y0, x1, y1 as shares of the frame, left and right hand; NaN for an absent hand.
        size: side of a crop, pixels.
        enlarge: a square's side over the longer side of its box.

    Returns:
        `[B, 2, C, size, size]`. For an absent hand it shows the middle of the frame, which callers ignore.
    """
    if not len(pictures):
        return pictures.new_empty(0, len(HANDS), pictures.shape[1], size, size)
    centre, half = squares(boxes, pictures.shape[2:], enlarge)
    scale = boxes.new_tensor(pictures.shape[:1:-1])
    # Maps a square's coordinates, -1 to 1, to the picture's.
    theta = torch.zeros(*boxes.shape[:2], 2, 3)
    theta[..., 0, 0], theta[..., 1, 1] = (half / scale * 2).unbind(-1)
    theta[..., 2] = centre / scale * 2 - 1
    grid = F.affine_grid(theta.flatten(0, 1), [2 * len(boxes), 1, size, size], align_corners=False)
    both = grid.unflatten(0, (-1, 2)).flatten(1, 2)  # both squares stacked, to sample each picture once
    return F.grid_sample(pictures, both, align_corners=False).unflatten(2, (2, size)).transpose(1, 2)


def squares(boxes: Tensor, size: Sequence[int], enlarge: float) -> tuple[Tensor, Tensor]:
    """Centres `[B, 2, 2]` (x, y) and half sides `[B, 2, 1]` of the squares of `cut` in pictures of `size` (H, W), pixels."""
    scale = boxes.new_tensor([size[1], size[0]])
    low, high = torch.where(boxes.isnan(), 0.5, boxes).mul(scale.repeat(2)).split(2, -1)
    return (low + high) / 2, ((high - low).amax(-1, keepdim=True) / 2 * enlarge).clamp(min=1.0)


def jittered(boxes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Perturb true boxes `[2, 4]` as a detector would: they are a little off, and some are missing."""
    low, high = boxes[:, :2], boxes[:, 2:]
    centre = (low + high) / 2 + rng.normal(0, 0.03, (2, 2)) * (high - low)
    half = (high - low) / 2 * rng.uniform(0.9, 1.12, (2, 2))
    found = np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1).astype(np.float32)
    found[(rng.random(2) < UNSEEN) | (found[:, :2] >= found[:, 2:]).any(1)] = np.nan
    return found


class HandDetector:
    """MediaPipe's hand landmarker, a frame at a time, on the CPU.

    Args:
        model: path of its `.task` file, which MediaPipe publishes. It is not part of the package.

    Raises:
        ValueError: the package or the file is missing.
    """

    def __init__(self, model: Path | str) -> None:
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise ValueError("hands: expected the package mediapipe, got none; pip install 'tocsin[hands]'") from None
        if not Path(model).is_file():
            raise ValueError(f"hands: expected MediaPipe's hand_landmarker.task at {model}, got no file; download it")
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(model)),
            num_hands=2,
            min_hand_detection_confidence=MIN_CONFIDENCE,
        )
        self._landmarker, self._mediapipe = vision.HandLandmarker.create_from_options(options), mediapipe
        weakref.finalize(self, self._landmarker.close)  # when Python ends it is too late: MediaPipe prints a traceback

    def __call__(self, pixels: Tensor) -> list[list[FoundHand]]:
        """The hands in each frame of `[B, 3, H, W] uint8`, the likeliest first."""
        found = list[list[FoundHand]]()
        for frame in pixels.permute(0, 2, 3, 1).contiguous().numpy():
            image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=frame)
            result = self._landmarker.detect(image)
            hands = [
                FoundHand(
                    sides[0].category_name == "Right",
                    sides[0].score,
                    np.array([(point.x, point.y) for point in points], np.float32),
                )
                for sides, points in zip(result.handedness, result.hand_landmarks, strict=True)
            ]
            found.append(sorted(hands, key=lambda hand: -hand.score))
        return found


def sided(
    found: Sequence[FoundHand], last: NDArray[np.float32], unseen: Sequence[int], scale: tuple[float, float]
) -> NDArray[np.float32]:
    """Tell left and right hand: a hand stays what it was, since detectors confuse the sides of a hand that holds something.

    Args:
        found: in a frame, the likeliest first.
        last: `[2, 21, 2]`, where the left and the right hand were last seen.
        unseen: frames since then, 0 if it was in the previous frame; -1: too long ago, or never.
        scale: the frame's width and height, in a common unit.

    Returns:
        `[2, 21, 2]`, NaN for a hand that is not found.
    """
    hands = list[FoundHand]()
    for hand in found:
        if all(_apart(hand.joints, other.joints, scale) > DOUBLE for other in hands):
            hands.append(hand)
    sides = np.full((len(HANDS), JOINTS, 2), np.nan, np.float32)
    away = sorted(
        (_apart(hand.joints, last[side], scale) / (1 + FARTHER * unseen[side]), number, side)
        for number, hand in enumerate(hands)
        for side in range(len(HANDS))
        if unseen[side] >= 0
    )
    taken, known = set[int](), set[int]()
    for distance, number, side in away:
        if distance < NEAR and number not in known and side not in taken:
            sides[side] = hands[number].joints
            known.add(number)
            taken.add(side)
    for number, hand in enumerate(hands):
        free = [side for side in (int(hand.right), 1 - int(hand.right)) if side not in taken]
        if number not in known and free:
            sides[free[0]] = hand.joints
            taken.add(free[0])
    return sides


def _apart(one: NDArray[np.float32], other: NDArray[np.float32], scale: tuple[float, float]) -> float:
    """Distance of two hands `[21, 2]` in sizes of the second one, about the length of its palm."""
    middles = (one.mean(0) - other.mean(0)) * scale
    palm = (other[[5, 9, 17]] - other[0]) * scale
    return float(np.hypot(*middles) / max(float(np.median(np.hypot(*palm.T))), 1e-6))
