"""Worlds that a ray can hit: a room with boxes in it, and a sea floor with heights. Axes: x right, y down, z ahead, in m."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.pose.simulation.textures import Texture, paint

Array = NDArray[np.floating]

FAR = 60.0
MARCH, HALVED = 28, 6
"""Steps of a ray over the sea floor, and halvings of the last one."""


class World(Protocol):
    """What is in sight of a ray."""

    def seen(self, origin: Array, rays: Array, pixel: float) -> tuple[Array, Array]:
        """What rays hit.

        Args:
            origin: `[3]`, the camera's.
            rays: `[N, 3]`, of depth 1 in the camera.
            pixel: the size of a pixel at depth 1.

        Returns:
            Colours `[N, 3]`, 0..255, and depth `[N]`.
        """
        ...

    def clear(self, place: NDArray[np.float64], room: float) -> bool:
        """Whether a camera may be at a place: nothing is nearer than `room`."""
        ...


class Room:
    """A room with boxes on its floor and on its walls.

    Args:
        rng: draws it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.size = np.array([rng.uniform(3.5, 9), rng.uniform(2.4, 3.4), rng.uniform(3.5, 9)])
        count = int(rng.integers(4, 10))
        low, high = np.zeros((count, 3)), np.zeros((count, 3))
        for box in range(count):
            extent = rng.uniform((0.3, 0.4, 0.3), (1.4, 2.0, 1.4))
            low[box] = rng.uniform(0, 1, 3) * (self.size - extent)
            if rng.random() < 0.6:  # against a wall
                axis = rng.choice([0, 2])
                low[box, axis] = rng.choice([0, self.size[axis] - extent[axis]])
            if rng.random() < 0.8:  # on the floor
                low[box, 1] = self.size[1] - extent[1]
            high[box] = low[box] + extent
        self.low, self.high = low.astype(np.float32), high.astype(np.float32)
        self._walls = [paint(rng, contrast=(0.03, 0.3)) for _ in range(6)]
        self._boxes = [paint(rng) for _ in range(count)]
        self._light = rng.uniform(0.65, 1.1, 6).astype(np.float32)

    def seen(self, origin: Array, rays: Array, pixel: float) -> tuple[Array, Array]:
        slope = 1 / np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
        ahead = np.where(slope > 0, self.size.astype(np.float32) - origin, -origin) * slope
        axis = ahead.argmin(1)
        depth = np.take_along_axis(ahead, axis[:, None], 1)[:, 0]
        face = 2 * axis + (np.take_along_axis(slope, axis[:, None], 1)[:, 0] > 0)
        owner = np.full(len(rays), -1)
        for box, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            one, other = (low - origin) * slope, (high - origin) * slope
            entry, leaves = np.minimum(one, other), np.maximum(one, other).min(1)
            side = entry.argmax(1)
            near = np.take_along_axis(entry, side[:, None], 1)[:, 0]
            hit = (near > 0.02) & (near < leaves) & (near < depth)
            depth[hit], owner[hit] = near[hit], box
            face[hit] = (2 * side + (np.take_along_axis(slope, side[:, None], 1)[:, 0] < 0))[hit]
        at = origin + depth[:, None] * rays
        colors = np.empty((len(rays), 3), np.float32)
        for kind in np.unique(8 * (owner + 1) + face):
            here = 8 * (owner + 1) + face == kind
            box, side = int(kind) // 8 - 1, int(kind) % 8
            texture: Texture = self._walls[side] if box < 0 else self._boxes[box]
            flat = [name for name in (2, 0, 1) if name != side // 2] if side // 2 != 1 else [0, 2]
            place = at[here][:, flat] + np.float32(1.7 * side + 0.9 * box)
            colors[here] = texture.at(place, depth[here] * np.float32(pixel)) * self._light[side]
        return colors, depth

    def clear(self, place: NDArray[np.float64], room: float) -> bool:
        inside = (place > room).all() and (place < self.size - room).all()
        apart = (place < self.low - room) | (place > self.high + room)
        return bool(inside and apart.any(1).all())


class SeaFloor:
    """A floor with heights, under water: light fades and turns to the water's colour.

    Args:
        rng: draws it.
    """

    SIDE, CELL = 256, 0.25

    def __init__(self, rng: np.random.Generator) -> None:
        side = self.SIDE
        heights = np.zeros((side, side), np.float32)
        for octave, cells in enumerate((6, 14, 32, 80)):
            grid = rng.standard_normal((cells, cells)).astype(np.float32)
            heights += np.float32(0.5**octave) * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        heights *= np.float32(rng.uniform(0.05, 0.5)) / heights.std()
        y, x = np.mgrid[0:side, 0:side].astype(np.float32)
        for _ in range(int(rng.integers(0, 400))):  # boulders
            centre, radius = rng.uniform(0, side, 2), rng.uniform(1, 4)
            bump = np.clip(1 - ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2, 0, 1)
            heights += np.float32(rng.uniform(0.1, 0.25) * radius) * np.sqrt(bump)
        self.heights = heights  # above the mean floor, y = 0 there
        self._texture = paint(rng, contrast=(0.1, 0.4), ground=True)
        self._fade = np.array([2.0, 1.0, 0.9], np.float32) * np.float32(rng.uniform(0.05, 0.25))
        self._water = rng.uniform((10, 50, 60), (40, 110, 130)).astype(np.float32)

    def _height(self, x: Array, z: Array) -> Array:
        column, row = ((part / np.float32(self.CELL) + self.SIDE / 2).astype(np.float32)[None] for part in (x, z))
        heights = cv2.remap(self.heights, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(heights[0], np.float32)

    def seen(self, origin: Array, rays: Array, pixel: float) -> tuple[Array, Array]:
        down = np.maximum(rays[:, 1], 1e-3)
        top = np.float32(-self.heights.max())
        near = np.clip((top - origin[1]) / down, 0.02, FAR).astype(np.float32)
        far = np.clip((-self.heights.min() - origin[1]) / down, 0.05, FAR).astype(np.float32)
        far = np.where(rays[:, 1] > 1e-3, far, np.float32(FAR))

        def under(depth: Array) -> NDArray[np.bool_]:
            at = origin + depth[:, None] * rays
            return at[:, 1] > -self._height(at[:, 0], at[:, 2])

        low, high, found = near.copy(), far.copy(), np.zeros(len(rays), bool)
        for step in range(1, MARCH + 1):
            depth = near + (far - near) * np.float32((step / MARCH) ** 1.5)
            hit = under(depth) & ~found
            high[hit], found = depth[hit], found | hit
            low[~found] = depth[~found]
        for _ in range(HALVED):
            middle = (low + high) / 2
            inside = under(middle)
            high, low = np.where(inside, middle, high), np.where(inside, low, middle)
        at = origin + high[:, None] * rays
        x, z = at[:, 0], at[:, 2]
        slope = (self._height(x + 0.1, z) - self._height(x - 0.1, z)) * np.float32(2)
        colors = self._texture.at(at[:, [0, 2]], high * np.float32(pixel)) * np.clip(1 + slope, 0.5, 1.5)[:, None]
        clear = np.exp(-high[:, None] * self._fade)
        return colors * clear + self._water * (1 - clear), high

    def clear(self, place: NDArray[np.float64], room: float) -> bool:
        x, z = (np.array([part], np.float32) for part in (place[0], place[2]))
        return bool(-place[1] - self._height(x, z)[0] > room)
