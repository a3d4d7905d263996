"""Scores of occupancy beyond F1: minutes on days without anyone, and a truth whose clock is another one's."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from tocsin.models.occupancy.evaluate import clock_error, empty_days, majority
from tocsin.models.occupancy.plain import local

MINUTE = 60_000
HOUR = 60


def week(*, moved: int = 0, noise: float = 30, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The minutes of a room that is used from 9 to 16, with CO2, and its truth, `moved` hours later."""
    rng = np.random.default_rng(seed)
    minute = np.arange(7 * 24 * HOUR)
    used = (minute % 1440 >= 9 * HOUR) & (minute % 1440 < 16 * HOUR)
    air = pl.DataFrame(
        {"room": "a", "time": minute * MINUTE, "co2": 420 + 200 * used + rng.normal(0, noise, len(minute))}
    )
    return air, pl.DataFrame({"room": "a", "time": (minute + moved * HOUR) * MINUTE, "occupied": used})


@pytest.mark.parametrize("moved", [0, 1, -1, 2, 8, -5])
def test_a_truth_that_lags_behind_co2_by_hours_is_found(moved: int) -> None:
    assert clock_error(*week(moved=moved)) == (moved if abs(moved) > 1 else 0)


def test_a_truth_that_follows_nothing_has_no_other_clock() -> None:
    air, truth = week()
    shuffled = truth.with_columns(pl.col("occupied").shuffle(seed=1))
    assert clock_error(air, shuffled) == 0


def test_minutes_on_empty_days_are_counted_by_room_and_day() -> None:
    air, truth = week()
    minutes = air.with_columns(truth["occupied"], predicted=pl.lit(value=False))
    assert math.isnan(empty_days(local(minutes, "UTC"))), "people came every day"
    sunday = pl.col("time") >= 6 * 1440 * MINUTE
    minutes = minutes.with_columns(
        occupied=pl.col("occupied") & ~sunday, predicted=sunday & (pl.col("time") % (1440 * MINUTE) < 30 * MINUTE)
    )
    assert empty_days(local(minutes, "UTC")) == 30


def test_a_day_of_few_known_minutes_is_no_empty_day() -> None:
    air, truth = week()
    minutes = air.with_columns(truth["occupied"] & False, predicted=pl.lit(value=True)).head(300)
    assert math.isnan(empty_days(local(minutes, "UTC")))


def test_the_majority_calls_every_minute_alike() -> None:
    assert majority(np.array([True, True, False]))["recall"] == 1
    assert majority(np.array([True, False, False]))["f1"] == 0
