"""The plain models beside a model's score: the clock alone, and logistic regression on raw air."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from tocsin.models.occupancy.plain import CLOCK_ONLY, LOGISTIC, Plain, local

MINUTE = 60_000


def recording(name: str, days: int, *, base: float = 420.0, known: bool = True, seed: int = 0) -> pl.DataFrame:
    """A room that is occupied from 9 to 17 and has 300 ppm more CO2 then, with noise; no temperature."""
    rng = np.random.default_rng(seed)
    minute = np.arange(days * 1440)
    occupied = (minute % 1440 >= 540) & (minute % 1440 < 1020)
    table = pl.DataFrame(
        {
            "recording": name,
            "room": name,
            "time": minute * MINUTE,
            "co2": base + 300 * occupied + rng.normal(0, 60, len(minute)),
            "temperature": np.full(len(minute), np.nan),
            "humidity": rng.normal(45, 3, len(minute)),
            "occupied": occupied if known else pl.Series([None] * len(minute), dtype=pl.Boolean),
        }
    )
    return local(table, "UTC")


def test_the_clock_is_the_share_of_each_half_hour() -> None:
    clock = Plain.fit(recording("a", 5)).predict(recording("b", 1))[CLOCK_ONLY]
    assert clock[600] > 0.8 and clock[300] < 0.1
    assert len(clock) == 1440


def test_the_regression_reads_the_air() -> None:
    plain = Plain.fit(recording("a", 5))
    for_noon = recording("b", 1).filter(pl.col("hour") == 12)
    stale, fresh = (plain.predict(for_noon.with_columns(co2=pl.lit(co2)))[LOGISTIC] for co2 in (900.0, 400.0))
    assert stale.item() > fresh.item() + 0.1


def test_each_recording_has_the_same_weight() -> None:
    long_empty = recording("a", 20).with_columns(occupied=pl.lit(value=False))
    both = Plain.fit(pl.concat([long_empty, recording("b", 2)]))
    noon = both.predict(recording("c", 1))[CLOCK_ONLY][720]
    assert noon == pytest.approx(0.5, abs=0.1)


def test_minutes_without_a_truth_teach_nothing() -> None:
    alone = Plain.fit(recording("a", 3))
    with_unknown = Plain.fit(pl.concat([recording("a", 3), recording("b", 3, known=False, seed=1)]))
    assert with_unknown.clock == pytest.approx(alone.clock)


def test_a_model_that_has_none_predicts_none() -> None:
    assert Plain().predict(recording("a", 1)) == {}


def test_the_local_day_hour_and_weekday_follow_the_time_zone() -> None:
    thursday = pl.DataFrame({"time": [0]})
    assert local(thursday, "Europe/Amsterdam").select("day", "hour", "weekday").row(0) == (date(1970, 1, 1), 1.0, 3)
    assert local(thursday, "America/Denver").select("day", "hour", "weekday").row(0) == (date(1969, 12, 31), 17.0, 2)
