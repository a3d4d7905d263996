"""The sun's position and the cloudless sky, against known values and NSRDB's own columns."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tocsin.models.irradiance import sun
from tocsin.models.irradiance.data import read

BOULDER = (40.0, -105.0, 1650.0)


def at(text: str) -> np.ndarray:
    return np.array([datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000])


def standing(text: str, latitude: float, longitude: float) -> tuple[float, float]:
    found = sun.position(at(text), np.array([latitude]), np.array([longitude]))
    return float(found.elevation[0]), float(found.azimuth[0])


@pytest.mark.parametrize(
    ("time", "latitude", "longitude", "elevation", "azimuth"),
    [
        # Reda and Andreas, NREL/TP-560-34302: zenith 50.11 with refraction, azimuth 194.34.
        ("2003-10-17T19:30:30", 39.742476, -105.1786, 39.88, 194.34),
        ("2024-03-20T12:07:00", 0.0, 0.0, 89.7, None),  # an equinox: the sun is overhead at the equator's noon
        ("2024-06-20T12:02:00", 0.0, 0.0, 66.56, 0.0),  # a solstice: it stands in the north
        ("2024-12-21T10:45:00", -33.9, 18.4, 79.5, None),  # summer in Cape Town
    ],
)
def test_the_sun_stands_where_it_does(
    time: str, latitude: float, longitude: float, elevation: float, azimuth: float | None
) -> None:
    found = standing(time, latitude, longitude)
    assert found[0] == pytest.approx(elevation, abs=0.6 if azimuth is None else 0.1)
    if azimuth is not None:
        assert (found[1] - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=1.0)


def test_a_polar_night_has_no_light_and_a_polar_day_no_night() -> None:
    hours = at("2024-01-01T00:00:00") + 3_600_000 * np.arange(24)
    place = tuple(np.full(24, value) for value in (78.2, 15.6, 0.0))
    winter = sun.expected(hours, np.zeros(24), place, np.full(24, 0.5))
    summer = sun.expected(hours + 182 * sun.DAY_MS, np.zeros(24), place, np.full(24, 0.5))
    assert winter.ghi.max() == 0 and winter.outside.max() == 0 and np.isfinite(winter.ghi).all()
    assert summer.ghi.min() > 10 and summer.sun.elevation.max() > 30


def test_the_cloudless_sky_is_brighter_on_a_mountain_and_in_dry_air_and_never_more_than_the_sun_gives() -> None:
    hours = at("2024-06-21T00:00:00") + 600_000 * np.arange(144)
    one = np.ones(144)
    low, high, dry = (
        sun.clear_sky(sun.position(hours, 40 * one, -105 * one), m * one, w * one)
        for m, w in ((0, 3.0), (3000, 3.0), (0, 0.3))
    )
    lit = low.ghi > 100
    assert (high.ghi[lit] > low.ghi[lit]).all() and (dry.ghi[lit] > low.ghi[lit]).all()
    outside = sun.position(hours, 40 * one, -105 * one).outside
    assert all((sky.ghi <= outside).all() and (sky.ghi >= 0).all() for sky in (low, high, dry))
    position = sun.position(hours, 40 * one, -105 * one)
    assert np.allclose(low.dni * position.height + low.dhi, low.ghi, atol=1e-9)


def test_a_mean_over_sunrise_is_not_the_middle_of_the_interval() -> None:
    """Half of the hour before the sun is up counts as dark."""
    time, place = at("2024-03-20T13:30:00"), tuple(np.array([value]) for value in BOULDER)
    hour = sun.expected(time, np.array([60.0]), place, np.array([1.0]))
    middle = sun.expected(time - 1_800_000, np.array([0.0]), place, np.array([1.0]))
    assert hour.ghi[0] > middle.ghi[0]
    assert hour.sun.elevation[0] == middle.sun.elevation[0] < hour.highest[0]


def test_water_is_usual_where_the_air_is_not_known() -> None:
    nothing, some = np.array([np.nan]), np.array([20.0])
    assert sun.water(nothing, some, np.zeros(1))[0] == sun.WATER
    assert sun.water(some, np.array([90.0]), np.zeros(1))[0] > 2 * sun.water(some, np.array([30.0]), np.zeros(1))[0]


def test_it_agrees_with_nsrdb(data: Path) -> None:
    """NSRDB's own zenith and cloudless irradiance of a year in Colorado."""
    (file,) = (data / "solar").glob("nsrdb*.csv")
    given = pl.read_csv(file, skip_rows=2, truncate_ragged_lines=True)
    ours = read(file)
    time, place = (
        ours["time"].to_numpy().astype(float),
        tuple(ours[n].to_numpy() for n in ("latitude", "longitude", "elevation")),
    )
    water = sun.water(ours["temperature"].to_numpy(), ours["humidity"].to_numpy(), place[2])
    found = sun.expected(time, np.zeros(len(time)), place, water)
    zenith, clear = given["Solar Zenith Angle"].to_numpy(), given["Clearsky GHI"].to_numpy().astype(float)
    up = zenith < 80
    assert np.abs(90 - found.sun.elevation - zenith)[up].max() < 0.15
    wrong = (found.ghi - clear)[clear > 50]
    assert np.sqrt((wrong**2).mean()) < 17 and abs(wrong.mean()) < 5  # of a mean of 535 W/m2
