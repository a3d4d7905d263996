"""The network's inputs for each minute of a room, in units that mean the same in every room.

The units come from the room's own unlabelled stream: the CO2 floor that it falls back to, and its usual level above that floor in
office hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

COLUMNS = ("co2", "co2_mean", "co2_slope", "temperature", "humidity", "ventilation")
"""Columns of a minute's grid row. The slope is in ppm per second, by least squares over ten minutes."""

CLOCK = ("workday", "weekend", "hour_sin", "hour_cos")
FEATURES = ("level", "log_level", "slope", "roughness", "past", "warming", "damping", "ventilation", "opening", *CLOCK)

LOWEST = 200.0  # ppm; a sensor that reads less is faulty, because no air has less than 400
RISE = 2.0  # ppm per hour by which the floor may rise, to follow a sensor that drifts upwards
EDGES = torch.logspace(math.log10(5), math.log10(2000), 33, dtype=torch.float64)  # bins, ppm above the floor
USUAL = 0.9  # this quantile of the level in office hours is the unit of CO2
PRIOR = 150.0  # ppm; that quantile in a room without history
WEIGHT = 2 * 600.0  # weight of the prior, in minutes of office hours
HALF_LIFE = 30 * 600.0  # minutes of office hours after which a level counts half as much
OFFICE = (8.0, 18.0)  # hours of a working day

# Inputs with an exponential mean, and its time constant in minutes.
_AVERAGES = {"co2": 5.0, "roughness": 10.0, "past": 120.0, "temperature": 30.0, "vapour": 30.0, "ventilation": 10.0}
_AVERAGED = [*_AVERAGES]


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


def memory() -> dict[str, tuple[tuple[int, ...], float]]:
    """The state of a room: name -> shape and initial value. All float64.

    `still` is the number of minutes since the room's CO2 last changed by a digit.
    """
    numbers = ("floor", "before", "still", "usual", "day", "time")
    return {
        **dict.fromkeys(numbers, ((), math.nan)),
        "averages": ((len(_AVERAGES),), math.nan),
        "levels": ((len(EDGES) + 1,), 0.0),
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
    vapour = 4.85 * torch.exp(0.0625 * air["temperature"]) * air["humidity"] / 100  # g of water in a m³ of air
    step = (co2 - state["before"]).abs().clamp(max=60.0)

    def averaged(now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = state["averages"][:, [_AVERAGED.index(name) for name in now]]
        minutes = before.new_tensor([_AVERAGES[name] for name in now])
        means = _average(before, torch.stack([*now.values()], 1), elapsed[:, None], minutes)
        return dict(zip(now, means.unbind(1), strict=True))

    other_values = {name: air[name] for name in ("temperature", "ventilation")}
    smooth = averaged({"co2": co2, "roughness": step, "vapour": vapour, **other_values})
    floor = torch.fmin(smooth["co2"], state["floor"] + RISE / 60 * elapsed)
    above = (co2 - floor).clamp(min=0)
    levels, usual = _usual(state, above, clock)
    level = (above / usual).clamp(max=5)
    smooth |= averaged({"past": level})

    columns = {
        "level": level,
        "log_level": torch.log1p(3 * above / usual),
        "slope": (air["co2_slope"] * 600 / usual).clamp(-3, 3),
        "roughness": torch.log1p(20 * smooth["roughness"] / usual),
        "past": smooth["past"],
        "warming": (air["temperature"] - smooth["temperature"]).clamp(-2, 2),
        "damping": (vapour - smooth["vapour"]).clamp(-1, 1),
        "ventilation": air["ventilation"],
        "opening": air["ventilation"] - smooth["ventilation"],
        **_clock_features(clock),
    }
    next_state = {
        "floor": floor,
        "before": torch.where(co2.isnan(), state["before"], co2),
        "still": torch.where(step == 0, state["still"].nan_to_num(0) + elapsed, 0.0),
        "usual": usual,
        "day": clock.day.double(),
        "time": time,
        "averages": torch.stack([smooth[n] for n in _AVERAGES], 1),
        "levels": levels,
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
    }


def _valid(mean: Tensor, last: Tensor) -> Tensor:
    """The minute's mean CO2, or the last value if the minute has no reading; NaN below `LOWEST`."""
    co2 = torch.where(mean.isnan(), last, mean)
    return torch.where(co2 >= LOWEST, co2, math.nan)


def _average(before: Tensor, now: Tensor, elapsed: Tensor, minutes: Tensor) -> Tensor:
    """Update an exponential mean. It starts with the first value and stays unchanged where there is none."""
    updated = before + (now - before) * (1 - torch.exp(-elapsed / minutes))
    return torch.where(updated.isnan(), torch.where(before.isnan(), now, before), updated)


def _usual(state: Mapping[str, Tensor], above: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """Update the counts of each level in office hours, and the unit of CO2; the unit is recomputed once a day."""
    edges = EDGES.to(above.device)
    fresh = state["levels"].sum(1, keepdim=True) == 0
    levels = torch.where(fresh, _prior().to(above.device), state["levels"])
    same = state["day"] == clock.day
    usual = state["usual"] if bool(same.all()) else torch.where(same, state["usual"], _quantile(levels, edges))
    counts = clock.office & ~above.isnan()
    decay = torch.where(counts, 0.5 ** (1 / HALF_LIFE), 1.0)
    bins = torch.bucketize(above.nan_to_num(0), edges, right=True)
    return (levels * decay[:, None]).scatter_add(1, bins[:, None], counts.double()[:, None]), usual


@cache
def _prior() -> Tensor:
    """Level counts of an average room: an exponential distribution whose `USUAL` quantile is `PRIOR`."""
    below = 1 - torch.exp(-EDGES * (-math.log(1 - USUAL) / PRIOR))
    return WEIGHT * torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))


def _quantile(levels: Tensor, edges: Tensor) -> Tensor:
    """The `USUAL` quantile `[B]`, ppm, of the level counts `[B, edges + 1]`; at least 20."""
    share = levels.cumsum(1) / levels.sum(1, keepdim=True)
    at = (share < USUAL).sum(1).clamp(max=len(edges) - 1)
    low = torch.cat([edges.new_zeros(1), edges])[at]
    before = torch.where(at > 0, share.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    reached = share.gather(1, at[:, None])[:, 0]
    within = ((USUAL - before) / (reached - before)).clamp(0, 1)
    return (low + (edges[at] - low) * within).clamp(min=20.0)
