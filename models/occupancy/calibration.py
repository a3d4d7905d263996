"""A room's own threshold, from a few days of truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from tocsin.models.occupancy.config import RELEASE

GRID = 0.25
"""Step of the thresholds that are tried, in logits."""
WIDEST = 3.0
"""Largest distance of a threshold from the model's own, in logits."""
CAUTION = 0.02
"""F1 that a threshold must gain for each logit by which it differs from the model's own: few days say little."""
GAIN = 0.03
"""F1 that the chosen threshold must gain on days that it was not chosen on, without more wrong minutes on any of them. Otherwise
the room keeps the model's."""
LEAST_DAYS = 2


@dataclass(frozen=True)
class Day:
    """A room's labelled minutes of a day, in order: probability `[N]`, NaN where unknown, and whether it was occupied `[N]`."""

    probability: NDArray[np.float64]
    occupied: NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """A room's threshold.

    Args:
        threshold: the room's, or the model's own if that is not worse.
        usual: the model's own.
        f1_usual: with the model's own threshold, over all days.
        f1: with a threshold that was chosen on the other days, each day in turn.
        occupied: share of the labelled minutes.
        days: number of labelled days.
    """

    threshold: float
    usual: float
    f1_usual: float
    f1: float
    occupied: float
    days: int

    @property
    def changes(self) -> bool:
        return self.threshold != self.usual


def held(probability: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Whether a room counts as occupied in each minute `[N]`: from the threshold on, until it falls below `RELEASE` of it."""
    switch = np.select([probability >= threshold, probability < RELEASE * threshold], [1, 0], -1)
    last = np.maximum.accumulate(np.where(switch >= 0, np.arange(len(switch)), -1))
    return np.asarray((last >= 0) & (switch[np.maximum(last, 0)] == 1))


def calibrate(days: Sequence[Day], usual: float) -> Calibration:
    """Choose a room's threshold by its F1, each labelled day judged by the others.

    Args:
        usual: the model's own threshold.

    Raises:
        ValueError: there are fewer than `LEAST_DAYS` days, or nobody ever came.
    """
    if len(days) < LEAST_DAYS:
        raise ValueError(f"expected the truth of {LEAST_DAYS} days at least, got {len(days)}; label more days")
    occupied = np.concatenate([day.occupied for day in days])
    if not 0 < occupied.mean() < 1:
        raise ValueError(
            f"expected minutes with people and minutes without any, got only {'occupied' if occupied.any() else 'empty'} ones; "
            "label other days, too"
        )
    others = [[each for each in days if each is not day] for day in days]
    judged = [held(day.probability, _best(rest, usual)) for day, rest in zip(days, others, strict=True)]
    before = _f1(days, usual)
    f1 = float(f1_score(occupied, np.concatenate(judged), zero_division=0))
    worse = any(
        _wrong(day, now) > _wrong(day, held(day.probability, usual)) for day, now in zip(days, judged, strict=True)
    )
    threshold = _best(days, usual) if f1 >= before + GAIN and not worse else usual
    return Calibration(threshold, usual, before, f1, float(occupied.mean()), len(days))


def _best(days: Sequence[Day], usual: float) -> float:
    """The threshold with the best F1 over some days, less `CAUTION`; the model's own if nobody came on them."""
    if not any(day.occupied.any() for day in days):
        return usual
    centre = math.log(usual / (1 - usual))
    logits = centre + np.arange(-WIDEST, WIDEST + GRID / 2, GRID)
    thresholds = [usual if abs(logit - centre) < 1e-9 else round(1 / (1 + math.exp(-logit)), 3) for logit in logits]
    scores = [_f1(days, t) - CAUTION * abs(logit - centre) for t, logit in zip(thresholds, logits, strict=True)]
    return thresholds[int(np.argmax(scores))]


def _wrong(day: Day, predicted: NDArray[np.bool_]) -> int:
    return int((day.occupied != predicted).sum())


def _f1(days: Sequence[Day], threshold: float) -> float:
    predicted = np.concatenate([held(day.probability, threshold) for day in days])
    return float(f1_score(np.concatenate([day.occupied for day in days]), predicted, zero_division=0))
