"""The network's inputs for each minute of a room, in units that mean the same in every room.

The units come from the room's own unlabelled stream: the CO2 floor that it falls back to, its usual level above that floor in
office hours, and its ventilation rate, from the way its CO2 decays. A mass balance with these tells people from the CO2 that they
leave behind: the *source* is the rise of CO2 plus what ventilation takes away, so it is zero while CO2 merely decays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tocsin.models.occupancy.histogram import Array, Histogram

COLUMNS = ("co2", "co2_mean", "co2_slope", "temperature", "humidity", "ventilation")
"""Columns of a minute's grid row. The slope is in ppm per second, by least squares over ten minutes."""

CO2 = (
    "level", "log_level", "slope", "source", "source_30", "strength", "past", "since", "roughness", "ventilation_rate", "habit",
    "peak_source", "peak_level",
)  # fmt: skip
CLOCK = ("workday", "weekend", "hour_sin", "hour_cos", "half_sin", "half_cos")
OTHERS = {
    "temperature": ("warming",),
    "humidity": ("damping",),
    "ventilation": ("ventilation", "opening"),
}
"""Features of the other sensors. The shipped model does not use them: they made it worse in buildings that were left out."""
FEATURES = (*CO2, *CLOCK, *(name for names in OTHERS.values() for name in names))

LOWEST = 200.0  # ppm; a sensor that reads less is faulty, because no air has less than 400
RISE = 2.0  # ppm per hour by which the floor may rise, to follow a sensor that drifts upwards
OFFICE = (8.0, 18.0)  # hours of a working day
LEVELS = Histogram(low=5, high=2000, bins=32, share=0.9, half_life=30 * 600, prior=150.0, weight=600.0)
"""Levels above the floor in office hours, ppm, in minutes. The unit of CO2 is the level that 90 % of them stay under."""
RATES = Histogram(low=0.1, high=10, bins=24, share=0.5, half_life=3000, prior=1.2, weight=120.0)
"""Rates of decay while CO2 falls, per hour, in minutes. The ventilation rate is their median."""
CHANGE = 2.0  # the largest factor by which the unit of CO2 changes in a day
LEAST_USUAL, LEAST_SOURCE = 20.0, 20.0  # ppm, ppm per hour; smaller units would amplify noise
FALLING, SHARE = 25.0, 0.2  # a decay is measured above this level (ppm) and above this share of the unit
SLOWEST = 0.05  # per hour; a slower fall is no decay
PRESENT = 0.5  # a source above this share of the unit means people; see `since`
QUIET = (1.0, 4.0, 60.0)  # ppm per hour; the least, the initial and the largest noise of the slope
USED = (0.15, 0.03)  # share of minutes in which a room is used, on workdays and at weekends, before it is known
KNOWN, RHYTHMIC = 2.5, 0.3  # days, and resultant length of a room's use by hours, from which its rhythm is known
MORNING = 5.0  # hour at which the day's peaks begin

# Inputs with an exponential mean, and its time constant in minutes.
_AVERAGES = {
    "co2": 5.0, "slow": 15.0, "source": 5.0, "source_30": 30.0, "roughness": 10.0, "past": 120.0, "temperature": 30.0,
    "vapour": 30.0, "ventilation": 10.0,
}  # fmt: skip
_MINUTES = np.array([*_AVERAGES.values()])
_HABIT = 0.3  # weight of the prior of a habit, in days
_FORGET = 0.1  # share of an hour's habit that each hour replaces


@dataclass(frozen=True)
class Clock:
    """Local time of the rooms: `hour` `[B] float64` from 0 to 24, `weekday` `[B] int64` (Monday is 0), `day` `[B] int64`."""

    hour: Array
    weekday: NDArray[np.int64]
    day: NDArray[np.int64]

    def at(self, index: NDArray[np.int64]) -> Clock:
        return Clock(self.hour[index], self.weekday[index], self.day[index])

    @property
    def office(self) -> NDArray[np.bool_]:
        return (self.hour >= OFFICE[0]) & (self.hour < OFFICE[1]) & (self.weekday < 5)

    @property
    def hour_of_week(self) -> NDArray[np.int64]:
        """`[B]`: the hour, 0 to 23 on workdays and 24 to 47 at weekends."""
        return np.minimum(self.hour.astype(np.int64), 23) + 24 * (self.weekday >= 5)


def memory() -> dict[str, tuple[tuple[int, ...], float]]:
    """The state of a room: name -> shape and initial value. All float64.

    `still` is the number of minutes since the room's CO2 last changed by a digit, `noise` the slope of its CO2 when nothing happens
    (ppm per hour), `since` the minutes since its source was last as high as people's, `used` and `seen` the habit of each hour.
    """
    numbers = ("floor", "before", "still", "usual", "rate", "day", "time")
    return {
        **dict.fromkeys(numbers, ((), math.nan)),
        "noise": ((), QUIET[1]),
        "since": ((), 999.0),
        "peaks": ((2,), 0.0),
        "averages": ((len(_AVERAGES),), math.nan),
        "levels": ((LEVELS.size,), 0.0),
        "rates": ((RATES.size,), 0.0),
        "used": ((48,), 0.0),
        "seen": ((48,), 0.0),
    }


