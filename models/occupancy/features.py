"""What the network sees of a room each minute, in units that mean the same in every room.

A room's own unlabelled stream gives the units: the CO2 that it falls back to, and how far above that it usually is in office hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

COLUMNS = ("co2", "co2_mean", "co2_slope", "temperature", "humidity", "ventilation")
"""Of a minute's grid row; slope in ppm a second, least squares over ten minutes."""

CLOCK = ("workday", "weekend", "hour_sin", "hour_cos")
FEATURES = ("level", "log_level", "slope", "roughness", "past", "warming", "damping", "ventilation", "opening", *CLOCK)

LOWEST = 200.0  # ppm; a sensor that says less is faulty, for no air has less than 400
RISE = 2.0  # ppm an hour, at which the floor follows a sensor that drifts upwards
EDGES = torch.logspace(math.log10(5), math.log10(2000), 33, dtype=torch.float64)  # ppm above the floor
USUAL = 0.9  # quantile of the level in office hours that is the unit of CO2
PRIOR = 150.0  # ppm, of that quantile, in a room not known yet
WEIGHT = 2 * 600.0  # minutes of office hours that the prior counts for
HALF_LIFE = 30 * 600.0  # minutes of office hours after which a level counts half
OFFICE = (8.0, 18.0)  # hours of a working day

# What is averaged over the minutes before, and over how many of them.
_AVERAGES = {"co2": 5.0, "roughness": 10.0, "past": 120.0, "temperature": 30.0, "vapour": 30.0, "ventilation": 10.0}
_AVERAGED = [*_AVERAGES]


@dataclass(frozen=True)
class Clock:
    """The time where the room is: `hour` `[B] float64` from 0 to 24, `weekday` `[B] int64` from Monday 0 on, `day` `[B] int64`."""

    hour: Tensor
    weekday: Tensor
    day: Tensor

    def at(self, index: Tensor) -> Clock:
        return Clock(self.hour[index], self.weekday[index], self.day[index])

    @property
    def office(self) -> Tensor:
        return (self.hour >= OFFICE[0]) & (self.hour < OFFICE[1]) & (self.weekday < 5)


def memory() -> dict[str, tuple[tuple[int, ...], float]]:
    """What is remembered of a room: name -> shape and what stands there at first. All float64.

    `still` is for how many minutes its CO2 has not changed by a digit.
    """
    numbers = ("floor", "before", "still", "usual", "day", "time")
    return {
        **dict.fromkeys(numbers, ((), math.nan)),
        "averages": ((len(_AVERAGES),), math.nan),
        "levels": ((len(EDGES) + 1,), 0.0),
    }


def advance(
    known: Mapping[str, Tensor], time: Tensor, air: Mapping[str, Tensor], clock: Clock
) -> tuple[Tensor, dict[str, Tensor]]:
    """One minute of each of B rooms.

    Args:
        known: what is remembered of them, as `memory` says, `[B, ...] float64`.
        time: the minute, in minutes since any moment, `[B] float64`.
        air: each of `COLUMNS`, `[B] float64`; NaN where nothing is known.
        clock: the minute, where the rooms are.

    Returns:
        `FEATURES` `[B, F] float32`, NaN where nothing is known, and what to remember.
    """
    passed = (time - known["time"]).nan_to_num(1.0).clamp(0, 60)
    co2 = _valid(air["co2_mean"], air["co2"])
    vapour = 4.85 * torch.exp(0.0625 * air["temperature"]) * air["humidity"] / 100  # g of water in a m³ of air
    step = (co2 - known["before"]).abs().clamp(max=60.0)

    def averaged(now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = known["averages"][:, [_AVERAGED.index(name) for name in now]]
        minutes = before.new_tensor([_AVERAGES[name] for name in now])
        means = _average(before, torch.stack([*now.values()], 1), passed[:, None], minutes)
        return dict(zip(now, means.unbind(1), strict=True))

    others = {name: air[name] for name in ("temperature", "ventilation")}
    smooth = averaged({"co2": co2, "roughness": step, "vapour": vapour, **others})
    floor = torch.fmin(smooth["co2"], known["floor"] + RISE / 60 * passed)
    above = (co2 - floor).clamp(min=0)
    levels, usual = _usual(known, above, clock)
    level = (above / usual).clamp(max=5)
    smooth |= averaged({"past": level})

    angle = clock.hour / 24 * 2 * math.pi
    work = torch.sigmoid((clock.hour - 8.3) * 3) * torch.sigmoid((17.3 - clock.hour) * 2)
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
        "workday": work,
        "weekend": (clock.weekday >= 5).double(),
        "hour_sin": torch.sin(angle),
        "hour_cos": torch.cos(angle),
    }
    then = {
        "floor": floor,
        "before": torch.where(co2.isnan(), known["before"], co2),
        "still": torch.where(step == 0, known["still"].nan_to_num(0) + passed, 0.0),
        "usual": usual,
        "day": clock.day.double(),
        "time": time,
        "averages": torch.stack([smooth[n] for n in _AVERAGES], 1),
        "levels": levels,
    }
    return torch.stack([columns[n] for n in FEATURES], 1).float(), then


def _valid(mean: Tensor, last: Tensor) -> Tensor:
    """The minute's mean, or the last value where nothing came; NaN where the sensor must be wrong."""
    co2 = torch.where(mean.isnan(), last, mean)
    return torch.where(co2 >= LOWEST, co2, math.nan)


def _average(before: Tensor, now: Tensor, passed: Tensor, minutes: Tensor) -> Tensor:
    """The exponential mean, brought up to date; it begins with the first value, and stays where there is none."""
    moved = before + (now - before) * (1 - torch.exp(-passed / minutes))
    return torch.where(moved.isnan(), torch.where(before.isnan(), now, before), moved)


def _usual(known: Mapping[str, Tensor], above: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """The counts of each level in office hours, and the unit of CO2, which is settled anew each day."""
    edges = EDGES.to(above.device)
    fresh = known["levels"].sum(1, keepdim=True) == 0
    levels = torch.where(fresh, _prior().to(above.device), known["levels"])
    same = known["day"] == clock.day
    usual = known["usual"] if bool(same.all()) else torch.where(same, known["usual"], _quantile(levels, edges))
    counts = clock.office & ~above.isnan()
    kept = torch.where(counts, 0.5 ** (1 / HALF_LIFE), 1.0)
    bins = torch.bucketize(above.nan_to_num(0), edges, right=True)
    return (levels * kept[:, None]).scatter_add(1, bins[:, None], counts.double()[:, None]), usual


@cache
def _prior() -> Tensor:
    """Levels as in an average room: exponential, `USUAL` of them below `PRIOR`."""
    below = 1 - torch.exp(-EDGES * (-math.log(1 - USUAL) / PRIOR))
    return WEIGHT * torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))


def _quantile(levels: Tensor, edges: Tensor) -> Tensor:
    """The level `[B]`, ppm, below which `USUAL` of the counts `[B, edges + 1]` are; at least 20."""
    share = levels.cumsum(1) / levels.sum(1, keepdim=True)
    at = (share < USUAL).sum(1).clamp(max=len(edges) - 1)
    low = torch.cat([edges.new_zeros(1), edges])[at]
    before = torch.where(at > 0, share.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    reached = share.gather(1, at[:, None])[:, 0]
    within = ((USUAL - before) / (reached - before)).clamp(0, 1)
    return (low + (edges[at] - low) * within).clamp(min=20.0)
