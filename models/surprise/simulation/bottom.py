"""The sea bottom as a seamless texture: noise of several octaves, ripples, stones and tufts of plants."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

SIDE = 1280  # units after which the bottom repeats


@dataclass(frozen=True)
class Ground:
    """What a bottom is made of.

    Args:
        colors: three RGB colours in 0..255, from the hollows to the heights.
        stone: RGB of its stones.
        stones: how many of them, and their largest radius in units.
        tufts: plants in the texture; each has up to a dozen leaves.
        ripples: how strongly sand is rippled, 0 to 1.
        rough: weight of each octave relative to the coarser one before it.
        cracks: how deep crevices are, 0 to 1.
    """

    colors: tuple[tuple[int, int, int], ...]
    stone: tuple[int, int, int]
    stones: tuple[int, float]
    tufts: int
    ripples: float
    rough: float
    cracks: float


GROUNDS = {
    "sand": Ground(((150, 135, 100), (190, 175, 135), (220, 208, 170)), (120, 115, 100), (500, 14), 120, 0.5, 0.5, 0.0),
    "gravel": Ground(((85, 82, 70), (130, 124, 108), (170, 164, 150)), (140, 135, 125), (3000, 15), 150, 0.0, 0.7, 0.0),
    "rock": Ground(((55, 55, 45), (105, 100, 75), (165, 155, 120)), (125, 115, 90), (900, 55), 500, 0.0, 0.75, 1.0),
    "meadow": Ground(((60, 75, 40), (100, 110, 65), (165, 160, 115)), (115, 112, 95), (400, 22), 3000, 0.1, 0.6, 0.2),
    "reef": Ground(((75, 55, 60), (140, 105, 95), (205, 165, 135)), (175, 130, 120), (2200, 32), 700, 0.0, 0.7, 0.8),
    "mud": Ground(((70, 66, 52), (95, 90, 72), (120, 114, 92)), (80, 76, 66), (700, 12), 250, 0.15, 0.55, 0.1),
    "rubble": Ground(
        ((90, 86, 80), (140, 132, 118), (185, 178, 160)), (160, 150, 135), (1500, 42), 100, 0.2, 0.65, 0.4
    ),
}
"""Bottoms by name."""


def noise(rng: np.random.Generator, side: int, cell: int) -> Picture:
    """Smooth noise `[side, side]` float32 that repeats without a seam; `cell` divides `side` and is the size of its blobs."""
    count = side // cell
    grid = np.pad(rng.standard_normal((count, count)).astype(np.float32), 2, mode="wrap")
    wide = cv2.resize(grid, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    return wide[2 * cell : 2 * cell + side, 2 * cell : 2 * cell + side]


def paint(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint the ground `name`, `[SIDE, SIDE, 3]` uint8 RGB; it repeats in both directions."""
    ground = GROUNDS[name]
    height = _octaves(rng, (160, 80, 40, 20, 10), ground.rough)
    if ground.ripples:
        height += ground.ripples * _ripples(rng)
    if ground.cracks:
        height -= 2 * ground.cracks * np.exp(-((noise(rng, SIDE, 80) / 0.12) ** 2))
    colors = np.array(ground.colors, np.float32) * rng.uniform(0.85, 1.15, (1, 3)).astype(np.float32)
    low, high = np.clip(-height, 0, 1)[..., None], np.clip(height, 0, 1)[..., None]
    picture = colors[1] + low * (colors[0] - colors[1]) + high * (colors[2] - colors[1])
    patches = np.clip(1.5 * noise(rng, SIDE, 320) - 0.3, 0, 1)[..., None]  # overgrown places
    picture += patches * rng.uniform(0.2, 0.5) * (np.array([70, 85, 45], np.float32) - picture)
    drawn = np.clip(picture, 0, 255).astype(np.uint8)  # OpenCV smooths edges in bytes only
    _tufts(drawn, ground.tufts // 2, rng)
    _stones(drawn, ground, rng)
    _tufts(drawn, ground.tufts // 2, rng)
    grain = 1 + 0.10 * noise(rng, SIDE, 5) + 0.08 * rng.standard_normal((SIDE, SIDE), np.float32)
    relief = np.roll(height, (1, 1), (0, 1)) - height  # lit from one side
    return np.clip(drawn * (grain + 0.8 * relief)[..., None], 0, 255).astype(np.uint8)


def _octaves(rng: np.random.Generator, cells: tuple[int, ...], rough: float) -> Picture:
    total = np.zeros((SIDE, SIDE), np.float32)
    for octave, cell in enumerate(cells):
        total += np.float32(rough**octave) * noise(rng, SIDE, cell)
    return total / total.std()


def _ripples(rng: np.random.Generator) -> Picture:
    along, across = rng.integers(30, 60), rng.integers(-20, 20)  # whole numbers of waves, so that there is no seam
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) * np.float32(2 * np.pi / SIDE)
    return np.sin(along * y + across * x + 2.5 * noise(rng, SIDE, 160)).astype(np.float32)


def _stones(picture: NDArray[np.uint8], ground: Ground, rng: np.random.Generator) -> None:
    count, largest = ground.stones
    sizes = np.sort(np.clip(2.5 * rng.pareto(1.6, count) + 2.5, 0, largest))
    for radius in sizes:
        centre = rng.uniform(largest * 1.5, SIDE - largest * 1.5, 2)  # away from the seam
        corners = rng.integers(6, 11)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = radius * rng.uniform(0.75, 1.1, corners)
        outline = np.stack([reach * np.cos(angles), reach * rng.uniform(0.6, 1) * np.sin(angles)], 1)
        color = np.array(ground.stone) * rng.uniform(0.65, 1.25) * rng.uniform(0.96, 1.04, 3)
        for scale, shift, shade in ((1.08, 0.22, 0.25), (1.0, 0.0, 0.85), (0.72, -0.14, 1.1)):  # shadow, side, top
            corner = np.round(16 * (centre + scale * outline + shift * radius)).astype(np.int32)
            cv2.fillPoly(picture, [corner], np.clip(color * shade, 0, 255).tolist(), cv2.LINE_AA, 4)


def _tufts(picture: NDArray[np.uint8], count: int, rng: np.random.Generator) -> None:
    for foot in rng.uniform(30, SIDE - 30, (count, 2)):
        color = np.array([60, 85, 40]) * rng.uniform(0.5, 1.3) + rng.normal(0, 8, 3)
        for _ in range(rng.integers(4, 12)):
            direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(5, 22)
            bend = direction + rng.normal(0, 0.5)
            middle = foot + 0.5 * length * np.array([np.cos(direction), np.sin(direction)])
            tip = middle + 0.5 * length * np.array([np.cos(bend), np.sin(bend)])
            points = np.round(np.stack([foot, middle, tip]) * 16).astype(np.int32)
            shade = np.clip(color * rng.uniform(0.7, 1.4), 0, 255).tolist()
            cv2.polylines(picture, [points], False, shade, 1, cv2.LINE_AA, 4)
