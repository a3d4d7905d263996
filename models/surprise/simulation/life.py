"""Things that always move in the water and are not new: swaying weed, drifting particles and small fry."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.bottom import SIDE
from tocsin.models.surprise.simulation.vehicle import WIDTH

Array = NDArray[np.float64]
Picture = NDArray[np.float32]

FINE = 4  # fractional bits of the coordinates that OpenCV draws with


class Life:
    """The weed, particles and fry of one clip.

    Args:
        rng: source of all random values.
        size: rows and columns.
        rate: frames a second.
        particles: number of particles in sight.
    """

    def __init__(self, rng: np.random.Generator, *, size: tuple[int, int], rate: float, particles: int) -> None:
        self.rng, self.size, self.rate, self.unit = rng, size, rate, size[1] / WIDTH
        self.flakes = rng.random((particles, 2)) * size[::-1]
        self.depths = rng.uniform(0.12, 1, particles)
        self.current = rng.normal(0, 6, 2)  # px/s at distance 1
        self.feet = rng.random((int(rng.integers(30, 220)), 2)) * SIDE
        self.leaves = rng.uniform((-0.9, 8, 0), (0.9, 26, 2 * np.pi), (len(self.feet), 6, 3))  # lean, length, phase
        self.greens = np.array([60, 85, 40]) * rng.uniform(0.4, 1.4, (len(self.feet), 1))
        self.fry = rng.random((int(rng.integers(3, 12)), 2)) * size[::-1]
        self.directions = rng.uniform(0, 2 * np.pi, len(self.fry))
        self.tones = rng.choice([35.0, 60.0, 190.0], len(self.fry))

    def weed(self, picture: NDArray[np.uint8], camera: Array, frame: int) -> None:
        """Draw the weed on the bottom, in place."""
        rows, columns = self.size
        centre = camera @ np.array([columns / 2, rows / 2, 1])
        near = centre[:2] / centre[2]
        feet = near + (self.feet - near + SIDE / 2) % SIDE - SIDE / 2  # it repeats as the bottom does
        at = np.linalg.solve(camera, np.vstack([feet.T, np.ones(len(feet))]))
        over = np.where(at[2] > 0.01, at[2], np.inf)  # weed behind the horizon gets size 0
        scale = 1 / (np.hypot(*camera[:2, 0]) * over)  # pixels to a unit
        at = at[:2] / np.where(at[2] > 0.01, at[2], 1)
        margin = 30 * self.unit
        seen = (scale > 0.4 * self.unit) & (at > -margin).all(0) & (at[0] < columns + margin) & (at[1] < rows + margin)
        lean, length, phase = np.moveaxis(self.leaves[seen], 2, 0)
        sway = lean + 0.35 * np.sin(2.1 * frame / self.rate + phase)
        length = length * scale[seen, None]
        blades = np.empty((*lean.shape, 3, 2))
        blades[:, :, 0] = at[:, seen].T[:, None]
        for joint, bend in enumerate((0.6, 1.5)):
            blades[:, :, joint + 1, 0] = blades[:, :, joint, 0] + 0.5 * length * np.sin(bend * sway)
            blades[:, :, joint + 1, 1] = blades[:, :, joint, 1] - 0.5 * length * np.cos(bend * sway)
        for plant, green in zip(_fixed(blades), self.greens[seen].tolist(), strict=True):
            cv2.polylines(picture, list(plant), False, green, 1, cv2.LINE_AA, FINE)

    def swim(self, picture: NDArray[np.uint8], motion: Array) -> None:
        """Move and draw the fry, in place; `motion` is the camera's, as in `Path.motion`."""
        self.directions += self.rng.normal(0, 0.35, len(self.directions))
        ahead = np.stack([np.cos(self.directions), 0.5 * np.sin(self.directions)], 1)
        self.fry = (self.fry + motion[:2] + 14 * self.unit * ahead / self.rate + 10) % (
            np.array(self.size[::-1]) + 20
        ) - 10
        ends = _fixed(self.fry[:, None] + 2.5 * self.unit * ahead[:, None] * [[-1], [1]])
        for (tail, head), tone in zip(ends, self.tones, strict=True):
            cv2.line(picture, tail, head, [tone, 1.05 * tone, tone], 2, cv2.LINE_AA, FINE)

    def snow(self, picture: Picture, motion: Array, light: float) -> None:
        """Move and draw the particles, in place; nearer ones are larger, faster and fainter."""
        steps = (motion[:2] + self.current * self.unit / self.rate) / self.depths[:, None] * 0.8
        steps += self.rng.normal(0, 0.3, steps.shape)
        room = np.array(self.size[::-1]) + 16
        self.flakes = (self.flakes + steps + 8) % room - 8
        overlay = np.zeros(self.size, np.uint8)
        ends = np.clip(self.flakes - 0.4 * steps, -1000, 3000)
        for begin, end, depth in zip(_fixed(self.flakes), _fixed(ends), self.depths, strict=True):
            bright = 60 + 90 * depth
            if depth < 0.2:
                cv2.circle(overlay, begin, int(32 * self.unit / depth * 0.2), 45, -1, cv2.LINE_AA, FINE)
            else:
                cv2.line(overlay, begin, end, bright, 1, cv2.LINE_AA, FINE)
        overlay = cv2.GaussianBlur(overlay, (3, 3), 0.7)
        picture += cv2.merge([overlay * np.float32(light)] * 3)


def _fixed(points: Array) -> NDArray[np.int32]:
    return np.round(points * (1 << FINE)).astype(np.int32)
