"""Scenes in several bands, made by chance: things before a background, each with a colour and a warmth of its own.

What a camera for visible light and one for heat have in common are the outlines of things. A thing that is bright to the one may be
dark to the other, and a print that the one sees is invisible to the other.

The design is this project's own. It contains no picture from a data set.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

SIZE = (420, 560)
"""Rows and columns of a scene."""
BANDS = 5
"""Red, green, blue, near infrared, heat; all are drawn alike, and independently of each other."""
SHARED = 0.5
"""Share of a thing's shade that all of its bands have in common, on average."""


def scene(seed: int) -> Picture:
    """A scene `[*SIZE, BANDS]`, brightness 0 to 255; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None, None]
    picture = _shade(rng) * (1 - y) + _shade(rng) * y + np.zeros((*SIZE, 1), np.float32)
    picture += 25 * rng.uniform(0, 1.5) * fractal(rng)[..., None] * rng.uniform(-1, 1, BANDS).astype(np.float32)
    kinds = list(THINGS.values())
    for _ in range(int(rng.integers(12, 60))):
        mask = kinds[int(rng.integers(len(kinds)))](rng)[..., None]
        inside = _shade(rng) + 0 * picture[:1, :1]
        if rng.random() < 0.6:
            inside = inside + 30 * rng.uniform(0.1, 1) * fractal(rng)[..., None] * rng.uniform(-1, 1, BANDS)
        picture += mask * (inside.astype(np.float32) - picture)
    return np.clip(picture, 0, 255)


def fractal(rng: np.random.Generator) -> Picture:
    """Noise of many scales with deviation 1, `[*SIZE]`."""
    rough, total = rng.uniform(0.4, 0.9), np.zeros(SIZE, np.float32)
    for power in range(6):
        cells = 4 * 2**power
        coarse = rng.standard_normal((cells * 3 // 4 + 1, cells)).astype(np.float32)
        total += np.float32(rough**power) * cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(total / total.std(), np.float32)


def _shade(rng: np.random.Generator) -> Picture:
    """A shade of each band, partly in common."""
    common = np.clip(rng.normal(SHARED, 0.25), 0, 1)
    return np.asarray(common * rng.uniform(10, 245) + (1 - common) * rng.uniform(10, 245, BANDS), np.float32)


def _place(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0, 1, 2) * SIZE[::-1]


def _reach(rng: np.random.Generator) -> float:
    """A size, pixels: small ones are as likely as large ones."""
    return float(np.exp(rng.uniform(np.log(5), np.log(110))))


def _filled(*outlines: NDArray[np.float64]) -> Picture:
    mask = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(mask, [np.round(16 * outline).astype(np.int32) for outline in outlines], 255, cv2.LINE_AA, 4)
    return np.asarray(mask / 255, np.float32)


def _box(rng: np.random.Generator) -> NDArray[np.float64]:
    """The corners of a box, often upright: width, height and turn."""
    wide, tall, turn = _reach(rng), _reach(rng), rng.normal(0, 0.05) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    corners = np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]) / 1.4
    return np.asarray(corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]))


def _wall(rng: np.random.Generator) -> Picture:
    return _filled(_box(rng) + _place(rng))


def _windows(rng: np.random.Generator) -> Picture:
    """A grid of equal openings in a box."""
    box = _box(rng) * rng.uniform(1, 2) + _place(rng)
    across, down = (int(n) for n in rng.integers(2, 7, 2))
    share = rng.uniform(0.4, 0.8)
    right, below = (box[1] - box[0]) / across, (box[3] - box[0]) / down
    corners = np.array([[0, 0], [share, 0], [share, share], [0, share]])
    cells = [box[0] + i * right + j * below for i in range(across) for j in range(down)]
    return _filled(*(cell + corners @ np.stack([right, below]) for cell in cells))


def _plane(rng: np.random.Generator) -> Picture:
    """A polygon."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
    radius = _reach(rng) * rng.uniform(0.5, 1.3, len(angles))
    return _filled(np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1) + _place(rng))


def _disc(rng: np.random.Generator) -> Picture:
    angles = np.linspace(0, 2 * np.pi, 40)
    wide, tall, turn = _reach(rng), _reach(rng), rng.uniform(0, np.pi)
    x, y = wide * np.cos(angles), tall * np.sin(angles)
    rim = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], 1)
    return _filled(rim / 1.5 + _place(rng))


def _pole(rng: np.random.Generator) -> Picture:
    """A line from one place to another: poles, wires, kerbs."""
    mask = np.zeros(SIZE, np.uint8)
    ends = [tuple(int(v) for v in _place(rng)) for _ in range(2)]
    if rng.random() < 0.5:
        ends[1] = (ends[0][0] + int(rng.normal(0, 6)), ends[1][1])
    cv2.line(mask, ends[0], ends[1], 255, int(rng.integers(1, 7)), cv2.LINE_AA)
    return np.asarray(mask / 255, np.float32)


def _bush(rng: np.random.Generator) -> Picture:
    """A patch with a ragged rim: the part of a disc where noise is high."""
    noise = fractal(rng)
    x, y = _place(rng)
    wide, tall = _reach(rng) * 1.3, _reach(rng) * 1.3
    across, down = np.meshgrid(np.arange(SIZE[1], dtype=np.float32), np.arange(SIZE[0], dtype=np.float32))
    inside = 1 - ((across - np.float32(x)) / np.float32(wide)) ** 2 - ((down - np.float32(y)) / np.float32(tall)) ** 2
    return np.clip(4 * (inside + 0.4 * noise), 0, 1).astype(np.float32)


THINGS: dict[str, Callable[[np.random.Generator], Picture]] = {
    "wall": _wall,
    "windows": _windows,
    "plane": _plane,
    "disc": _disc,
    "pole": _pole,
    "bush": _bush,
}
