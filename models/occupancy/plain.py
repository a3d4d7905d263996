"""Plain models that an occupancy model has to beat: the clock alone, and logistic regression on raw air.

They are fitted on the data that the model is trained on, and stored with it, so that each evaluation can show them beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[np.float64]

AIR = ("co2", "temperature", "humidity")
CLOCK_ONLY, LOGISTIC = "clock only", "logistic regression"
HALF_HOURS = 48
LAG = 10
"""Minutes over which the change of CO2 is an input of the logistic regression."""
_SMOOTHING = 20.0  # minutes of the mean share that a half hour counts in addition
_PENALTY = 100.0  # of scikit-learn's logistic regression, 1 / C


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Two plain models.

    Args:
        clock: the share of occupied minutes in each half hour of workdays, then of weekends.
        weights: of the logistic regression: each of `AIR`, the change of CO2, sine and cosine of the hour and of its double,
            weekend, and the bias.
        mean, scale: of its inputs; an unknown input counts as its mean.
    """

    clock: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def fit(cls, minutes: pl.DataFrame) -> Self:
        """Fit both on labelled minutes of rooms, each `recording` with the same weight.

        Args:
            minutes: `recording`, `room`, `time`, `hour`, `weekday`, `AIR`, and `occupied`, null where unknown.
        """
        from sklearn.linear_model import LogisticRegression

        minutes = minutes.with_columns(room=pl.concat_str("recording", pl.lit("/"), "room"))
        inputs, known = _inputs(minutes), minutes["occupied"].is_not_null().to_numpy()
        occupied = minutes["occupied"].fill_null(False).to_numpy()[known].astype(float)
        counts = minutes.filter(known).select(pl.len().over("recording"))["len"].to_numpy()
        weight = len(counts) / counts / minutes.filter(known)["recording"].n_unique()
        half = _half_hours(minutes)[known]
        share = float(np.average(occupied, weights=weight))
        seen = np.bincount(half, weight, 2 * HALF_HOURS) + _SMOOTHING
        clock = (np.bincount(half, weight * occupied, 2 * HALF_HOURS) + _SMOOTHING * share) / seen
        rows = inputs[known]
        known_rows = np.ma.masked_invalid(rows)
        mean, scale = known_rows.mean(0).filled(0.0), known_rows.std(0).filled(1.0)
        scale = np.where(scale > 1e-6, scale, 1.0)
        regression = LogisticRegression(C=1 / _PENALTY, max_iter=1000)
        regression.fit(np.nan_to_num((rows - mean) / scale), occupied > 0.5, sample_weight=weight)
        weights = (*regression.coef_[0].tolist(), float(regression.intercept_[0]))
        return cls(clock=tuple(clock.tolist()), weights=weights, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    def predict(self, minutes: pl.DataFrame) -> Mapping[str, Array]:
        """The probability `[N]` of each model for the minutes of rooms; none if it was never fitted."""
        if not self.clock:
            return {}
        inputs = np.nan_to_num((_inputs(minutes) - self.mean) / self.scale)
        logit = inputs @ np.array(self.weights[:-1]) + self.weights[-1]
        return {CLOCK_ONLY: np.array(self.clock)[_half_hours(minutes)], LOGISTIC: 1 / (1 + np.exp(-logit))}


def local(frame: pl.DataFrame, timezone: str) -> pl.DataFrame:
    """Add the `day`, `hour` (0 to 24) and `weekday` (Monday is 0) of a time zone to rows with `time`, ms since 1970."""
    moment = pl.from_epoch("time", "ms").dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    hour: Any = moment.dt.hour().cast(pl.Float64) + moment.dt.minute() / 60
    return frame.with_columns(day=moment.dt.date(), hour=hour, weekday=moment.dt.weekday().cast(pl.Int64) - 1)


def _half_hours(minutes: pl.DataFrame) -> NDArray[np.int64]:
    half = (minutes["hour"].to_numpy() * 2).astype(np.int64) % HALF_HOURS
    return half + HALF_HOURS * (minutes["weekday"].to_numpy() >= 5)


def _inputs(minutes: pl.DataFrame) -> Array:
    """The inputs of the logistic regression `[N, F]`, NaN where unknown."""
    earlier = pl.col("co2").shift(LAG).over("room", order_by="time")
    columns = [minutes[name].cast(pl.Float64).fill_null(math.nan).to_numpy() for name in AIR]
    columns.append(minutes.select(pl.col("co2") - earlier)["co2"].cast(pl.Float64).fill_null(math.nan).to_numpy())
    angle = minutes["hour"].to_numpy() / 24 * 2 * math.pi
    weekend = (minutes["weekday"].to_numpy() >= 5).astype(float)
    return np.stack([*columns, np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle), weekend], 1)
