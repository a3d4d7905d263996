"""A fixed camera at a wall on which damage appears and grows, in light that changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.simulation.flaws import FLAWS
from tocsin.models.damage.simulation.walls import noise, wall

MARGIN = 24
"""Pixels around the frame by which the camera may sway."""


@dataclass(frozen=True)
class Watch:
    """Frames of a fixed camera.

    Args:
        seed: of the wall and the damage.
        kind: of the damage.
        frames: number of frames.
        begins, ends: frames between which the damage grows from nothing to its full extent; None: there is none.
        size: rows and columns.
        sway: pixels by which the camera shakes.
        bumped: frame at which the camera is knocked, and by how many pixels; None: it is not.
    """

    seed: int
    kind: str = "crack"
    frames: int = 120
    begins: int | None = 40
    ends: int = 100
    size: tuple[int, int] = (360, 640)
    sway: float = 0.7
    bumped: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """`[H, W, 3]` uint8 RGB each."""
        rng = np.random.default_rng([77, self.seed])
        rows, columns = self.size[0] + 2 * MARGIN, self.size[1] + 2 * MARGIN
        bare = wall(rng, (rows, columns))
        hurt, mask = FLAWS[self.kind](rng, bare, 1.6)
        covered = np.argwhere(mask > 0.3)
        start = covered[len(covered) // 2] if len(covered) else np.array([rows // 2, columns // 2])
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        age = np.hypot(y - start[0], x - start[1]) + 6 * noise(rng, 12, (rows, columns))
        reach = float(age[mask > 0.1].max()) if len(covered) else 1.0
        for number in range(self.frames):
            done = (
                0.0 if self.begins is None else np.clip((number - self.begins) / max(self.ends - self.begins, 1), 0, 1)
            )
            shown = np.clip((done * (reach + 12) - age) / 6, 0, 1)[..., None] if done else 0.0
            image = bare + shown * (hurt - bare)
            away = rng.normal(0, self.sway, 2)
            if self.bumped and number >= self.bumped[0]:
                away = away + self.bumped[1]
            shift = np.array([[1, 0, -MARGIN - away[1]], [0, 1, -MARGIN - away[0]]], np.float32)
            view = cv2.warpAffine(np.asarray(image, np.float32), shift, self.size[::-1], borderMode=cv2.BORDER_REFLECT)
            light = 1 + 0.15 * np.sin(number / 25 + self.seed) + rng.normal(0, 0.01)
            view = view * light + rng.normal(0, 3, view.shape)
            yield np.clip(view, 0, 255).astype(np.uint8)
