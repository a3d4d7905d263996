"""Readings far outside those in training are out of domain: other units, no CO2, a day at night."""

from __future__ import annotations

import polars as pl
import pytest

from tocsin.models.occupancy.bounds import fit, inside

TRAINING = pl.DataFrame(
    {
        "co2": [420.0 + i for i in range(1000)],
        "temperature": [19.0 + i / 200 for i in range(1000)],
        "humidity": [30.0 + i / 50 for i in range(1000)],
        "rhythm": [None, float("nan"), *[12.0 + i / 1000 for i in range(998)]],
    }
)
USUAL = {"co2": 600.0, "temperature": 22.0, "humidity": 45.0, "rhythm": None}


@pytest.mark.parametrize(
    ("reading", "known"),
    [
        ({}, True),
        ({"temperature": 28.0}, True),  # a summer room
        ({"temperature": 72.0}, False),  # degrees Fahrenheit
        ({"humidity": 0.45}, False),  # a share
        ({"co2": 0.06}, False),  # percent
        ({"co2": None}, False),
        ({"co2": float("nan")}, False),
        ({"temperature": None, "humidity": None}, True),
        ({"rhythm": 13.0}, True),
        ({"rhythm": 4.5}, False),
    ],
)
def test_a_minute_is_known_if_each_reading_is_inside(reading: dict[str, float | None], known: bool) -> None:
    minute = pl.DataFrame(
        {name: [value] for name, value in (USUAL | reading).items()}, schema=dict.fromkeys(USUAL, pl.Float64)
    )
    assert inside(minute, fit(TRAINING)).to_list() == [known]


def test_a_model_without_bounds_knows_every_minute_with_co2() -> None:
    minute = pl.DataFrame({name: [9999.0] for name in USUAL})
    assert inside(minute, {}).to_list() == [True]


def test_a_sensor_that_training_did_not_have_has_no_bounds() -> None:
    assert "temperature" not in fit(TRAINING.with_columns(temperature=pl.lit(None, pl.Float64)))
