"""A painted hand with known joints over a textured table."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.cues import BONES
from tocsin.models.touch.hands import FoundHand

HEIGHT, WIDTH = 288, 512
PALM = 40.0
"""Distance from the wrist to the knuckles, pixels."""
MARK = 8
"""Side of the square in a frame's corner whose brightness is the frame's number, pixels."""
STEP = 3
"""Levels of that brightness per frame."""


def _texture(seed: int) -> NDArray[np.uint8]:
    grain = np.random.default_rng(seed).integers(0, 256, (100, 150), np.uint8)
    return np.asarray(cv2.resize(grain, (900, 600), interpolation=cv2.INTER_CUBIC), np.uint8)


TABLE, SKIN, THING = (_texture(seed) for seed in range(3))


def hand(x: float, y: float) -> NDArray[np.float64]:
    """Return joints `[21, 2]`, pixels, of a hand that points up; (x, y) is its wrist."""
    thumb = [(x - 18 - 6 * n, y - 8 - 9 * n) for n in range(4)]
    fingers = [(x + side, y - PALM - 11 * n + abs(side) / 3) for side in (-12.0, -4.0, 4.0, 12.0) for n in range(4)]
    return np.array([(x, y), *thumb, *fingers])


def painted(joints: NDArray[np.float64], *, pan: int = 0, thing: bool = False) -> NDArray[np.uint8]:
    """Paint a grey frame: the table, shifted by the camera's pan, and the hand, perhaps with a thing ahead of it."""
    frame = TABLE[100 : 100 + HEIGHT, 100 - pan : 100 - pan + WIDTH].copy()
    right, down = np.round(joints[0]).astype(int).tolist()
    places, mask = np.round(joints).astype(np.int32), np.zeros_like(frame)
    for one, other in BONES:
        cv2.line(mask, places[one].tolist(), places[other].tolist(), 255, 14)
    skin, held = (np.roll(part, (down, right), (0, 1))[:HEIGHT, :WIDTH] for part in (SKIN, THING))
    frame[mask > 0] = skin[mask > 0]
    if thing:
        place = slice(down - 120, down - 60), slice(right - 40, right + 40)
        frame[place] = held[place]
    return frame


def film(wrists: list[tuple[float, float]]) -> list[NDArray[np.uint8]]:
    """Paint frames `[H, W, 3]` with the hand's wrist at these places, each marked with its number."""
    frames = []
    for number, wrist in enumerate(wrists):
        frame = painted(hand(*wrist))
        frame[:MARK, :MARK] = STEP * number
        frames.append(np.repeat(frame[..., None], 3, 2))
    return frames


class Seer:
    """Replaces MediaPipe: knows the hand of each frame of `film` by the frame's number.

    Args:
        wrists: places of the wrist, as in `film`.
        left: numbers of the frames in which it takes the hand for a left one.
    """

    def __init__(self, wrists: list[tuple[float, float]], left: range) -> None:
        self._wrists, self._left = wrists, left

    def __call__(self, pixels: Tensor) -> list[list[FoundHand]]:
        """Return the hand of each frame."""
        numbers = (pixels[:, :, 1 : MARK - 1, 1 : MARK - 1].float().mean((1, 2, 3)) / STEP).round().int().tolist()
        joints = [(hand(*self._wrists[number]) / [WIDTH, HEIGHT]).astype(np.float32) for number in numbers]
        return [[FoundHand(number not in self._left, 0.9, j)] for number, j in zip(numbers, joints, strict=True)]
