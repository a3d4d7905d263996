"""Position and gaze of the head that wears the camera: it follows the hands' work, glances away, sways, and bobs while walking.

The world's unit is the centimetre: x to the right, y away from the person, z up from the table's top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REST = np.array([0.0, 22.0])
"""Place on the table that an idle person looks at, cm."""


@dataclass(frozen=True)
class Head:
    """A pinhole camera that moves.

    Args:
        place: `[T, 3]`, position, cm.
        turn: `[T, 3, 3]`, whose rows are the picture's right, the picture's down, and the viewing direction.
        focal: focal length, pixels.
        size: rows and columns.
    """

    place: Array
    turn: Array
    focal: float
    size: tuple[int, int]

    def project(self, points: Array, frame: int) -> tuple[Array, Array]:
        """Project points `[..., 3]` of the world: pixels `[..., 2]` (column, row) and depths `[...]`, cm."""
        seen = (points - self.place[frame]) @ self.turn[frame].T
        depth = np.maximum(seen[..., 2], 1.0)
        return self.focal * seen[..., :2] / depth[..., None] + self.middle, depth

    def table(self, frame: int) -> Array:
        """The homography `[3, 3]` from the table's (x, y, 1) to pixels (column, row, 1)."""
        plane = np.column_stack([self.turn[frame][:, :2], -self.turn[frame] @ self.place[frame]])
        lens = np.array([[self.focal, 0, self.middle[0]], [0, self.focal, self.middle[1]], [0, 0, 1]])
        return lens @ plane

    @property
    def middle(self) -> Array:
        return (np.array(self.size[::-1], float) - 1) / 2


def minimum_jerk(share: Array) -> Array:
    """Share of a reach's distance covered after a share of its time (Flash and Hogan 1985, equation 3)."""
    return share**3 * (10 - 15 * share + 6 * share**2)


def follow(
    work: Sequence[tuple[int, Array]],
    count: int,
    rate: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    view: tuple[float, float],
    height: tuple[float, float],
    sway: float,
    walks: float,
) -> Head:
    """Draw the motion of a head that follows the hands' work.

    Args:
        work: (frame, place) in order: from that frame on the person looks at place (x, y).
        count: frames.
        rate: frames per second.
        size: rows and columns.
        view: bounds of the horizontal field of view, degrees.
        height: bounds of the camera's height above the table, cm.
        sway: factor on the head's random motion.
        walks: share of the time spent walking, 0 to 1.
    """
    seconds = np.arange(count) / rate
    high = rng.uniform(*height)
    place = np.tile([rng.normal(0, 2), rng.uniform(-24, -16), high], (count, 1))
    for column, amplitude in enumerate((1.2, 0.9, 0.5)):
        for period in (rng.uniform(1.5, 3), rng.uniform(3, 8)):
            place[:, column] += (
                sway * amplitude * rng.uniform(0.3, 1) * np.sin(2 * np.pi * (seconds / period + rng.random()))
            )
    steps = _episodes(count, rate, walks, rng)
    pace = 2 * np.pi * rng.uniform(1.6, 2.1) * seconds
    place[:, 2] += 0.9 * steps * np.sin(pace)
    place[:, 0] += 0.8 * steps * np.sin(pace / 2)
    gaze = np.tile(REST, (count, 1))
    for frame, spot in work:
        gaze[max(0, frame) :] = REST + 0.55 * (spot - REST)
    gaze += sway * _glances(count, rate, rng)
    gaze = _lagged(gaze, 0.09 * rate) + sway * _lagged(rng.normal(0, 1.2, (count, 2)), 0.1 * rate)
    roll = _lagged(0.25 * sway * rng.normal(0, 1, (count, 1)), rate)[:, 0] + 0.01 * steps * np.sin(pace / 2)
    ahead = np.column_stack([gaze, np.zeros(count)]) - place
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(ahead, right)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    turn = np.stack([cos * right + sin * down, cos * down - sin * right, ahead], 1)
    focal = size[1] / 2 / np.tan(np.radians(rng.uniform(*view)) / 2)
    return Head(place, turn, focal, size)


def _lagged(track: Array, lag: float) -> Array:
    """A track `[T, N]` after two first-order low-pass filters, with a time constant of `lag` frames each."""
    keep = np.exp(-1 / max(lag, 1e-6))
    track = track.copy()
    for _ in range(2):
        for frame in range(1, len(track)):
            track[frame] = keep * track[frame - 1] + (1 - keep) * track[frame]
    return track


def _glances(count: int, rate: float, rng: np.random.Generator) -> Array:
    """Offset of the gaze from the work by glances, `[T, 2]` cm."""
    offsets = np.zeros((count, 2))
    for _ in range(rng.poisson(8 * count / rate / 60)):
        at = rng.integers(0, count)
        offsets[at : at + int(rate * rng.uniform(0.4, 1.5))] = rng.normal(0, 6, 2)
    return offsets


def _episodes(count: int, rate: float, share: float, rng: np.random.Generator) -> Array:
    """When the person walks, `[T]` between 0 and 1."""
    spans = int(count / rate / 3) + 1
    on = np.repeat(rng.random(spans) < share, int(3 * rate) + 1)[:count].astype(float)
    return _lagged(on[:, None], 0.3 * rate)[:, 0]
