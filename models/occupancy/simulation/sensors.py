"""Readings of a building's sensors as they arrive: late, offset, noisy, repeated, out of order and with gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tocsin.models.occupancy.simulation.building import START, Rooms, air, people

Array = NDArray[np.float64]

MINUTE = 60_000  # ms
TEST_SEEDS = (1000, 1001, 1002)
"""Seeds of the test buildings, fixed before any model was made. They are for reporting, never for training or selection."""
SPREADS = {
    "co2": (8.0, 3.0, 1),
    "temperature": (0.3, 0.03, 0.1),
    "humidity": (1.5, 0.15, 0.1),
    "ventilation": (0, 0, 0.01),
}
"""Per property: standard deviation of a sensor's offset, standard deviation of its noise, and the rounding step."""


@dataclass(frozen=True)
class Line:
    """Timing errors and losses between the sensors and the broker.

    Args:
        skew: standard deviation of the sensors' clocks, s.
        jitter: standard deviation of a reading's time, s.
        lost: share of readings lost independently.
        outages: outages per sensor and day; each lasts minutes to hours.
        repeated: share of readings that arrive twice.
        delayed: share of readings that arrive late, by `delay` s on average.
    """

    skew: float = 10.0
    jitter: float = 3.0
    lost: float = 0.01
    outages: float = 0.1
    repeated: float = 0.01
    delayed: float = 0.05
    delay: float = 60.0


def simulate(*, rooms: int, days: int, seed: int, line: Line | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Simulate a building, starting on a Monday.

    Args:
        rooms: number of rooms, named `room-000` and so on.
        days: number of days from 2026-01-05, 00:00 UTC.
        seed: the same seed gives the same frames.

    Returns:
        Readings in order of arrival: `room`, `property` (text), `time` (ms by the sensor's clock), `value`, `arrival` (ms). And
        the truth: `room`, `time` (start of a minute, ms), `people`, `motion` (the output of a motion sensor that holds for
        15 minutes).
    """
    rng, line = np.random.default_rng(seed), line or Line()
    drawn = Rooms.draw(rooms, rng)
    return sensed(drawn, people(drawn, days, rng), rng, line)


def sensed(
    drawn: Rooms, inside: NDArray[np.int64], rng: np.random.Generator, line: Line
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Readings and truth, as in `simulate`, of rooms with so many people in each minute, `[N, minutes]`."""
    rooms = len(inside)
    names = np.array([f"room-{n:03}" for n in range(rooms)])
    frames = [_readings(name, values, names, line, rng) for name, values in air(drawn, inside, rng).items()]
    truth = pl.DataFrame(
        {
            "room": np.repeat(names, inside.shape[1]),
            "time": np.tile(START + MINUTE * np.arange(inside.shape[1]), rooms),
            "people": inside.ravel(),
            "motion": _motion(inside, rng).ravel(),
        }
    )
    return pl.concat(frames).sort("arrival", "room", "property", maintain_order=True), truth


def _readings(name: str, values: Array, names: NDArray[np.str_], line: Line, rng: np.random.Generator) -> pl.DataFrame:
    count, minutes = values.shape
    offset, noise, digit = SPREADS[name]
    if name == "co2":  # a CO2 sensor lags, because its own volume fills slowly
        values = _lagged(values, 3.0)
    values = values + offset * rng.standard_normal((count, 1)) + noise * rng.standard_normal(values.shape)
    values = np.round(values / digit) * digit
    phase, skew = rng.uniform(0, 60, (count, 1)), line.skew * rng.standard_normal((count, 1))
    moment = START + MINUTE * np.arange(minutes) + 1000 * (phase + line.jitter * rng.standard_normal(values.shape))
    late = (rng.random(values.shape) < line.delayed) * rng.exponential(1000 * line.delay, values.shape)
    received = rng.random(values.shape) >= line.lost
    for room, begin in zip(*np.nonzero(rng.random(values.shape) < line.outages / 1440), strict=True):
        received[room, begin : begin + int(rng.exponential(90)) + 1] = False
    room, minute = np.nonzero(received)
    frame = pl.DataFrame(
        {
            "room": names[room],
            "property": np.full(len(room), name),
            "time": (moment + 1000 * skew)[room, minute].astype(np.int64),
            "value": values[room, minute],
            "arrival": (moment + late + 200)[room, minute].astype(np.int64),
        }
    )
    repeats = frame.filter(pl.Series(rng.random(len(frame)) < line.repeated))
    return pl.concat([frame, repeats.with_columns(pl.col("arrival") + 1500)])


def _lagged(values: Array, minutes: float) -> Array:
    out, share = values.copy(), 1 - np.exp(-1 / minutes)
    for minute in range(1, values.shape[1]):
        out[:, minute] = out[:, minute - 1] + share * (values[:, minute] - out[:, minute - 1])
    return out


def _motion(inside: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether somebody has moved within 15 minutes. People who sit still for longer are not detected."""
    has_moved = rng.random(inside.shape) < 1 - 0.75**inside
    last = np.where(has_moved, np.arange(inside.shape[1]), -(10**6))
    return np.arange(inside.shape[1]) - np.maximum.accumulate(last, axis=1) < 15
