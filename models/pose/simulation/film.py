"""Films of a camera whose path is known."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.pose.simulation.path import walk
from tocsin.models.pose.simulation.world import Room, SeaFloor, World
from tocsin.models.vision import flow

TRAIN_SEEDS = tuple(range(100, 180))
VALIDATION_SEEDS = tuple(range(700, 712))
TEST_SEEDS = tuple(range(9000, 9018))
"""Fixed before any model was trained. Even seeds are rooms, odd ones sea floors. Three seeds of figures have six of these each."""
TEST_SECONDS = 20.0
SIZE = (120, 160)
RATE = 10.0


class Film:
    """A film that is rendered frame by frame during iteration.

    Args:
        seed: the same seed gives the same bytes.
        seconds: its length.
        rate: frames a second.
        size: rows and columns.

    Attributes:
        path: the true poses.
        focal: focal length of the lens, in frame widths; lens: `[3, 3]`, from the camera's axes to pixels.
    """

    def __init__(self, seed: int, *, seconds: float = 15, rate: float = RATE, size: tuple[int, int] = SIZE) -> None:
        world_rng, path_rng, self._rng = (np.random.default_rng((seed, part)) for part in range(3))
        self.world: World = SeaFloor(world_rng) if seed % 2 else Room(world_rng)
        self.path = walk(self.world, max(1, round(seconds * rate)), rate, path_rng)
        self.size = size
        self.focal = float(0.5 / np.tan(self._rng.uniform(0.5, 0.65)))
        focal = size[1] * self.focal
        self.lens = np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])
        y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        at = np.stack([x.ravel(), y.ravel(), np.ones(x.size, np.float32)])
        self._rays = (np.linalg.inv(self.lens) @ at).T.astype(np.float32)
        self._grain, self._flicker = self._rng.uniform(1, 4), self._rng.uniform(0, 0.04)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The frames `[H, W, 3]` uint8 RGB."""
        for frame in range(len(self.path.place)):
            yield self.render(frame)[0]

    def greys(self) -> list[NDArray[np.uint8]]:
        """The frames in grey, `[H, W]` each."""
        return [flow.grey_frame(frame, self.size) for frame in self]

    def render(self, frame: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """A frame and the depth of its pixels `[H, W]`, m."""
        rays = (self._rays @ self.path.turn[frame].T).astype(np.float32)
        origin = self.path.place[frame].astype(np.float32)
        colors, depth = self.world.seen(origin, rays, float(1 / self.lens[0, 0]))
        picture = cv2.GaussianBlur(colors.reshape(*self.size, 3), (0, 0), 0.5)
        picture *= np.float32(1 + self._flicker * self._rng.standard_normal())
        picture += self._rng.normal(0, self._grain, picture.shape).astype(np.float32)
        return np.clip(picture, 0, 255).astype(np.uint8), depth.reshape(self.size)
