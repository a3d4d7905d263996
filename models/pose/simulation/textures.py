"""Textures of simulated surfaces: noise of several octaves with tiles, planks, stripes or pictures on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

SIDE = 512
"""Pixels of a texture, which repeats mirrored."""
PIXELS = 160.0
"""Pixels of a texture to a metre."""
LEVELS = 5


@dataclass(frozen=True)
class Texture:
    """A square picture `[SIDE, SIDE, 3]` float32 in 0..255 and smaller versions of it, so that distant surfaces do not shimmer."""

    picture: Picture

    @cached_property
    def levels(self) -> list[Picture]:
        """The picture, each time half as large."""
        found = [self.picture]
        while len(found) < LEVELS:
            found.append(cv2.resize(found[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        return found

    def at(self, place: NDArray[np.floating], coarse: NDArray[np.floating]) -> Picture:
        """The colours at places `[N, 2]`, m; `coarse` `[N]` is the size of a pixel there, m: `[N, 3]`."""
        level = np.clip(np.log2(np.maximum(coarse * PIXELS, 1)), 0, LEVELS - 1).round().astype(np.int8)
        colors = np.empty((len(place), 3), np.float32)
        for number, picture in enumerate(self.levels):
            if (here := level == number).any():
                x, y = (place[here] * np.float32(PIXELS / 2**number) - 0.5).astype(np.float32).T
                sampled = cv2.remap(picture, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                colors[here] = sampled[0]
        return colors


def paint(rng: np.random.Generator, *, contrast: tuple[float, float] = (0.1, 0.5), ground: bool = False) -> Texture:
    """Draw a texture. `contrast` bounds the deviation of its noise; `ground` has pebbles in the place of what people make."""
    color = rng.uniform(60, 200, 3) * 0.4 + 0.6 * rng.uniform(60, 200)
    rough, weight = rng.uniform(0.55, 0.95), rng.uniform(*contrast)
    shade = sum(rough**octave * noise(rng, cells) for octave, cells in enumerate((4, 8, 16, 32, 64, 128)))
    assert isinstance(shade, np.ndarray)
    picture = color.astype(np.float32) * (1 + np.float32(weight) * shade / shade.std())[..., None]
    picture = np.clip(picture, 5, 250).astype(np.float32)
    if ground:
        _pebbles(picture, rng)
    else:
        (_tiles, _planks, _pictures, _plain)[rng.integers(4)](picture, rng)
    return Texture(np.clip(picture, 0, 255))


def noise(rng: np.random.Generator, cells: int) -> Picture:
    """Smooth noise, `[SIDE, SIDE]`, of so many blobs a side."""
    grid = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    return cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def _tiles(picture: Picture, rng: np.random.Generator) -> None:
    size = int(rng.integers(24, 100))
    for at in range(0, SIDE, size):
        for line in (np.s_[at : at + 3], np.s_[:, at : at + 3]):
            picture[line] *= np.float32(rng.uniform(0.5, 0.8))
    for row in range(0, SIDE, size):
        for column in range(0, SIDE, size):
            picture[row : row + size, column : column + size] *= np.float32(rng.uniform(0.85, 1.15))


def _planks(picture: Picture, rng: np.random.Generator) -> None:
    at = 0
    while at < SIDE:
        size = int(rng.integers(15, 70))
        picture[at : at + size] *= np.float32(rng.uniform(0.75, 1.2))
        picture[at : at + 2] *= np.float32(0.6)
        at += size


def _pictures(picture: Picture, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(3, 12))):
        row, column = rng.integers(0, SIDE - 60, 2)
        height, width = rng.integers(25, 120, 2)
        picture[row : row + height, column : column + width] = rng.uniform(20, 230, 3)
        for _ in range(8):
            centre = (int(column + rng.integers(width)), int(row + rng.integers(height)))
            cv2.circle(picture, centre, int(rng.integers(2, 12)), rng.uniform(20, 230, 3).tolist(), -1)


def _plain(picture: Picture, rng: np.random.Generator) -> None:
    """Nothing on it."""


def _pebbles(picture: Picture, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(50, 900))):
        centre, size = rng.integers(0, SIDE, 2).tolist(), float(min(2 + rng.pareto(1.5) * 2, 25))
        axes = (max(1, round(size)), max(1, round(size * rng.uniform(0.5, 1))))
        color = (picture.mean((0, 1)) * rng.uniform(0.5, 1.6)).tolist()
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
