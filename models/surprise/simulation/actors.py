"""Sprites that are placed frame by frame over the bottom or over real footage, and how much of them is visible."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.shapes import LENGTH, Sprite

Array = NDArray[np.float64]
Picture = NDArray[np.float32]

CELLS = (6, 10)  # rows and columns of points at which a sprite is tested for being in the picture


@dataclass(frozen=True)
class Actor:
    """One sprite and its place in each frame of its life.

    Args:
        sprite: how it looks.
        first: the frame in which its life begins.
        placings: `[n, 2, 3]`, affine maps from the sprite's pixels (column, row, 1) to the picture's.
        distance: `[n]` from the camera; 1 is the distance of the bottom straight below at altitude 1.
        phase: `[n]` rad, of its tail's beat.
        opacity: `[n]`, 0 to 1.
        floor: whether it lies on the bottom and is lit as the bottom is.
    """

    sprite: Sprite
    first: int
    placings: Array
    distance: Array
    phase: Array
    opacity: Array
    floor: bool = False

    def visible_share(self, count: int, size: tuple[int, int], haze: float) -> Array:
        """The share of the picture that it fills in each of `count` frames, `[count]`, reduced by haze and transparency."""
        alpha = cv2.resize(self.sprite.levels[0][..., 3], CELLS[::-1], interpolation=cv2.INTER_AREA)
        rows, columns = self.sprite.size
        y, x = np.mgrid[0 : CELLS[0], 0 : CELLS[1]]
        points = np.stack([(x + 0.5) * columns / CELLS[1], (y + 0.5) * rows / CELLS[0], np.ones(CELLS)]).reshape(3, -1)
        at = self.placings @ points
        inside = (at >= 0).all(1) & (at[:, 0] < size[1]) & (at[:, 1] < size[0])
        pixels = np.abs(np.linalg.det(self.placings[:, :, :2])) * rows * columns / alpha.size
        share = (inside * alpha.ravel()).sum(1) * pixels * self.opacity * np.exp(-haze * self.distance)
        visible = np.zeros(count)
        begin, end = max(self.first, 0), min(self.first + len(share), count)
        if begin < end:
            visible[begin:end] = share[begin - self.first : end - self.first] / (size[0] * size[1])
        return visible

    def draw(self, picture: Picture, frame: int, water: Picture, attenuation: Picture) -> None:
        """Draw it into `picture` `[H, W, 3]` float32, in place.

        Args:
            frame: frame number; outside its life nothing is drawn.
            water: `[3]`, the colour that distant things take on.
            attenuation: `[3]` of the light at distance 1; zeros for clear water.
        """
        at = frame - self.first
        if not 0 <= at < len(self.placings) or self.opacity[at] <= 0.01:
            return
        placing = self.placings[at]
        scale = float(np.sqrt(abs(np.linalg.det(placing[:, :2])))) + 1e-9
        if scale * LENGTH < 1.5:
            return
        level = int(np.clip(np.round(-np.log2(scale)), 0, len(self.sprite.levels) - 1))
        rows, columns = self.sprite.size
        margin = self.sprite.bend * LENGTH
        corners = np.array([[0, columns, 0, columns], [-margin, -margin, rows + margin, rows + margin], [1, 1, 1, 1]])
        around = placing @ corners
        left, top = np.maximum(np.floor(around.min(1)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(around.max(1)) + 1, (picture.shape[1], picture.shape[0])).astype(int)
        if left >= right or top >= bottom:
            return
        inverse = np.linalg.inv(np.vstack([placing, [0, 0, 1]])).astype(np.float32)
        x, y = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)[:, None]
        column, row = (
            inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2],
            inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2],
        )
        if self.sprite.bend:
            behind = np.clip(1.1 - column / np.float32(LENGTH), 0, 1.1)
            wave = np.sin(np.float32(self.phase[at]) + np.float32(2 * np.pi * self.sprite.waves / LENGTH) * column)
            row = row + np.float32(margin) * behind * behind * wave
        shrink = np.float32(0.5**level)
        cut = cv2.remap(
            self.sprite.levels[level], (column + 0.5) * shrink - 0.5, (row + 0.5) * shrink - 0.5, cv2.INTER_LINEAR
        )
        opacity = cut[..., 3:] * np.float32(self.opacity[at])
        clear = np.exp(-attenuation * np.float32(self.distance[at]))
        region = picture[top:bottom, left:right]
        region *= 1 - opacity
        region += cut[..., :3] * (clear * np.float32(self.opacity[at])) + opacity * (water * (1 - clear))
