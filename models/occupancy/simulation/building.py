"""A simulated building: how many people are in each room, and the true state of its air.

Each room is one well-mixed volume, computed minute by minute:

    V dC/dt = G n - Q (C - C_out)            CO2; G per person, Q by ventilation, infiltration and open windows
    V dw/dt = M n - Q (w - w_out)            water vapour
    K dT/dt = P n + H - (U + c Q) (T - T_out)    heat from people and heating

People have their own days and hours, with meetings, breaks and weeks away. Some rooms ventilate by CO2, some by the clock, some
not at all. Module `sensors` adds the errors: readings are late, offset, noisy and rounded, and arrive irregularly, repeated, out of
order and incomplete.

The constants are this project's own choice within the range that textbooks give for offices; no record of a data set is contained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.models.occupancy.data import PROPERTIES

Array = NDArray[np.float64]

BREATH = 18.0  # l of CO2 per person and hour, at a desk
VAPOUR = 50.0  # g of water per person and hour
WARMTH = 75.0  # W per person
DAY = 1440  # minutes
START = 1_767_571_200_000  # Monday 2026-01-05, 00:00 UTC, ms


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """Parameters of each room; every field is an array `[N]`.

    Attributes:
        volume: m³.
        desks: people who work there.
        infiltration: air changes per hour when everything is closed.
        flow: air changes per hour at full ventilation.
        minimum: share of `flow` that is always on.
        control: 0 ventilates by CO2, 1 by the clock, 2 not at all.
        airing: window openings per hour while somebody is in the room.
        diligence: share of working days on which a person comes.
        heating: the heating's set point by day, degrees C.
    """

    volume: Array
    desks: NDArray[np.int64]
    infiltration: Array
    flow: Array
    minimum: Array
    control: NDArray[np.int64]
    airing: Array
    diligence: Array
    heating: Array

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Rooms:
        """Draw `count` rooms from the building's distribution."""
        desks = rng.integers(1, 9, count)
        return cls(
            volume=desks * rng.uniform(10, 25, count) + 20,
            desks=desks,
            infiltration=rng.uniform(0.05, 0.4, count),
            flow=rng.uniform(1.0, 4.0, count),
            minimum=rng.uniform(0.0, 0.3, count),
            control=rng.choice(3, count, p=(0.5, 0.3, 0.2)),
            airing=rng.uniform(0.0, 0.25, count),
            diligence=rng.uniform(0.2, 0.9, count),
            heating=rng.uniform(20, 22.5, count),
        )


def people(rooms: Rooms, days: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Simulate how many people are in each room, `[N, days * 1440]`: working days with breaks, meetings, weeks away, evenings."""
    count = len(rooms.volume)
    inside = np.zeros((count, days * DAY), np.int64)
    for room in range(count):
        start, duration = rng.normal(8.5, 0.6), rng.normal(8.0, 0.8)  # the room's habit, hours
        for _ in range(rooms.desks[room]):
            away = rng.integers(0, days) if rng.random() < 0.3 else days  # the first day of a week off
            for day in range(days):
                weekend, off = day % 7 >= 5, away <= day < away + 7
                if off or rng.random() > (0.03 if weekend else rooms.diligence[room]):
                    continue
                arrival = day * DAY + 60 * (start + rng.normal(0, 0.7))
                departure = arrival + 60 * max(0.5, duration + rng.normal(0, 1.2))
                if rng.random() < 0.04:  # stays for the evening
                    departure += 60 * rng.uniform(1, 4)
                is_inside = np.zeros(days * DAY, bool)
                is_inside[int(np.clip(arrival, 0, None)) : int(departure)] = True
                absences = [(day * DAY + 60 * rng.normal(12.4, 0.3), rng.uniform(20, 60))]
                absences += [(rng.uniform(arrival, departure), rng.uniform(5, 120)) for _ in range(rng.poisson(2.5))]
                for begin, minutes in absences:
                    is_inside[int(max(begin, 0)) : int(max(begin, 0) + minutes)] = False
                inside[room] += is_inside
        for day in range(days):  # a meeting in the room
            if day % 7 < 5 and rng.random() < 0.15:
                begin = int(day * DAY + 60 * rng.uniform(9, 16))
                inside[room, begin : begin + int(rng.uniform(20, 90))] += rng.integers(1, 4)
    return inside


def air(rooms: Rooms, inside: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Array]:
    """Simulate the true air: each of `PROPERTIES`, `[N, minutes]`."""
    count, minutes = inside.shape
    outside = 425 + 10 * rng.standard_normal()
    co2, vapour = np.full(count, outside), np.full(count, 6.0)
    warm, windows = rooms.heating - 1, np.zeros(count)
    weather = 6 + 3 * np.cumsum(0.02 * rng.standard_normal(minutes // 60 + 2))  # degrees C, hour by hour
    series = {name: np.empty((count, minutes)) for name in PROPERTIES}
    schedule = rng.uniform(6, 8, count), rng.uniform(17, 20, count)
    for minute in range(minutes):
        hour, workday = minute % DAY / 60, minute // DAY % 7 < 5
        cold = weather[minute // 60] + 3 * np.sin((hour - 9) / 24 * 2 * np.pi)
        by_clock = (schedule[0] < hour) & (hour < schedule[1]) & workday
        by_air = np.clip((co2 - 600) / 400, 0, 1)
        opening = np.select([rooms.control == 0, rooms.control == 1], [by_air, by_clock * 0.8], 0.0)
        opening = np.where(rooms.control == 2, 0.0, np.maximum(rooms.minimum, opening))
        opened = (rng.random(count) < rooms.airing / 60) & (inside[:, minute] > 0)
        windows = np.maximum(windows - 1, opened * rng.integers(5, 40, count))
        changes = (rooms.infiltration + rooms.flow * opening + 4.0 * (windows > 0)) / 60  # a minute
        n = inside[:, minute]
        thinned = np.exp(-changes)
        co2 = outside + (co2 - outside) * thinned + n * BREATH / 60 / rooms.volume * 1000
        damp = 0.7 * 4.85 * np.exp(0.065 * cold)  # g of water in a m³ outside
        vapour = damp + (vapour - damp) * thinned + n * VAPOUR / 60 / rooms.volume
        heated = rooms.heating - (0 if 6 < hour < 19 and workday else 3)
        gains = n * WARMTH / (8000 * rooms.volume) * 60 + np.clip(heated - warm, 0, 1) * 0.03
        warm = warm + gains - (0.0008 + 0.12 * changes) * (warm - cold) * 0.3
        saturated = 4.85 * np.exp(0.0625 * warm)
        for name, value in zip(
            PROPERTIES, (co2, warm, np.clip(100 * vapour / saturated, 5, 100), opening), strict=True
        ):
            series[name][:, minute] = value
    return series
