"""The motion of the vehicle and of its camera, which looks down on the bottom: cruises, pans, hovers, climbs, rolls and jerks.

The bottom is a plane. Its unit is a pixel of a picture 320 wide, seen from altitude 1. A camera is a homography `[3, 3]` from
pixels (column, row, 1) to the plane, so everything on the plane moves in the right perspective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTH = 320.0  # columns of a picture whose pixel is one unit of the plane


@dataclass(frozen=True)
class Path:
    """The position of the camera in each frame.

    Args:
        place: `[T, 2]`, the point of the plane at the picture's centre, units.
        heading: `[T]` rad, turn and roll together: both turn the picture.
        altitude: `[T]`; at 1, a unit is a pixel of a picture 320 wide.
        tilt: 0 looks straight down; towards 1 the upper edge reaches the horizon.
    """

    place: Array
    heading: Array
    altitude: Array
    tilt: float

    def cameras(self, size: tuple[int, int]) -> Array:
        """Homographies from pixels to the plane `[T, 3, 3]` for pictures of `size` (rows, columns)."""
        rows, columns = size
        unit = WIDTH / columns
        centred = np.array([[unit, 0, -unit * (columns - 1) / 2], [0, unit, -unit * (rows - 1) / 2], [0, 0, 1]])
        lens = np.array([[1, 0, 0], [0, 1, 0], [0, 2 * self.tilt / (unit * rows), 1]])
        turned = np.zeros((len(self.place), 3, 3))
        cos, sin = self.altitude * np.cos(self.heading), self.altitude * np.sin(self.heading)
        turned[:, 0] = np.stack([cos, -sin, self.place[:, 0]], 1)
        turned[:, 1] = np.stack([sin, cos, self.place[:, 1]], 1)
        turned[:, 2, 2] = 1
        return turned @ lens @ centred

    def motion(self, size: tuple[int, int]) -> Array:
        """The camera's motion since the frame before, `[T, 4]` float64; no motion for the first frame.

        Columns: right and down, how far the content of the centre has moved (pixels); zoom, the factor by which the centre has
        grown; roll, how far the picture has turned, clockwise (rad).
        """
        cameras = self.cameras(size)
        rows, columns = size
        centre = np.array([(columns - 1) / 2, (rows - 1) / 2, 1])
        before = cameras[:-1] @ centre
        now = np.linalg.solve(cameras[1:], before[:, :, None])[:, :, 0]
        motion = np.zeros((len(cameras), 4))
        motion[:, 2] = 1
        motion[1:, :2] = now[:, :2] / now[:, 2:] - centre[:2]
        motion[1:, 2] = self.altitude[:-1] / self.altitude[1:]
        motion[1:, 3] = -np.diff(self.heading)
        return motion


def drive(
    count: int,
    rate: float,
    rng: np.random.Generator,
    *,
    speed: float = 1.0,
    jerks: float = 5.0,
    tilt: tuple[float, float] = (0.1, 0.75),
) -> Path:
    """Draw a dive of `count` frames at `rate` frames a second.

    Args:
        speed: factor on every motion but the jerks.
        jerks: knocks a minute.
        tilt: bounds of the camera's tilt, drawn once.
    """
    targets = _target_velocities(count, rate, rng)
    lag = np.exp(-1 / (rate * np.array([0.5, 0.5, 0.6, 0.8])))  # time constants in s: the water slows the vehicle
    velocity, height = targets[0], 0.0
    steps, heights = np.zeros((count, 3)), np.zeros(count)
    for frame in range(count):
        velocity = lag * velocity + (1 - lag) * targets[frame]
        steps[frame] = velocity[:3] * speed / rate
        height += (velocity[3] * speed - 0.08 * height) / rate  # the pilot holds an altitude
        heights[frame] = height
    offsets = sway(count, rate, rng, speed=speed, jerks=jerks)
    heading = rng.uniform(-0.3, 0.3) + np.cumsum(steps[:, 2]) + offsets[:, 2]
    cos, sin = np.cos(heading), np.sin(heading)
    ahead = np.stack([cos * steps[:, 0] - sin * steps[:, 1], sin * steps[:, 0] + cos * steps[:, 1]], 1)
    place = rng.uniform(0, 1000, 2) + np.cumsum(ahead, axis=0) + offsets[:, :2]
    altitude = np.clip(rng.uniform(0.85, 1.2) * np.exp(heights + offsets[:, 3]), 0.5, 2.2)
    return Path(place, heading, altitude, rng.uniform(*tilt))


def sway(count: int, rate: float, rng: np.random.Generator, *, speed: float, jerks: float) -> Array:
    """Draw how the water moves a vehicle off its course: swell, shaking and knocks.

    Returns:
        `[count, 4]` float64: right and down (units), turn (rad), and the logarithm of the altitude.
    """
    seconds = np.arange(count) / rate
    swell = np.zeros((count, 4))
    for column, amplitude in enumerate((5.0, 5.0, 0.035, 0.02)):
        for period in (rng.uniform(2.5, 5), rng.uniform(5, 11)):
            swell[:, column] += (
                speed * amplitude * rng.uniform(0.2, 1) * np.sin(2 * np.pi * (seconds / period + rng.random()))
            )
    shake = speed * rng.standard_normal((count, 4)) * (0.4, 0.4, 0.003, 0.002)
    knocks = _knocks(seconds, jerks * count / rate / 60, rng)
    return swell + shake + knocks


def _target_velocities(count: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Target velocities, `[count, 4]`: right, down (units/s), turn (rad/s), climb (1/s)."""
    targets = np.zeros((count, 4))
    at = 0
    while at < count:
        length = int(rate * rng.uniform(1.5, 7)) + 1
        manoeuvre = rng.choice(["cruise", "pan", "hover", "stop", "climb", "turn"], p=(0.3, 0.25, 0.15, 0.1, 0.1, 0.1))
        direction = rng.uniform(0, 2 * np.pi)
        pace = {"cruise": rng.uniform(20, 60), "pan": rng.uniform(50, 130), "hover": 6.0}.get(manoeuvre, 10.0)
        turn = rng.choice([-1, 1]) * rng.uniform(0.1, 0.35) if manoeuvre == "turn" else rng.normal(0, 0.03)
        climb = rng.choice([-1, 1]) * rng.uniform(0.06, 0.2) if manoeuvre == "climb" else rng.normal(0, 0.01)
        if manoeuvre == "stop":
            pace = turn = climb = 0.0
        elif manoeuvre == "pan":  # sideways, as a camera is swept
            direction = rng.choice([0, np.pi]) + rng.normal(0, 0.2)
        targets[at : at + length] = (pace * np.cos(direction), pace * np.sin(direction), turn, climb)
        at += length
    return targets


def _knocks(seconds: NDArray[np.float64], expected: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Offsets from the path by knocks, `[T, 4]`; `expected` is their mean number."""
    knocks = np.zeros((len(seconds), 4))
    for _ in range(rng.poisson(expected)):
        hit = rng.integers(0, len(seconds))
        direction, force = rng.uniform(0, 2 * np.pi), rng.uniform(15, 50)
        since = np.maximum(seconds - seconds[hit], 0)
        pulse = (1 - np.exp(-since / 0.12)) * np.exp(-since / rng.uniform(0.5, 3))
        knocks += pulse[:, None] * (
            force * np.cos(direction),
            force * np.sin(direction),
            rng.normal(0, 0.08),
            rng.normal(0, 0.04),
        )
    return knocks
