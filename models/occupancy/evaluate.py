"""Metrics of occupancy predictions: accuracy, precision, recall, F1, AUROC, minutes on empty days; a check of the truth's clock."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from tocsin.models.ranking import auroc

EMPTY_DAY = 600
"""Minutes of a day with a known truth from which it counts as a day without anyone, if nobody came."""
LAGS = range(-12, 13)
LEAST_LAG, LEAST_GAIN, LEAST_CORRELATION = 2, 0.15, 0.2
"""A truth has another clock than CO2 if it follows CO2 better when moved by so many hours: so much better, and so well at least."""


def metrics(
    occupied: NDArray[np.bool_], predicted: NDArray[np.bool_], probability: NDArray[np.floating] | None = None
) -> dict[str, float]:
    """Compare predictions `[N]` with the truth.

    Args:
        occupied: the truth.
        predicted: the predictions.
        probability: from which the predictions were made; for `auroc`.

    Returns:
        `accuracy`, `precision`, `recall`, `f1`; `auroc` (nan without both classes or finite probabilities); `majority`, the
        accuracy of always predicting the more frequent class; `occupied`, the share of occupied rows.
    """
    share = float(occupied.mean()) if len(occupied) else float("nan")
    return {
        "accuracy": float(accuracy_score(occupied, predicted)),
        "precision": float(precision_score(occupied, predicted, zero_division=0)),
        "recall": float(recall_score(occupied, predicted, zero_division=0)),
        "f1": float(f1_score(occupied, predicted, zero_division=0)),
        "auroc": float("nan") if probability is None else auroc(probability, occupied),
        "majority": max(share, 1 - share),
        "occupied": share,
    }


def majority(occupied: NDArray[np.bool_]) -> dict[str, float]:
    """The metrics of always predicting the more frequent class."""
    often = bool(occupied.mean() > 0.5)
    return metrics(occupied, np.full(len(occupied), often), np.full(len(occupied), float(often)))


def empty_days(minutes: pl.DataFrame) -> float:
    """The mean number of minutes that are predicted as occupied on a room's days without anyone; NaN without such days.

    Args:
        minutes: `room`, `day`, `occupied`, `predicted`.
    """
    days = minutes.group_by("room", "day").agg(
        pl.len().alias("known"), pl.col("occupied").any(), pl.col("predicted").sum()
    )
    empty = days.filter((pl.col("known") >= EMPTY_DAY) & ~pl.col("occupied"))["predicted"]
    return float(empty.mean()) if len(empty) else float("nan")  # type: ignore[arg-type]


def clock_error(minutes: pl.DataFrame, truth: pl.DataFrame) -> int:
    """The hours by which a truth is later than the CO2 that should follow it, 0 if it follows it as it should.

    Args:
        minutes: `room`, `time` (ms), `co2`.
        truth: `room`, `time` (ms), `occupied`.
    """
    hour = (pl.col("time") // 3_600_000).alias("hour")
    air = minutes.group_by("room", hour).agg(pl.col("co2").mean()).drop_nulls()
    people = truth.group_by("room", hour).agg(pl.col("occupied").mean())
    found = []
    for lag in LAGS:
        moved = people.join(air.with_columns(pl.col("hour") + lag), on=["room", "hour"])
        by_room = (
            moved.group_by("room").agg(pl.corr("co2", "occupied").alias("r"), pl.len()).filter(pl.col("len") >= 48)
        )
        found.append(by_room["r"].fill_nan(None).mean())
    scores = [-1.0 if r is None else float(r) for r in found]  # type: ignore[arg-type]
    best = int(np.argmax(scores))
    clear = scores[best] >= max(LEAST_CORRELATION, scores[LAGS.index(0)] + LEAST_GAIN)
    return LAGS[best] if clear and abs(LAGS[best]) >= LEAST_LAG else 0