def advance(
    state: Mapping[str, Array], time: Array, air: Mapping[str, Array], clock: Clock
) -> tuple[NDArray[np.float32], dict[str, Array]]:
    """Compute the features of one minute of B rooms.

    The arrays are NumPy's: for a few rooms at a time they take a third of the time of tensors.

    Args:
        state: the rooms' state, as in `memory`, `[B, ...] float64`.
        time: the minute, in minutes since any fixed time, `[B] float64`.
        air: each of `COLUMNS`, `[B] float64`; NaN for unknown values.
        clock: the minute in local time.

    Returns:
        `FEATURES` `[B, F] float32`, NaN for unknown values, and the next state.
    """
    with np.errstate(all="ignore"):
        return _advance(state, time, air, clock)


def _advance(
    state: Mapping[str, Array], time: Array, air: Mapping[str, Array], clock: Clock
) -> tuple[NDArray[np.float32], dict[str, Array]]:
    elapsed = np.clip(np.nan_to_num(time - state["time"], nan=1.0), 0, 60)
    co2 = _valid(air["co2_mean"], air["co2"])
    unknown = np.isnan(co2)
    step = np.minimum(np.abs(co2 - state["before"]), 60.0)
    vapour = 4.85 * np.exp(0.0625 * air["temperature"]) * air["humidity"] / 100  # g of water in a m³ of air
    before, keep = dict(zip(_AVERAGES, state["averages"].T, strict=True)), 1 - np.exp(-elapsed / _MINUTES[:, None])
    weights = dict(zip(_AVERAGES, keep, strict=True))

    def averaged(name: str, now: Array) -> Array:
        """Update an exponential mean. It starts with the first value and stays unchanged where there is none."""
        mean = before[name] + (now - before[name]) * weights[name]
        return np.where(np.isnan(mean), np.where(np.isnan(before[name]), now, before[name]), mean)

    smooth = {"co2": averaged("co2", co2), "slow": averaged("slow", co2)}
    floor = np.fmin(smooth["co2"], state["floor"] + RISE / 60 * elapsed)
    above = np.where(unknown, math.nan, np.maximum(smooth["co2"] - floor, 0))
    usual, rate = _units(state, clock)
    # The slope of rare readings is unknown; the lag of a slow mean behind CO2 is the same quantity, with more delay.
    lag = (co2 - smooth["slow"]) / _AVERAGES["slow"] / 60
    slope = np.where(np.isnan(air["co2_slope"]), lag, air["co2_slope"]) * 3600
    unit = np.maximum(rate * usual, LEAST_SOURCE)
    source, level = slope + rate * above, np.minimum(above / usual, 5)
    measured = {"source": source, "source_30": source, "roughness": step, "past": level, "vapour": vapour}
    measured |= {name: air[name] for name in ("temperature", "ventilation")}
    smooth |= {name: averaged(name, now) for name, now in measured.items()}
    noise = _noise(state["noise"], slope, elapsed)
    since = np.where(smooth["source"] / unit > PRESENT, 0.0, state["since"] + elapsed)
    peaks = _peaks(state, np.stack([smooth["source_30"] / unit, above / usual], 1), clock)
    used, seen = _habits(state, smooth["source_30"] / unit, elapsed, clock)
    falling = (slope < 0) & (above > FALLING) & (above > SHARE * usual) & (-slope > SLOWEST * above)
    strength = smooth["source"] / (3 * noise)

    columns = {
        "level": level,
        "log_level": np.log1p(3 * above / usual),
        "slope": np.clip(slope / unit, -4, 4),
        "source": np.clip(smooth["source"] / unit, -2, 4),
        "source_30": np.clip(smooth["source_30"] / unit, -2, 4),
        "strength": np.sign(strength) * np.log1p(np.abs(strength)),
        "past": smooth["past"],
        "since": np.log1p(since / 10),
        "roughness": np.log1p(20 * smooth["roughness"] / usual),
        "ventilation_rate": np.log(rate),
        "habit": _habit(state, clock),
        "peak_source": np.minimum(peaks[:, 0], 3),
        "peak_level": np.minimum(peaks[:, 1], 3),
        **_clock_features(clock),
        "warming": np.clip(air["temperature"] - smooth["temperature"], -2, 2),
        "damping": np.clip(vapour - smooth["vapour"], -1, 1),
        "ventilation": air["ventilation"],
        "opening": air["ventilation"] - smooth["ventilation"],
    }
    next_state = {
        "floor": floor,
        "before": np.where(unknown, state["before"], co2),
        "still": np.where(step == 0, np.nan_to_num(state["still"]) + elapsed, 0.0),
        "usual": usual,
        "rate": rate,
        "day": clock.day.astype(np.float64),
        "time": time,
        "noise": noise,
        "since": since,
        "peaks": peaks,
        "averages": np.stack([smooth[n] for n in _AVERAGES], 1),
        "levels": LEVELS.add(state["levels"], above, clock.office & ~np.isnan(above)),
        "rates": RATES.add(state["rates"], -slope / above, falling),
        "used": used,
        "seen": seen,
    }
    return np.stack([columns[n] for n in FEATURES], 1).astype(np.float32), next_state


