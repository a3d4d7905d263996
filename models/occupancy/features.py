"""The network's inputs for each minute of a room, in units that mean the same in every room.

The units come from the room's own unlabelled stream: the CO2 floor that it falls back to, its usual level above that floor in
office hours, and its ventilation rate, from the way its CO2 decays. A mass balance with these tells people from the CO2 that they
leave behind: the *source* is the rise of CO2 plus what ventilation takes away, so it is zero while CO2 merely decays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tocsin.models.occupancy.histogram import Histogram

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
_AVERAGED = [*_AVERAGES]
_HABIT = 0.3  # weight of the prior of a habit, in days
_FORGET = 0.1  # share of an hour's habit that each hour replaces


@dataclass(frozen=True)
class Clock:
    """Local time of the rooms: `hour` `[B] float64` from 0 to 24, `weekday` `[B] int64` (Monday is 0), `day` `[B] int64`."""

    hour: Tensor
    weekday: Tensor
    day: Tensor

    def at(self, index: Tensor) -> Clock:
        return Clock(self.hour[index], self.weekday[index], self.day[index])

    @property
    def office(self) -> Tensor:
        return (self.hour >= OFFICE[0]) & (self.hour < OFFICE[1]) & (self.weekday < 5)

    @property
    def hour_of_week(self) -> Tensor:
        """`[B] int64`: the hour, 0 to 23 on workdays and 24 to 47 at weekends."""
        return self.hour.long().clamp(max=23) + 24 * (self.weekday >= 5)


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
    state: Mapping[str, Tensor], time: Tensor, air: Mapping[str, Tensor], clock: Clock
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the features of one minute of B rooms.

    Args:
        state: the rooms' state, as in `memory`, `[B, ...] float64`.
        time: the minute, in minutes since any fixed time, `[B] float64`.
        air: each of `COLUMNS`, `[B] float64`; NaN for unknown values.
        clock: the minute in local time.

    Returns:
        `FEATURES` `[B, F] float32`, NaN for unknown values, and the next state.
    """
    elapsed = (time - state["time"]).nan_to_num(1.0).clamp(0, 60)
    co2 = _valid(air["co2_mean"], air["co2"])
    step = (co2 - state["before"]).abs().clamp(max=60.0)

    def averaged(now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = state["averages"][:, [_AVERAGED.index(name) for name in now]]
        minutes = before.new_tensor([_AVERAGES[name] for name in now])
        means = _average(before, torch.stack([*now.values()], 1), elapsed[:, None], minutes)
        return dict(zip(now, means.unbind(1), strict=True))

    vapour = 4.85 * torch.exp(0.0625 * air["temperature"]) * air["humidity"] / 100  # g of water in a m³ of air
    other_values = {name: air[name] for name in ("temperature", "ventilation")}
    smooth = averaged({"co2": co2, "slow": co2, "roughness": step, "vapour": vapour, **other_values})
    floor = torch.fmin(smooth["co2"], state["floor"] + RISE / 60 * elapsed)
    above = torch.where(co2.isnan(), math.nan, (smooth["co2"] - floor).clamp(min=0))
    usual, rate = _units(state, clock)
    # The slope of rare readings is unknown; the lag of a slow mean behind CO2 is the same quantity, with more delay.
    slope = (
        torch.where(air["co2_slope"].isnan(), (co2 - smooth["slow"]) / _AVERAGES["slow"] / 60, air["co2_slope"]) * 3600
    )
    unit = (rate * usual).clamp(min=LEAST_SOURCE)
    source = slope + rate * above
    smooth |= averaged({"source": source, "source_30": source, "past": (above / usual).clamp(max=5)})
    noise = _noise(state["noise"], slope, elapsed)
    strong = (smooth["source"] / unit > PRESENT).double()
    since = torch.where(strong > 0, 0.0, state["since"] + elapsed)
    peaks = _peaks(state, torch.stack([smooth["source_30"] / unit, above / usual], 1), clock)
    used, seen = _habits(state, smooth["source_30"] / unit, elapsed, clock)
    falling = (slope < 0) & (above > FALLING) & (above > SHARE * usual) & (-slope > SLOWEST * above)
    strength = smooth["source"] / (3 * noise)

    columns = {
        "level": (above / usual).clamp(max=5),
        "log_level": torch.log1p(3 * above / usual),
        "slope": (slope / unit).clamp(-4, 4),
        "source": (smooth["source"] / unit).clamp(-2, 4),
        "source_30": (smooth["source_30"] / unit).clamp(-2, 4),
        "strength": torch.sign(strength) * torch.log1p(strength.abs()),
        "past": smooth["past"],
        "since": torch.log1p(since / 10),
        "roughness": torch.log1p(20 * smooth["roughness"] / usual),
        "ventilation_rate": torch.log(rate),
        "habit": _habit(state, clock),
        "peak_source": peaks[:, 0].clamp(max=3),
        "peak_level": peaks[:, 1].clamp(max=3),
        **_clock_features(clock),
        "warming": (air["temperature"] - smooth["temperature"]).clamp(-2, 2),
        "damping": (vapour - smooth["vapour"]).clamp(-1, 1),
        "ventilation": air["ventilation"],
        "opening": air["ventilation"] - smooth["ventilation"],
    }
    next_state = {
        "floor": floor,
        "before": torch.where(co2.isnan(), state["before"], co2),
        "still": torch.where(step == 0, state["still"].nan_to_num(0) + elapsed, 0.0),
        "usual": usual,
        "rate": rate,
        "day": clock.day.double(),
        "time": time,
        "noise": noise,
        "since": since,
        "peaks": peaks,
        "averages": torch.stack([smooth[n] for n in _AVERAGES], 1),
        "levels": LEVELS.add(state["levels"], above, clock.office & ~above.isnan()),
        "rates": RATES.add(state["rates"], -slope / above, falling),
        "used": used,
        "seen": seen,
    }
    return torch.stack([columns[n] for n in FEATURES], 1).float(), next_state


def _clock_features(clock: Clock) -> dict[str, Tensor]:
    """The features of the local time."""
    angle = clock.hour / 24 * 2 * math.pi
    return {
        "workday": torch.sigmoid((clock.hour - 8.3) * 3) * torch.sigmoid((17.3 - clock.hour) * 2),
        "weekend": (clock.weekday >= 5).double(),
        "hour_sin": torch.sin(angle),
        "hour_cos": torch.cos(angle),
        "half_sin": torch.sin(2 * angle),
        "half_cos": torch.cos(2 * angle),
    }


def _valid(mean: Tensor, last: Tensor) -> Tensor:
    """The minute's mean CO2, or the last value if the minute has no reading; NaN below `LOWEST`."""
    co2 = torch.where(mean.isnan(), last, mean)
    return torch.where(co2 >= LOWEST, co2, math.nan)


def _average(before: Tensor, now: Tensor, elapsed: Tensor, minutes: Tensor) -> Tensor:
    """Update an exponential mean. It starts with the first value and stays unchanged where there is none."""
    updated = before + (now - before) * (1 - torch.exp(-elapsed / minutes))
    return torch.where(updated.isnan(), torch.where(before.isnan(), now, before), updated)


def _units(state: Mapping[str, Tensor], clock: Clock) -> tuple[Tensor, Tensor]:
    """The unit of CO2 (ppm) and the ventilation rate (per hour), `[B]` each; both are recomputed once a day."""
    same = state["day"] == clock.day
    if bool(same.all()):
        return state["usual"], state["rate"]
    usual = LEVELS.quantile(state["levels"]).clamp(min=LEAST_USUAL)
    known = state["usual"]
    limited = torch.where(known.isnan(), usual, torch.minimum(torch.maximum(usual, known / CHANGE), known * CHANGE))
    return torch.where(same, known, limited), torch.where(same, state["rate"], RATES.quantile(state["rates"]))


def _noise(noise: Tensor, slope: Tensor, elapsed: Tensor) -> Tensor:
    """Update the noise of the slope: a running lower third of its size. It moves by up to 1 % a minute."""
    step = torch.where(slope.abs() > noise, 0.004, -0.008) * elapsed
    return (noise * (1 + torch.where(slope.isnan(), 0.0, step))).clamp(QUIET[0], QUIET[2])


def _peaks(state: Mapping[str, Tensor], now: Tensor, clock: Clock) -> Tensor:
    """The day's highest source and level so far `[B, 2]`, in the room's units. Before `MORNING` they belong to the day before."""
    before = torch.where((state["day"] == clock.day)[:, None], state["peaks"], 0.0)
    return torch.where((clock.hour >= MORNING)[:, None], torch.fmax(before, now), 0.0)


def _habit(state: Mapping[str, Tensor], clock: Clock) -> Tensor:
    """How much the room was used at this hour on past days `[B]`, 0 to 1."""
    at = clock.hour_of_week[:, None]
    used, seen = (state[name].gather(1, at)[:, 0] for name in ("used", "seen"))
    initial = torch.where(clock.weekday < 5, used.new_tensor(USED[0]), used.new_tensor(USED[1]))
    return (used + _HABIT * initial) / (seen + _HABIT)


def _habits(state: Mapping[str, Tensor], source: Tensor, elapsed: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """Update the habit of this hour by the source, in the room's units: `used` and `seen`, `[B, 48]` each."""
    at = clock.hour_of_week[:, None]
    active, hours = torch.sigmoid(8 * (source - 0.35)), torch.where(source.isnan(), 0.0, elapsed / 60)
    keep = 1 - _FORGET * hours
    used, seen = (state[name].gather(1, at)[:, 0] * keep for name in ("used", "seen"))
    used = used + active.nan_to_num(0) * hours
    return state["used"].scatter(1, at, used[:, None]), state["seen"].scatter(1, at, (seen + hours)[:, None])


def rhythm(state: Mapping[str, Tensor]) -> Tensor:
    """The hour about which a room's workday is centred `[B]`, 0 to 24; NaN before `KNOWN` days, and for a room without a rhythm.

    A stream whose times are in another time zone than the rooms' shows here: its day is centred at night.
    """
    used, seen = state["used"][:, :24], state["seen"][:, :24]
    angle = (torch.arange(24, dtype=torch.float64, device=used.device) + 0.5) / 24 * 2 * math.pi
    share = used / seen.clamp(min=1e-9)
    x, y, total = (share * torch.cos(angle)).sum(1), (share * torch.sin(angle)).sum(1), share.sum(1)
    strength = torch.hypot(x, y) / total.clamp(min=1e-9)
    known = (seen.sum(1) >= 24 * KNOWN) & (strength >= RHYTHMIC)
    return torch.where(known, torch.atan2(y, x) / (2 * math.pi) * 24 % 24, math.nan)
