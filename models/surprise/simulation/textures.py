"""Stills of textures for pans: tiles and bricks, nets, pebbles, ripples, corals and rubble, made by chance.

The dives' bottoms are soft. Tiles and corals have edges finer than a token, and patterns that repeat: they look different whenever
the camera has moved by half a pattern, and none of that is new.

The design is this project's own. It contains no picture from a data set.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.vision.video import Frame

Shade = NDArray[np.float32]

SIZE = (450, 800)
"""Rows and columns of a still."""
PITCH = (7.0, 60.0)
"""Bounds of a pattern's period, in pixels of a still, about two fifths of which are in sight at a time."""


def texture(seed: int) -> Frame:
    """A still `[*SIZE, 3]` uint8 RGB; the same seed gives the same bytes. Half of them are two textures, side by side."""
    rng = np.random.default_rng(seed)
    one = _coloured(rng)
    if rng.random() < 0.5:
        share = np.clip(_noise(rng, 200.0) / 0.3 + 0.5, 0, 1)[..., None]
        one = share * one + (1 - share) * _coloured(rng)
    dirt = 1 + 0.12 * _noise(rng, 90.0) + 0.05 * _noise(rng, 4.0)
    return np.clip(one * dirt[..., None], 0, 255).astype(np.uint8)


def _coloured(rng: np.random.Generator) -> Shade:
    """A pattern between two colours, `[*SIZE, 3]`."""
    kinds = list(KINDS.values())
    pattern = kinds[int(rng.integers(len(kinds)))](rng)[..., None]
    water = np.array([rng.uniform(0.5, 1), 1, rng.uniform(0.8, 1.2)])
    first = water * rng.uniform(50, 190) * rng.uniform(0.9, 1.1, 3)
    second = np.clip(first + rng.choice([-1, 1]) * water * rng.uniform(20, 110) * rng.uniform(0.7, 1.3, 3), 5, 250)
    return np.asarray(first + pattern * (second - first), np.float32)


def _pitch(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(PITCH))))


def _places(rng: np.random.Generator) -> tuple[Shade, Shade]:
    """Coordinates of each pixel on a plane that is turned and tilted by chance."""
    rows, columns = SIZE
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) - np.array([rows / 2, columns / 2], np.float32)[:, None, None]
    angle, tilt = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5, 2)
    depth = 1 + tilt[0] * x / columns + tilt[1] * y / rows
    x, y = x / depth, y / depth
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y


def _noise(rng: np.random.Generator, scale: float) -> Shade:
    """Smooth noise of deviation 1, `[*SIZE]`; `scale` is its correlation length in pixels."""
    rows, columns = SIZE
    coarse = max(1.0, scale / 4)
    small = rng.standard_normal((int(rows / coarse) + 8, int(columns / coarse) + 8)).astype(np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), max(0.5, scale / coarse / 2))
    return np.asarray(cv2.resize(smooth / smooth.std(), (columns, rows), interpolation=cv2.INTER_CUBIC), np.float32)


def _tiles(rng: np.random.Generator) -> Shade:
    """Tiles in rows, each with a shade of its own, and joints; half of them are staggered as bricks are."""
    x, y = _places(rng)
    tall = _pitch(rng)
    wide, joint = tall * rng.uniform(1, 2.5), rng.uniform(0.8, max(1.0, 0.15 * tall))
    row = np.floor(y / tall)
    x = x + rng.choice([0.0, 0.5]) * wide * (row % 2)
    column = np.floor(x / wide)
    edge = np.minimum(
        np.minimum(y - row * tall, (row + 1) * tall - y), np.minimum(x - column * wide, (column + 1) * wide - x)
    )
    own = np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233) * 43758.5453))[0]
    return np.asarray(rng.uniform(0, 0.4) * own + np.clip(joint / 2 + 0.5 - edge, 0, 1), np.float32)


def _net(rng: np.random.Generator) -> Shade:
    """Two sets of lines over a smooth ground."""
    x, y = _places(rng)
    pitch, thick = _pitch(rng), rng.uniform(0.6, 2.5)
    skewed = x + rng.uniform(-0.7, 0.7) * y
    nearest = np.minimum(*(np.abs((along / pitch + 0.5) % 1 - 0.5) * pitch for along in (skewed, y)))
    return np.asarray(np.clip(thick + 0.5 - nearest, 0, 1) + 0.15 * _noise(rng, 30.0), np.float32)


def _pebbles(rng: np.random.Generator) -> Shade:
    """Round cells about points that lie anywhere, dark between each other."""
    rows, columns = SIZE
    pitch = _pitch(rng)
    seeds = np.full(SIZE, 255, np.uint8)
    count = int(rows * columns / pitch**2)
    seeds[rng.integers(rows, size=count), rng.integers(columns, size=count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    own = rng.random(labels.max() + 1)[labels]
    return np.asarray(rng.uniform(0.2, 0.7) * own + np.clip(distance / pitch, 0, 1) ** 2, np.float32)


def _ripples(rng: np.random.Generator) -> Shade:
    """Waves of sand, or the ribs of a sheet: parallel, more or less bent."""
    x, _ = _places(rng)
    pitch = _pitch(rng)
    phase = x / pitch + rng.uniform(0, 1.5) * _noise(rng, 6 * pitch)
    return np.asarray(0.5 + 0.5 * np.tanh(rng.uniform(0.5, 4) * np.sin(2 * np.pi * phase)), np.float32)


def _corals(rng: np.random.Generator) -> Shade:
    """A maze of walls: noise of one scale, sharpened."""
    pitch = _pitch(rng)
    band = _noise(rng, pitch) - _noise(rng, 2 * pitch)
    return np.asarray(0.5 + 0.5 * np.tanh(rng.uniform(0.7, 4) * band), np.float32)


def _rubble(rng: np.random.Generator) -> Shade:
    """Noise of many scales."""
    rough = rng.uniform(0.4, 1.0)
    layers = sum(rough**power * _noise(rng, 128.0 / 2**power) for power in range(7))
    return np.asarray(0.5 + 0.3 * np.asarray(layers) / (1 + rough), np.float32)


KINDS: dict[str, Callable[[np.random.Generator], Shade]] = {
    "tiles": _tiles,
    "net": _net,
    "pebbles": _pebbles,
    "ripples": _ripples,
    "corals": _corals,
    "rubble": _rubble,
}
