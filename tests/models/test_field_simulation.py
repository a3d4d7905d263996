"""Simulated halls: the same for a seed, physics that can be computed by hand, and a feed with a spot that grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tocsin.models.field.hall import KINDS, Hall
from tocsin.models.field.simulation import signal, temperature
from tocsin.models.field.simulation.feed import LEVELS, MINUTE_MS, simulate, unwatched, usual_halls
from tocsin.models.field.simulation.fields import Simulation
from tocsin.models.field.simulation.halls import halls

SQUARE = [[0, 0], [20, 0], [20, 15], [0, 15]]


def hall(kind: str, **plan: object) -> Hall:
    return Hall.of("h", {"kind": kind, "outline": SQUARE, **plan})


def radio(here: Hall, mirrored: float) -> signal.Radio:
    return signal.Radio(2.0, np.full(len(here.segments), mirrored), np.zeros((signal.WAVES, 2)), np.zeros(signal.WAVES))


def test_halls_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    few, many, other = halls(4, 3), halls(8, 3), halls(4, 4)
    assert [each.plan() for each in few] == [each.plan() for each in many[:4]]
    assert few[0].plan() != other[0].plan()
    assert [each.kind for each in few] == [*KINDS] * 2
    for each in many:
        assert 6 <= len(each.sensors) <= 24 and each.holds(each.sensor_places).all()


def test_without_reflections_power_falls_with_the_square_of_the_distance_and_behind_a_wall() -> None:
    free, walled = hall("signal"), hall("signal", walls=[[10, 0, 10, 15, 8]])
    tx, places = np.array([5.0, 7.0]), np.array([[6.0, 7.0], [7.0, 7.0], [15.0, 7.0]])
    lost = [10 * np.log10(signal.power(each, radio(each, 300), tx, places)) for each in (free, walled)]
    assert np.allclose(lost[0], [0, -20 * np.log10(2), -20])
    assert np.allclose(lost[1] - lost[0], [0, 0, -8])


def test_a_wall_mirrors_a_transmitter() -> None:
    here = hall("signal")
    mirrored = replace(radio(here, 300), mirrored=np.array([3.0, 300, 300, 300]))  # the wall y = 0
    tx, place = np.array([5.0, 3.0]), np.array([[13.0, 3.0]])
    direct, path = 8.0, 10.0  # an image at 5, -3
    expected = direct**-2 + path**-2 * 10**-0.3
    assert np.allclose(signal.power(here, mirrored, tx, place), expected)
    blocked = hall("signal", walls=[[8.5, 0, 8.5, 1, 10]])  # on the reflected path alone
    mirrored = replace(mirrored, mirrored=np.append(mirrored.mirrored, 300))
    assert np.allclose(signal.power(blocked, mirrored, tx, place), direct**-2 + path**-2 * 10**-0.3 * 0.1)


def test_what_is_put_in_flows_out() -> None:
    here = hall("temperature", walls=[[10, 0, 10, 12, 0.3]])
    climate = temperature.Climate(mixing=0.03, drain=3.0, outside=temperature.INDOORS)
    heat = temperature.source(here, np.array([5.0, 5.0]), 1.0, 5_000.0)
    assert heat.sum() == pytest.approx(5_000)
    sealed = replace(here, blocks=1e9)
    rise = temperature.steady(sealed, climate, heat) - temperature.INDOORS
    cell = 20 * 15 / len(here.cells)
    assert rise.sum() * cell * climate.drain == pytest.approx(5_000, rel=1e-6)
    assert np.allclose(temperature.steady(here, climate, heat * 0), temperature.INDOORS)


def test_it_is_warm_on_the_sources_side_of_a_wall_and_cold_outside() -> None:
    climate = temperature.Climate(mixing=0.03, drain=3.0, outside=0.0)
    source = temperature.source(hall("temperature"), np.array([5.0, 7.5]), 1.0, 5_000.0)
    drops = []
    for blocks in (0.0, 2.0):
        here = hall("temperature", walls=[[10, 0, 10, 15, blocks]])
        field = temperature.steady(here, climate, source).reshape(24, 32)
        assert field[0, 0] < field[12, 8]
        drops.append(float(field[12, 15] - field[12, 16]))
    assert drops[1] > 5 * drops[0] > 0


def test_a_spot_grows_and_the_feed_shows_it() -> None:
    for here in usual_halls():
        assert here.above == LEVELS[here.kind]
        simulation = Simulation(here, np.random.default_rng(0), spot=unwatched(here))
        at = int(np.linalg.norm(here.cells - unwatched(here), axis=-1).argmin())
        fields = [simulation.field(share)[at] for share in (0.0, 0.5, 1.0)]
        assert fields[0] < fields[1] < fields[2]
        assert np.isnan(simulation.field()).sum() == (~here.holds(here.cells)).sum()
    here = usual_halls()[1]
    table = simulate(here, minutes=10, seed=1)
    assert table.height == 30 * len(here.sensors) and table["time"].is_sorted()
    assert table["time"].max() - table["time"].min() < 10 * MINUTE_MS  # type: ignore[operator]
    calm = simulate(here, minutes=10, seed=1, spot=False)
    more = table.join(calm, on=["sensor", "time"]).with_columns(late=pl.col("time") > pl.col("time").max() - MINUTE_MS)
    assert more.filter("late").select((pl.col("value") - pl.col("value_right")).mean()).item() > 1
