"""Plants with faults, as a stream: each plant has one, for as long as a window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.faults import REASONS, Faults, Place, Window, inject
from tocsin.models.quality.series import Series
from tocsin.models.quality.simulation.plant import plant

INTERVAL, START = 60.0, 1_704_067_200.0
"""Seconds between readings; the first one is at midnight, 1 January 2024, UTC."""
WIDTH = 8
CHANNELS = tuple(f"s{number}" for number in range(1, WIDTH + 1))
ATTEMPTS = 1000
LARGE = Faults(stuck=28, spike=(10.0, 20.0), drift=(8.0, 10.0), dropped=20, clipped=(2.0, 3.0), least=4.0)
"""The larger of the faults that networks are trained on."""


class Fault(NamedTuple):
    """A fault: `first` and `last` are readings of the asset; no channel if the clock is at fault."""

    asset: str
    reason: str
    first: int
    last: int
    channels: tuple[str, ...]


def readings(assets: int, rows: int, *, seed: int, faults: bool = True) -> tuple[pl.DataFrame, list[Fault]]:
    """Readings of plants with `CHANNELS`, and their faults, of one of `REASONS` after the other, in the last third.

    Returns:
        `asset`, `time` (UTC, ms) and `CHANNELS`, in the order in which they are sent.
    """
    found, tables = list[Fault](), list[pl.DataFrame]()
    for number in range(assets):
        draw = np.random.default_rng([seed, number, 5])
        name = f"plant-{number:02d}"
        moments = (START + INTERVAL * np.arange(rows)).astype(np.float64)
        series = Series.of(name, moments, plant(draw, rows, WIDTH), CHANNELS)
        times, values = series.times.copy(), series.values.copy()
        if faults:
            reason = REASONS[number % len(REASONS)]
            first, window = _faulty(draw, series, reason)
            times[first : first + len(window.times)] = window.times
            values[first : first + len(window.times)] = window.values
            own = tuple(channel for channel, bad in zip(CHANNELS, window.bad, strict=True) if bad)
            found.append(Fault(name, reason, first + 1, first + len(window.times) - 1, own))
        sent = pl.DataFrame(values, schema=list(CHANNELS)).select(pl.all().cast(pl.Float64).fill_nan(None))
        stamps = pl.from_epoch(pl.Series("time", times * 1000).cast(pl.Int64), "ms").dt.replace_time_zone("UTC")
        tables.append(sent.select(pl.lit(name).alias("asset"), stamps, *CHANNELS, pl.int_range(rows).alias("at")))
    return pl.concat(tables).sort("at", "asset", maintain_order=True).drop("at"), found


def _faulty(draw: np.random.Generator, series: Series, reason: str) -> tuple[int, Window]:
    """A window of the last third with a fault, and the place of its first reading."""
    rows, length = len(series), QualityConfig().window + 1
    past = series.values[: rows * 2 // 3].astype(float)
    centre = np.median(past, 0)
    scale = 1.25 * np.abs(past - centre).mean(0)
    for _ in range(ATTEMPTS):
        end = int(draw.integers(rows * 2 // 3 + length, rows - length))
        place = Place(series, end, end - length, np.arange(WIDTH), centre, scale)
        window = inject(draw, reason, LARGE, place)
        if window is not None and (reason == "clock" or window.bad.any()):
            return end - length, window
    raise ValueError(f"{series.key}: expected a place for a fault of the kind {reason}, found none; take another seed")
