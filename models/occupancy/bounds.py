"""The range of each reading that a model was trained on. Readings far outside are in another unit, or from another kind of room."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

READINGS = ("co2", "temperature", "humidity", "rhythm")
"""`rhythm` is the hour about which a room's workday is centred, see `tocsin.models.occupancy.features.rhythm`."""
Bounds = Mapping[str, tuple[float, float]]

_TAIL = 0.001
"""Share of the training minutes below and above which a reading counts as an outlier."""
_WIDER = 1.25
"""Share of the range by which the bounds lie beyond it: a summer of 35 degrees is inside, a room in Fahrenheit is not."""
_LEAST = 0.25
"""A lower bound is at least this share of the lowest reading, so that a share in place of percent is outside."""
_RHYTHM = 4.0
"""Hours by which a room's day may lie before or after that of any training room."""


def fit(minutes: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """The bounds of each of `READINGS` that training minutes have: their range, widened to both sides."""
    bounds = {}
    for name in READINGS:
        readings = minutes[name].drop_nulls().drop_nans()
        if not len(readings):
            continue
        if name == "rhythm":
            bounds[name] = (float(readings.min()) - _RHYTHM, float(readings.max()) + _RHYTHM)  # type: ignore[arg-type]
            continue
        low, high = (float(readings.quantile(q) or 0) for q in (_TAIL, 1 - _TAIL))
        beyond = _WIDER * (high - low)
        bounds[name] = (max(low - beyond, _LEAST * low), high + beyond)
    return bounds


def inside(minutes: pl.DataFrame, bounds: Bounds) -> pl.Series:
    """Whether the model knows such minutes, Boolean: CO2 is known, and no reading is outside its bounds."""
    outside = [~pl.col(name).is_between(low, high) for name, (low, high) in bounds.items()]
    foreign = pl.any_horizontal(pl.col("co2").is_null(), *(each.fill_null(False) for each in outside))
    return minutes.with_columns(pl.col(*READINGS).fill_nan(None)).select(~foreign)["co2"].rename("in_domain")
