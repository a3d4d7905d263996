"""The simulated building: its air obeys its balance equations, and its sensors err as configured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tocsin.models.occupancy.data import PROPERTIES
from tocsin.models.occupancy.simulation.building import BREATH, Rooms, air, people
from tocsin.models.occupancy.simulation.sensors import Line, simulate

CLEAN = Line(skew=0, jitter=0, lost=0, outages=0, repeated=0, delayed=0)


def still(**more: float) -> Rooms:
    """One room without ventilation or windows, with half an air change per hour."""
    rooms = Rooms.draw(1, np.random.default_rng(0))
    given = {"volume": 60.0, "infiltration": 0.5, "control": 2, "airing": 0.0} | more
    return replace(rooms, **{name: np.full(1, value) for name, value in given.items()})


def co2(rooms: Rooms, inside: np.ndarray) -> np.ndarray:
    """CO2 above the outside level, from which each room starts."""
    found = air(rooms, inside[None, :], np.random.default_rng(1))["co2"][0]
    outside = air(rooms, np.zeros((1, 1), np.int64), np.random.default_rng(1))["co2"][0, 0]
    return found - outside


def test_people_raise_co2_to_where_what_they_breathe_out_is_carried_away() -> None:
    excess = co2(still(), np.full(3000, 3))
    assert excess[-1] == pytest.approx(3 * BREATH * 1000 / (0.5 * 60), rel=0.01)
    assert excess[0] == pytest.approx(3 * BREATH * 1000 / 60 / 60)


def test_an_empty_room_goes_back_to_the_outside_by_its_air_changes() -> None:
    inside = np.zeros(600, np.int64)
    inside[:120] = 4
    excess = co2(still(), inside)
    assert excess[420] / excess[120] == pytest.approx(np.exp(-0.5 * 5), rel=1e-6)


def test_ventilation_by_co2_opens_when_it_is_needed_and_lowers_it() -> None:
    inside = np.full(1000, 6)
    rooms = still(control=0, flow=3.0, minimum=0.1)
    opened = air(rooms, inside[None, :], np.random.default_rng(1))["ventilation"][0]
    assert opened[0] == pytest.approx(0.1)
    assert opened[-1] > 0.3
    assert co2(rooms, inside)[-1] < co2(still(), inside)[-1] / 2


def test_people_come_on_working_days_and_stay_within_the_days() -> None:
    rng = np.random.default_rng(3)
    inside = people(Rooms.draw(20, rng), 14, rng).reshape(20, 14, 1440)
    there = (inside > 0).mean(axis=(0, 2))
    weekend = np.isin(np.arange(14) % 7, (5, 6))
    assert there[weekend].max() < 0.1 < there[~weekend].min()
    assert inside[:, :, 180].sum() == 0  # at 3:00


def test_the_same_seed_gives_the_same_readings_and_another_others() -> None:
    first, again, other = (simulate(rooms=2, days=1, seed=seed) for seed in (5, 5, 6))
    assert first[0].equals(again[0]) and first[1].equals(again[1])
    assert not first[0].equals(other[0])


def test_over_a_good_line_each_property_comes_once_a_minute_in_order() -> None:
    readings, truth = simulate(rooms=3, days=1, seed=0, line=CLEAN)
    assert len(readings) == 3 * 1440 * len(PROPERTIES)
    assert len(truth) == 3 * 1440
    ordered = readings.group_by("room", "property", maintain_order=True).agg(
        pl.col("time").diff().drop_nulls().unique()
    )
    assert ordered["time"].to_list() == [[60_000]] * 3 * len(PROPERTIES)


def test_a_bad_line_loses_repeats_and_delays_as_it_is_told() -> None:
    line = replace(CLEAN, lost=0.1, repeated=0.05, delayed=0.2, delay=120.0)
    readings, _ = simulate(rooms=4, days=2, seed=0, line=line)
    sent = 4 * 2 * 1440 * len(PROPERTIES)
    unique = readings.unique(["room", "property", "time"])
    assert len(unique) / sent == pytest.approx(0.9, abs=0.01)
    assert len(readings) / len(unique) == pytest.approx(1.05, abs=0.01)
    waited = (readings["arrival"] - readings["time"]).filter(readings["arrival"] - readings["time"] > 5000)
    assert len(waited) / len(readings) == pytest.approx(0.2, abs=0.02)
    assert waited.mean() == pytest.approx(125_000, rel=0.05)
    assert readings["arrival"].is_sorted()


def test_a_motion_sensor_sees_nearly_all_who_are_there_and_holds_for_a_quarter_of_an_hour() -> None:
    _, truth = simulate(rooms=4, days=5, seed=2)
    there, seen = truth["people"] > 0, truth["motion"]
    assert seen.filter(there).mean() > 0.95
    assert 0 < seen.filter(~there).mean() < 0.05
