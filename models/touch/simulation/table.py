"""Texture of the table top, painted once: its material, mats and papers, crumbs, and the floor beyond its edge."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

SCALE = 9.0
"""Pixels per centimetre."""
SPAN = np.array([[-75.0, 75.0], [-15.0, 105.0]])
"""Painted area: bounds of x and y, cm."""


def paint(material: str, rng: np.random.Generator) -> Frame:
    """Paint a table `[rows, columns, 3]` uint8 of a material in `MATERIALS`; row 0 is nearest to the person."""
    rows, columns = (int(SCALE * (span[1] - span[0])) for span in SPAN[::-1])
    color = MATERIALS[material](rows, columns, rng)
    table, mean = np.clip(color, 0, 255).astype(np.uint8), color.mean((0, 1))
    for _ in range(rng.integers(1, 5)):
        _sheet(table, 0.6 * mean, rng)
    for _ in range(rng.integers(30, 120)):  # crumbs
        spot = (rng.random(2) * [columns, rows]).astype(int)
        tone = (rng.uniform(0.5, 1.3) * mean).tolist()
        cv2.circle(table, spot.tolist(), int(rng.integers(1, 5)), tone, -1, cv2.LINE_AA)
    edge = int(SCALE * (rng.uniform(62, 90) - SPAN[1, 0]))
    floor = _muted(40, 170, rng) * (0.8 + 0.4 * _cloud(rows - edge, columns, 40, rng))[..., None]
    table[edge:] = np.clip(floor, 0, 255).astype(np.uint8)
    table[edge : edge + 12] = (0.5 * mean).astype(np.uint8)
    return table


def placed() -> Array:
    """The homography `[3, 3]` from the table's (x, y, 1) cm to the painted (column, row, 1)."""
    return np.array([[SCALE, 0, -SCALE * SPAN[0, 0]], [0, SCALE, -SCALE * SPAN[1, 0]], [0, 0, 1]])


def _sheet(table: Frame, shadow: Array, rng: np.random.Generator) -> None:
    """Paint a paper, mat or cloth that lies flat."""
    rows, columns = table.shape[:2]
    middle = rng.uniform((0.15, 0.1), (0.85, 0.6)) * (columns, rows)
    size = SCALE * rng.uniform(10, 32, 2)
    corners = cv2.boxPoints((middle.tolist(), size.tolist(), float(rng.uniform(-40, 40))))
    tone = _muted(60, 245, rng)
    cv2.fillConvexPoly(table, (corners + 5).astype(np.int32), shadow.tolist(), cv2.LINE_AA)
    cv2.fillConvexPoly(table, corners.astype(np.int32), tone.tolist(), cv2.LINE_AA)
    for line in np.linspace(0.12, 0.88, int(rng.integers(2, 14))):
        begin = corners[0] + line * (corners[1] - corners[0]) + 0.1 * (corners[3] - corners[0])
        end = begin + rng.uniform(0.3, 0.8) * (corners[3] - corners[0])
        cv2.line(table, begin.astype(int).tolist(), end.astype(int).tolist(), (0.6 * tone).tolist(), 3, cv2.LINE_AA)


def _cloud(rows: int, columns: int, cell: float, rng: np.random.Generator, stretch: float = 1.0) -> Array:
    """Smooth noise between 0 and 1. A cell is `cell` pixels high and `stretch` times as wide."""
    coarse = rng.random((max(2, int(rows / cell) + 1), max(2, int(columns / cell / stretch) + 1))).astype(np.float32)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC).astype(float)


def _muted(low: float, high: float, rng: np.random.Generator) -> Array:
    """A random colour `[3]` that is two thirds grey."""
    return (2 * rng.uniform(low, high) + rng.uniform(low, high, 3)) / 3


def _wood(rows: int, columns: int, rng: np.random.Generator) -> Array:
    grain = 0.6 * _cloud(rows, columns, 9, rng, 40) + 0.4 * _cloud(rows, columns, 3, rng, 60)
    planks = np.floor(np.arange(rows) / (SCALE * rng.uniform(9, 16)))
    tone = np.array([(176, 128, 82), (205, 165, 115), (122, 82, 54)][rng.integers(3)])
    shade = 0.8 + 0.35 * grain + 0.06 * ((planks % 3) - 1)[:, None]
    shade[np.append(False, np.diff(planks) > 0)] *= 0.7
    return tone * shade[..., None]


def _plain(rows: int, columns: int, rng: np.random.Generator) -> Array:
    tone = _muted(110, 235, rng)
    return tone * (0.93 + 0.1 * _cloud(rows, columns, 90, rng) + 0.04 * _cloud(rows, columns, 2, rng))[..., None]


def _cloth(rows: int, columns: int, rng: np.random.Generator) -> Array:
    step = SCALE * rng.uniform(1.5, 4)
    down, right = (np.floor(np.arange(count) / step) % 2 for count in (rows, columns))
    one, two = _muted(90, 240, rng), _muted(90, 240, rng)
    share = (down[:, None] + right) / 2
    weave = 0.92 + 0.12 * _cloud(rows, columns, 2, rng)
    return (one + share[..., None] * (two - one)) * weave[..., None]


def _steel(rows: int, columns: int, rng: np.random.Generator) -> Array:
    brushed = 0.7 * _cloud(rows, columns, 2, rng, 80) + 0.3 * _cloud(rows, columns, 120, rng)
    return np.array([165, 170, 176]) * (0.7 + 0.5 * brushed)[..., None]


def _marble(rows: int, columns: int, rng: np.random.Generator) -> Array:
    veins = np.abs(_cloud(rows, columns, 110, rng) + 0.4 * _cloud(rows, columns, 30, rng) - 0.7)
    return (
        np.array([232, 230, 226])
        * (0.8 + 0.2 * np.clip(veins / 0.08, 0, 1) ** 0.5 - 0.06 * _cloud(rows, columns, 60, rng))[..., None]
    )


def _tiles(rows: int, columns: int, rng: np.random.Generator) -> Array:
    step = int(SCALE * rng.uniform(6, 11))
    cells = rng.uniform(0.88, 1.06, (rows // step + 1, columns // step + 1))
    shade = np.kron(cells, np.ones((step, step)))[:rows, :columns] * (0.95 + 0.08 * _cloud(rows, columns, 8, rng))
    shade[np.arange(rows) % step < 4] = 0.6
    shade[:, np.arange(columns) % step < 4] = 0.6
    return _muted(110, 215, rng) * shade[..., None]


MATERIALS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "wood": _wood,
    "plain": _plain,
    "cloth": _cloth,
    "steel": _steel,
    "marble": _marble,
    "tiles": _tiles,
}
"""Painters by material name: each returns the colours `[rows, columns, 3]` of a surface."""
