"""Simulated halls: a rectangle or an L, divided into rooms with doors, and free-standing walls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tocsin.models.field.hall import KINDS, Array, Hall

MATERIALS = {"signal": (3.0, 8.0, 15.0), "temperature": (0.05, 0.3, 1.5)}
"""What light, medium and heavy walls block, dB or m2 K/W."""
HEAVY = 2
SHARES = (0.25, 0.45, 0.3)
SMALLEST = 6.0
"""A room that is shorter than this is not divided, m."""
CHOICES = 3
"""Of so many random places the next sensor gets the one that is farthest from the others."""


def halls(count: int, seed: int, *, kind: str | None = None, sensors: int | None = None) -> list[Hall]:
    """So many halls, the same ones for a seed whatever the count.

    Args:
        kind: of all; None: in turn.
        sensors: in each; None: 6 to 24.
    """
    kinds = [kind] if kind else [*KINDS]
    return [
        drawn(f"sim-{number:03d}", kinds[number % len(kinds)], _of(seed, number), sensors) for number in range(count)
    ]


def drawn(name: str, kind: str, draw: np.random.Generator, sensors: int | None = None) -> Hall:
    """A hall of 8 to 40 m that is no wider than its walls allow."""
    width, height = draw.uniform(10, 40), draw.uniform(8, 30)
    corners, cut = [[0, 0], [width, 0], [width, height], [0, height]], None
    if draw.random() < 0.3:
        cut = draw.uniform(0.4, 0.75, 2) * [width, height]
        corners = [[0, 0], [width, 0], [width, cut[1]], [*cut], [cut[0], height], [0, height]]
    inner = [*_rooms((0, 0), (width, height), int(draw.integers(0, 4)), draw)]
    for _ in range(int(draw.integers(0, 3))):
        start, angle = draw.uniform([0, 0], [width, height]), draw.uniform(0, np.pi)
        length = draw.uniform(2, 0.3 * max(width, height))
        end = np.clip(start + length * np.array([np.cos(angle), np.sin(angle)]), 0, [width, height])
        inner.append((*start, *end))
    walls = np.array(inner, np.float64).reshape(-1, 4)
    if cut is not None:  # those of which a half or more is outside the L
        walls = walls[~((walls[:, :2] + walls[:, 2:]) / 2 > cut).all(1)]
    blocks = np.array([_blocks(kind, int(draw.choice(3, p=SHARES)), draw) for _ in walls])
    plan = {"kind": kind, "outline": corners, "blocks": _blocks(kind, HEAVY, draw)}
    hall = Hall.of(name, plan | {"walls": np.column_stack([walls, blocks]).tolist()})
    count = int(draw.integers(6, 25)) if sensors is None else sensors
    places = hall.cells[spread(hall.cells, np.flatnonzero(hall.holds(hall.cells)), count, draw)]
    return Hall.of(name, hall.plan() | {"sensors": {f"s{n:02d}": [*at] for n, at in enumerate(places.tolist())}})


def spread(places: Array, among: NDArray[np.int64], count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Indices of places for sensors, loosely spread as people would place them."""
    chosen: list[int] = [int(draw.choice(among))]
    while len(chosen) < min(count, len(among)):
        options = draw.choice(among, CHOICES)
        options = options[~np.isin(options, chosen)]
        if len(options):
            apart = np.linalg.norm(places[options][:, None] - places[chosen], axis=-1).min(1)
            chosen.append(int(options[apart.argmax()]))
    return np.array(chosen)


def _of(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def _blocks(kind: str, material: int, draw: np.random.Generator) -> float:
    return float(MATERIALS[kind][material] * draw.uniform(0.8, 1.2))


def _rooms(
    low: tuple[float, float], high: tuple[float, float], depth: int, draw: np.random.Generator
) -> list[tuple[float, float, float, float]]:
    """The walls that divide a rectangle."""
    longer = int(high[1] - low[1] > high[0] - low[0])
    length = high[longer] - low[longer]
    if depth == 0 or length < SMALLEST or draw.random() < 0.15:
        return []
    at = low[longer] + draw.uniform(0.3, 0.7) * length
    start, end = np.array(low, float), np.array(high, float)
    start[longer] = end[longer] = at
    walls = [(*a, *b) for a, b in _door(start, end, draw)]
    walls += _rooms(low, (float(end[0]), float(end[1])), depth - 1, draw)
    return walls + _rooms((float(start[0]), float(start[1])), high, depth - 1, draw)


def _door(start: Array, end: Array, draw: np.random.Generator) -> list[tuple[Array, Array]]:
    """A wall in parts: with a door of 1 to 4 m, or whole."""
    length = float(np.linalg.norm(end - start))
    if draw.random() < 0.15:
        return [(start, end)]
    wide = min(draw.uniform(1, 4) / length, 1)
    begin = draw.uniform(0, 1 - wide)
    parts = [(0.0, begin), (begin + wide, 1.0)]
    return [(start + (end - start) * a, start + (end - start) * b) for a, b in parts if (b - a) * length > 0.3]
