"""Intact walls: bricks, blocks, plaster and concrete, and crops of pictures of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.float32]
"""`[H, W, 3]` RGB, 0 to 255."""
REAL = 0.5
"""Share of walls that are crops of real pictures, where there are any."""


def noise(rng: np.random.Generator, scale: float, size: tuple[int, int]) -> Canvas:
    """Smooth noise of variance about 1, `[H, W]`; `scale`: pixels between its independent values."""
    rows, columns = (max(2, int(side / scale) + 2) for side in size)
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def wall(rng: np.random.Generator, size: tuple[int, int], real: Sequence[NDArray[np.uint8]] = ()) -> Canvas:
    """A wall without damage, in full view.

    Args:
        size: rows and columns.
        real: pictures of intact walls, from which some are cropped.
    """
    if len(real) and rng.random() < REAL:
        return crop(rng, real[int(rng.integers(len(real)))], size)
    return _textured(rng, _bricks(rng, size) if rng.random() < 0.6 else _plain(rng, size))


def crop(rng: np.random.Generator, picture: NDArray[np.uint8], size: tuple[int, int], zoom: float = 2.2) -> Canvas:
    """A random part of a picture, enlarged up to `zoom` times beyond what fills `size`, mirrored at random."""
    rows, columns = size
    scale = rng.uniform(1.02, zoom) * max(rows / picture.shape[0], columns / picture.shape[1])
    scale = min(scale, max(4.0, 1.02 * max(rows / picture.shape[0], columns / picture.shape[1])))
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    shape = (max(columns, round(picture.shape[1] * scale)), max(rows, round(picture.shape[0] * scale)))
    large = cv2.resize(picture, shape, interpolation=method)
    y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(large.shape, size, strict=False))
    part = large[y : y + rows, x : x + columns].astype(np.float32)
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def mosaic(rng: np.random.Generator, picture: NDArray[np.uint8], size: tuple[int, int]) -> Canvas:
    """A large wall of one small picture: mirrored at its edges, again and again, enlarged up to twice."""
    rows, columns = size
    scale = rng.uniform(1.0, 2.0) * max(1.0, 160 / min(picture.shape[:2]))
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    pad = [max(0, n - m) for n, m in zip(size, large.shape, strict=False)]
    while max(pad):  # OpenCV mirrors once at most
        step = [min(p, n - 1) for p, n in zip(pad, large.shape, strict=False)]
        large = cv2.copyMakeBorder(large, 0, step[0], 0, step[1], cv2.BORDER_REFLECT)
        pad = [p - s for p, s in zip(pad, step, strict=True)]
    return np.asarray(large[:rows, :columns], np.float32)


def _plain(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    colour = 0.3 * rng.uniform(60, 230, 3) + 0.7 * rng.uniform(60, 230)
    return np.zeros((*size, 3), np.float32) + colour.astype(np.float32)


@dataclass(frozen=True)
class Bond:
    """How bricks are laid: sides of a brick and width of a joint, in pixels; by how much each second course is shifted."""

    height: int
    width: int
    joint: int
    shift: int

    @classmethod
    def of(cls, rng: np.random.Generator) -> Bond:
        """Some bond."""
        height = int(rng.integers(14, 110))
        width = int(height * rng.uniform(1.6, 3.8))
        return cls(height, width, max(1, int(height * rng.uniform(0.04, 0.25))), width // 2)

    def stair(self, rng: np.random.Generator, length: int) -> NDArray[np.float32]:
        """A way along the joints, down a course and across half a brick, through the middle of a square of `length`; `[N, 2]`."""
        row, column = self.height + self.joint, self.width + self.joint
        y, x = (length // 2 // row) * row - self.joint / 2, (length // 2 // column) * column - self.joint / 2
        side, points = rng.choice([-1, 1]), [(x, y)]
        for _ in range(int(rng.integers(2, 7))):
            if rng.random() < 0.25:
                side = -side
            across = self.shift + self.joint / 2 if rng.random() < 0.8 else column
            x, y = points[-1]
            points += [(x + side * across, y), (x + side * across, y + row)]
        return np.array(points, np.float32)


def _bricks(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    return _laid(rng, size, split=False)[0]


def stepped(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Canvas, NDArray[np.float32]]:
    """A wall of bricks that has come apart along its joints, and the damaged share of each pixel."""
    image, mask = _laid(rng, size, split=True)
    return _textured(rng, image), mask


def _laid(rng: np.random.Generator, size: tuple[int, int], *, split: bool) -> tuple[Canvas, NDArray[np.float32]]:
    """Courses of bricks or blocks with joints, seen at a small angle or, sometimes, at any; and the gap in them."""
    side, bond = max(size), Bond.of(rng)
    base = rng.uniform(40, 210) + rng.normal(0, 12, 3)
    if rng.random() < 0.5:  # fired clay
        base = rng.uniform(50, 220) * np.array([1, rng.uniform(0.45, 0.85), rng.uniform(0.3, 0.75)])
    mortar = np.clip(base.mean() + rng.uniform(-90, 90) + rng.normal(0, 8, 3), 8, 245)
    image = np.zeros((2 * side, 2 * side, 3), np.float32) + base.astype(np.float32)
    solid = np.zeros((2 * side, 2 * side), np.float32)
    spread, wear = rng.uniform(2, 25), int(rng.integers(0, 4))
    for row, y in enumerate(range(0, 2 * side, bond.height + bond.joint)):
        for x in range(-bond.width, 2 * side, bond.width + bond.joint):
            left = x + (bond.shift if row % 2 else 0)
            worn = rng.integers(-wear, wear + 1, 4) if bond.joint > 2 else np.zeros(4, int)
            corners = (
                (left + int(worn[0]), y + int(worn[1])),
                (left + bond.width + int(worn[2]), y + bond.height + int(worn[3])),
            )
            cv2.rectangle(image, *corners, (base + rng.normal(0, spread) + rng.normal(0, 4, 3)).tolist(), -1)
            cv2.rectangle(solid, *corners, 1.0, -1)
    gap = np.zeros_like(solid)
    if split:
        points = (bond.stair(rng, 2 * side) * 16).astype(np.int32)
        cv2.polylines(gap, [points], False, 1.0, max(2, round(bond.joint * rng.uniform(0.4, 1.2))), cv2.LINE_AA, 4)
    image, solid, gap = _weathered(rng, image, solid, gap)
    edge = cv2.GaussianBlur(solid, (0, 0), rng.uniform(0.5, 1.2))
    image = image + rng.uniform(0, 14) * noise(rng, rng.uniform(6, 40), solid.shape)[..., None]
    laid = edge[..., None] * image + (1 - edge[..., None]) * (
        mortar + rng.uniform(2, 16) * noise(rng, 2, solid.shape)[..., None]
    )
    laid += rng.uniform(0, 55) * np.clip(edge - np.roll(edge, 2, 0), -1, 1)[..., None]  # joints lie in shadow
    if split:
        dark = laid.mean((0, 1)) * rng.uniform(0.03, 0.4)
        alpha = np.clip(gap * rng.uniform(0.8, 1.1), 0, 1)[..., None]
        laid = laid * (1 - alpha) + alpha * dark
    angle = rng.uniform(-12, 12) if rng.random() < 0.8 else rng.uniform(0, 180)
    turn = cv2.getRotationMatrix2D((side, side), angle, rng.uniform(0.9, 1.5))
    top, left = side - size[0] // 2, side - size[1] // 2
    seen = []
    for part in (laid.astype(np.float32), gap):
        turned = cv2.warpAffine(part, turn, (2 * side, 2 * side), borderMode=cv2.BORDER_REFLECT)
        seen.append(np.asarray(turned[top : top + size[0], left : left + size[1]], np.float32))
    return seen[0], seen[1]


def _weathered(rng: np.random.Generator, *parts: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The parts of a wall with edges that are no longer straight."""
    size = parts[0].shape[0], parts[0].shape[1]
    amount = [rng.uniform(0.2, 1.2), rng.uniform(0.2, 2.5)]
    away = [amount[0] * noise(rng, 4, size) + amount[1] * noise(rng, 14, size) for _ in range(2)]
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    at = [np.asarray(grid + shift, np.float32) for grid, shift in zip((x, y), away, strict=True)]
    return [
        np.asarray(cv2.remap(p, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)
        for p in parts
    ]


def _textured(rng: np.random.Generator, image: Canvas) -> Canvas:
    """Add grain, mottling, a gradient of light and pits."""
    size = image.shape[0], image.shape[1]
    for scale, strength in ((1.2, 8), (2, 9), (5, 11), (16, 13), (60, 22)):
        image = image + rng.uniform(0.5, strength) * noise(rng, scale, size)[..., None]
    if rng.random() < 0.5:
        dark = image.mean((0, 1))
        for _ in range(int(rng.integers(5, 80) * image.shape[0] * image.shape[1] / 224**2)):
            at = int(rng.integers(0, size[1])), int(rng.integers(0, size[0]))
            axes = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            colour = (dark - rng.uniform(10, 70)).tolist()
            cv2.ellipse(image, at, axes, int(rng.integers(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return np.asarray(image, np.float32)
