"""Soiling and shading of simulated sensors, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest

from tocsin.models.irradiance import watch
from tocsin.models.irradiance.data import COLUMNS
from tocsin.models.irradiance.readings import Moments
from tocsin.models.irradiance.simulation.weather import Dirt, Obstacle, Site, simulate

SITE = Site("a", latitude=38, longitude=-120, elevation=200, dry=0.7, aerosol=0.1)
DAYS = 120


@cache
def watched(site: Site) -> dict[str, np.ndarray]:
    """At the end of each day: `soiling`, `shading`, `azimuth`, `elevation`."""
    table = simulate(site, days=DAYS, seed=2)
    moments = Moments.of({name: table[name].cast(pl.Float64).to_numpy() for name in COLUMNS[1:]})
    where = watch.cell(moments.now.sun.azimuth, moments.now.sun.elevation)
    state = {name: np.full((1, *shape), fill) for name, (shape, fill) in watch.memory().items()}
    found = []
    for row in range(len(table)):
        one = slice(row, row + 1)
        state = watch.advance(state, moments.solar_day[one], where[one], moments.clearness[one])
        if row % 24 == 23:
            found.append((watch.soiling(state)[0], *(values[0] for values in watch.shading(state))))
    return dict(zip(("soiling", "shading", "azimuth", "elevation"), np.array(found).T, strict=True))


def test_a_clean_sensor_in_the_open_is_neither_dirty_nor_shaded() -> None:
    found = watched(SITE)
    assert np.nanmax(found["soiling"]) < 0.06 and np.nanmax(found["shading"]) < 0.3
    assert np.isnan(found["soiling"][:5]).all() and not np.isnan(found["soiling"][-1])


def test_dirt_is_found_by_its_share_and_gone_when_it_is_washed() -> None:
    found = watched(replace(SITE, dirt=Dirt(0.006, 40, 80)))["soiling"]
    assert np.nanmax(found[:40]) < 0.06
    assert 0.1 < found[78] < 0.006 * 38
    assert found[95] < 0.05


def test_an_obstacle_is_found_where_it_stands() -> None:
    site = replace(SITE, obstacle=Obstacle(205, 235, 90, 0.9, 40))
    found = watched(site)
    assert np.nanmax(found["shading"][:40]) < 0.3
    assert found["shading"][60] > 0.35 and found["soiling"][60] < 0.06
    assert 195 <= found["azimuth"][60] <= 245 and 10 <= found["elevation"][60] <= 60


def test_two_sites_at_once_are_as_each_alone() -> None:
    draw = np.random.default_rng(0)
    state = {name: np.full((2, *shape), fill) for name, (shape, fill) in watch.memory().items()}
    alone = [{name: values[i : i + 1] for name, values in state.items()} for i in range(2)]
    for hour in range(400):
        day = np.array([hour // 24, (hour + 9) // 24], float)
        where = draw.integers(-1, watch.CELLS, 2)
        clearness = np.where(draw.random(2) < 0.1, np.nan, draw.normal(1, 0.02, 2))
        state = watch.advance(state, day, where, clearness)
        alone = [watch.advance(alone[i], day[i : i + 1], where[i : i + 1], clearness[i : i + 1]) for i in range(2)]
    for name, values in state.items():
        assert np.array_equal(values, np.concatenate([each[name] for each in alone]), equal_nan=True), name


@pytest.mark.parametrize(
    ("azimuth", "elevation", "sector", "band"), [(0, 15, 0, 1), (359.9, 90, 23, 8), (90, 10, 6, 1)]
)
def test_the_sky_is_divided(azimuth: float, elevation: float, sector: int, band: int) -> None:
    assert watch.cell(np.array([azimuth]), np.array([elevation]))[0] == sector * watch.BANDS + band
    assert watch.cell(np.array([azimuth]), np.array([9.9]))[0] == -1
