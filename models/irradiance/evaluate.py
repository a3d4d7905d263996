"""Figures of forecasts: by day, and over all hours, the night's among them, which are easy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def errors(forecast: Array, target: Array, by_day: NDArray[np.bool_]) -> dict[str, float]:
    """RMSE, MAE and mean error by day, `..._all` over all hours, in W/m2, and R2 by day."""

    def of(wrong: Array, suffix: str) -> dict[str, float]:
        if not len(wrong):
            return {f"{name}{suffix}": math.nan for name in ("rmse", "mae", "mean_error")}
        rmse, mae = float(np.sqrt((wrong**2).mean())), float(np.abs(wrong).mean())
        return {f"rmse{suffix}": rmse, f"mae{suffix}": mae, f"mean_error{suffix}": float(wrong.mean())}

    wrong = forecast - target
    spread = float(target[by_day].var()) if by_day.any() else 0.0
    r2 = 1 - float((wrong[by_day] ** 2).mean()) / spread if spread > 0 else math.nan
    return {**of(wrong[by_day], ""), "r2": r2, **of(wrong, "_all")}


def interval(low: Array, high: Array, target: Array) -> dict[str, float]:
    """The share of the truth between both ends, and their mean distance in W/m2, by day."""
    if not len(target):
        return {"coverage": math.nan, "width": math.nan}
    return {"coverage": float(((low <= target) & (target <= high)).mean()), "width": float((high - low).mean())}


def skill(rmse: float, reference: float) -> float:
    """How much of the reference's RMSE a forecast saves: 0 is as good, 1 perfect, below 0 worse."""
    return 1 - rmse / reference if reference > 0 else math.nan


def detections(rings: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Precision and recall; NaN where nothing was raised, or nothing was to be found."""
    hits = float((rings & truth).sum())
    raised, there = float(rings.sum()), float(truth.sum())
    return {
        "precision": hits / raised if raised else math.nan,
        "recall": hits / there if there else math.nan,
    }


def best_threshold(probability: Array, truth: NDArray[np.bool_]) -> float:
    """The threshold of the best F1; 0.5 where there is nothing to find."""
    levels = np.linspace(0.05, 0.9, 86)
    scores = []
    for level in levels:
        found = detections(probability >= level, truth)
        both = found["precision"] + found["recall"]
        scores.append(2 * found["precision"] * found["recall"] / both if both > 0 else 0.0)
    return float(levels[int(np.argmax(scores))]) if max(scores) > 0 else 0.5