def _clock_features(clock: Clock) -> dict[str, Array]:
    """The features of the local time."""
    angle = clock.hour / 24 * 2 * math.pi
    return {
        "workday": _sigmoid((clock.hour - 8.3) * 3) * _sigmoid((17.3 - clock.hour) * 2),
        "weekend": (clock.weekday >= 5).astype(np.float64),
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
        "half_sin": np.sin(2 * angle),
        "half_cos": np.cos(2 * angle),
    }


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _valid(mean: Array, last: Array) -> Array:
    """The minute's mean CO2, or the last value if the minute has no reading; NaN below `LOWEST`."""
    co2 = np.where(np.isnan(mean), last, mean)
    return np.where(co2 >= LOWEST, co2, math.nan)


def _units(state: Mapping[str, Array], clock: Clock) -> tuple[Array, Array]:
    """The unit of CO2 (ppm) and the ventilation rate (per hour), `[B]` each; both are recomputed once a day."""
    same = state["day"] == clock.day
    if same.all():
        return state["usual"], state["rate"]
    known, usual = state["usual"], np.maximum(LEVELS.quantile(state["levels"]), LEAST_USUAL)
    limited = np.where(np.isnan(known), usual, np.clip(usual, known / CHANGE, known * CHANGE))
    return np.where(same, known, limited), np.where(same, state["rate"], RATES.quantile(state["rates"]))


def _noise(noise: Array, slope: Array, elapsed: Array) -> Array:
    """Update the noise of the slope: a running lower third of its size. It moves by up to 1 % a minute."""
    step = np.where(np.abs(slope) > noise, 0.004, -0.008) * elapsed
    return np.clip(noise * (1 + np.where(np.isnan(slope), 0.0, step)), QUIET[0], QUIET[2])


def _peaks(state: Mapping[str, Array], now: Array, clock: Clock) -> Array:
    """The day's highest source and level so far `[B, 2]`, in the room's units. Before `MORNING` they are 0."""
    before = np.where((state["day"] == clock.day)[:, None], state["peaks"], 0.0)
    return np.where((clock.hour >= MORNING)[:, None], np.fmax(before, now), 0.0)


def _habit(state: Mapping[str, Array], clock: Clock) -> Array:
    """How much the room was used at this hour on past days `[B]`, 0 to 1."""
    at = np.arange(len(clock.hour)), clock.hour_of_week
    return (state["used"][at] + _HABIT * np.where(clock.weekday < 5, *USED)) / (state["seen"][at] + _HABIT)


def _habits(state: Mapping[str, Array], source: Array, elapsed: Array, clock: Clock) -> tuple[Array, Array]:
    """Update the habit of this hour by the source, in the room's units: `used` and `seen`, `[B, 48]` each."""
    at = np.arange(len(clock.hour)), clock.hour_of_week
    known = ~np.isnan(source)
    hours = np.where(known, elapsed / 60, 0.0)
    active = np.where(known, _sigmoid(8 * (source - 0.35)), 0.0)
    used, seen = state["used"].copy(), state["seen"].copy()
    used[at] = used[at] * (1 - _FORGET * hours) + active * hours
    seen[at] = seen[at] * (1 - _FORGET * hours) + hours
    return used, seen


_ANGLES = (np.arange(24) + 0.5) / 24 * 2 * math.pi


def rhythm(state: Mapping[str, Array]) -> Array:
    """The hour about which a room's workday is centred `[B]`, 0 to 24; NaN before `KNOWN` days, and for a room without a rhythm.

    A stream whose times are in another time zone than the rooms' shows here: its day is centred at night.
    """
    used, seen = state["used"][:, :24], state["seen"][:, :24]
    share = used / np.maximum(seen, 1e-9)
    x, y = share @ np.cos(_ANGLES), share @ np.sin(_ANGLES)
    strength = np.hypot(x, y) / np.maximum(share.sum(1), 1e-9)
    known = (seen.sum(1) >= 24 * KNOWN) & (strength >= RHYTHMIC)
    return np.where(known, np.arctan2(y, x) / (2 * math.pi) * 24 % 24, math.nan)
