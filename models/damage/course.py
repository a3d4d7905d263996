"""The course of damage at one place: how much more of it is damaged than when the camera first showed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.damage.alignment import SIZE, Aligner, phase

GRID = (36, 64)
"""Rows and columns of the cells over which damage is compared."""
DEVIATIONS = 4.0
"""Mean deviations of the reference frames' extent below which a growth is noise."""


@dataclass(frozen=True)
class CourseConfig:
    """How growth is judged.

    Args:
        settle: frames of a place from which its reference is made.
        average: frames over which the growth is averaged, about.
        growth: share of the picture by which damage must have grown.
    """

    settle: int = 10
    average: int = 5
    growth: float = 0.01


class Place(NamedTuple):
    """What is remembered of a camera's place.

    Args:
        grey: `[90, 160] uint8`, the picture with which others are aligned.
        damaged: `GRID float32`, the damaged share of each cell, the mean of the first frames.
        seen: frames of the place, up to `settle`.
        deviation: mean absolute deviation of these frames' extents from their mean.
        growth: averaged.
        places: places that the camera has shown.
    """

    grey: Tensor
    damaged: Tensor
    seen: Tensor
    deviation: Tensor
    growth: Tensor
    places: Tensor

    @classmethod
    def blank(cls) -> Place:
        """Before a camera's first frame."""
        zero = torch.zeros(())
        return cls(
            torch.zeros(SIZE, dtype=torch.uint8),
            torch.zeros(GRID),
            torch.zeros((), dtype=torch.int64),
            zero,
            zero,
            torch.zeros((), dtype=torch.int64),
        )


class Grown(NamedTuple):
    """The course so far.

    Args:
        growth: share of the picture by which damage has grown since the place was first shown; None: its reference is not made yet.
        level: growth from which on it counts.
        moved: how far the camera has moved since, in frame widths; None: the place is new.
        place: number of the camera's place, from 1.
    """

    growth: float | None
    level: float | None
    moved: float | None
    place: int


def step(
    place: Place, grey: NDArray[np.uint8], damaged: NDArray[np.float32], config: CourseConfig, align: Aligner = phase
) -> tuple[Grown, Place]:
    """Take up a frame.

    Args:
        grey: `[90, 160]`.
        damaged: `GRID`, the damaged share of each cell.
        align: see `Aligner`.
    """
    shift = align(place.grey.numpy(), grey) if int(place.seen) else None
    if shift is None:
        number = int(place.places) + 1
        new = Place.blank()._replace(
            grey=torch.from_numpy(grey.copy()),
            damaged=torch.from_numpy(damaged.copy()),
            seen=torch.tensor(1),
            places=torch.tensor(number),
        )
        return Grown(None, None, None, number), new
    moved = float(np.hypot(shift[0] * SIZE[0] / SIZE[1], shift[1]))
    here = _back(damaged, shift)
    both = np.isfinite(here)
    now, then = float(here[both].mean()), float(place.damaged.numpy()[both].mean())
    count = int(place.seen)
    if count < config.settle:
        share = 1 / (count + 1)
        mean = place.damaged.numpy() + share * (np.where(both, here, place.damaged.numpy()) - place.damaged.numpy())
        deviation = float(place.deviation) + (abs(now - then) - float(place.deviation)) / count
        settled = place._replace(
            damaged=torch.from_numpy(mean.astype(np.float32)),
            seen=torch.tensor(count + 1),
            deviation=torch.tensor(deviation, dtype=torch.float32),
        )
        return Grown(None, None, moved, int(place.places)), settled
    growth = float(place.growth) + (now - then - float(place.growth)) / config.average
    level = max(config.growth, DEVIATIONS * float(place.deviation))
    kept = place._replace(growth=torch.tensor(growth, dtype=torch.float32))
    return Grown(growth, level, moved, int(place.places)), kept


def _back(damaged: NDArray[np.float32], shift: tuple[float, float]) -> NDArray[np.float32]:
    """A map moved back by a shift in shares of its sides; NaN where the frame does not show it."""
    rows, columns = damaged.shape
    back = np.array([[1, 0, -shift[1] * columns], [0, 1, -shift[0] * rows]], np.float32)
    moved = cv2.warpAffine(damaged, back, (columns, rows), borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    return np.asarray(moved, np.float32)
