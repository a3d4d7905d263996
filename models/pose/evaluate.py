"""Evaluation of a path: how far it drifts from the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin.models.pose.odometry import Followed
from tocsin.models.pose.simulation.path import Path

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[np.float64]

SEGMENT, APART = 100, 50
"""Frames over which drift is measured, and from one such segment to the next."""
STANDING = 0.005
"""Metres below which a step has no direction, and a way no length."""


@dataclass(frozen=True)
class Errors:
    """How far a path is from the true one.

    Args:
        drift: after each segment, as a share of the way, where each step has its true length.
        scaled: the same where all lengths are the model's own, times one factor for the whole path.
        turn: of each step, degrees; direction: of each step that moves, degrees.
        aligned: root mean square of the distance from the true path, as a share of the way, after the similarity that fits best;
            NaN for a camera that stands, and for two frames, which always fit.
    """

    drift: Array
    scaled: Array
    turn: Array
    direction: Array
    aligned: float

    def figures(self) -> dict[str, float]:
        """Means of drift and medians of errors; NaN where the true turns are not known."""
        return {
            "drift": _mean(self.drift),
            "drift_own_length": _mean(self.scaled),
            "turn_error": float(np.median(self.turn)) if len(self.turn) else float("nan"),
            "direction_error": float(np.median(self.direction)) if len(self.direction) else float("nan"),
            "aligned": self.aligned,
        }


def compared(found: Followed, true: Path) -> Errors:
    """Compare steps with a true path of one frame more."""
    turns, shifts = (part[1:] for part in true.steps())
    lengths = np.linalg.norm(shifts, axis=1)
    own = np.linalg.norm(found.shift, axis=1)
    unit = found.shift / np.maximum(own, 1e-9)[:, None]
    scale = lengths.sum() / max(own.sum(), 1e-9)
    true_length = Followed(found.turn, unit * lengths[:, None])
    angle = np.degrees(
        np.arccos(np.clip((np.trace(found.turn.transpose(0, 2, 1) @ turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
    )
    moving = lengths > STANDING
    cosine = (unit * shifts).sum(1)[moving] / lengths[moving]
    true_steps = Followed(turns, shifts)
    return Errors(
        drift=_drift(true_length, true_steps, lengths),
        scaled=_drift(Followed(found.turn, found.shift * scale), true_steps, lengths),
        turn=angle,
        direction=np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        aligned=aligned(followed(found), true.place),
    )


def followed(steps: Followed) -> Array:
    """The places of a camera that makes steps, from the origin on: `[F, 3]`."""
    place, heading, places = np.zeros(3), np.eye(3), [np.zeros(3)]
    for turn, shift in zip(steps.turn, steps.shift, strict=True):
        place, heading = place + heading @ shift, heading @ turn
        places.append(place)
    return np.stack(places)


def aligned(places: Array, true: Array) -> float:
    """The distance of places `[F, 3]` from the true ones, see `Errors.aligned`. Source: the similarity is Umeyama's (1991)."""
    way = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    if way < STANDING or len(true) < 3:
        return float("nan")
    one, other = places - places.mean(0), true - true.mean(0)
    u, values, v = np.linalg.svd(other.T @ one)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    scale = (values * sign).sum() / max((one**2).sum(), 1e-12)
    away = scale * one @ (u * sign @ v).T - other
    return float(np.sqrt((away**2).sum(1).mean()) / way)


def steps_of(table: pl.DataFrame) -> Followed:
    """The steps between the frames of a track, from the pipeline's table."""
    places = table.select("x", "y", "z").to_numpy()
    turns = matrices(table.select("qw", "qx", "qy", "qz").to_numpy())
    back = turns.transpose(0, 2, 1)[:-1]
    return Followed(back @ turns[1:], (back @ np.diff(places, axis=0)[..., None])[..., 0])


def matrices(quaternions: Array) -> Array:
    """`[F, 4]` (w, x, y, z) -> `[F, 3, 3]`."""
    w, x, y, z = quaternions.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], 1)


def _drift(found: Followed, true: Followed, lengths: Array) -> Array:
    """The distance between the ends of segments, as a share of the way."""
    drifts = []
    for first in range(0, len(lengths) - SEGMENT + 1, APART):
        part = np.s_[first : first + SEGMENT]
        ends = [followed(Followed(steps.turn[part], steps.shift[part]))[-1] for steps in (found, true)]
        drifts.append(np.linalg.norm(ends[0] - ends[1]) / max(lengths[part].sum(), 1e-9))
    return np.array(drifts)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")
