"""A simulated fleet that is washed, overhauled and run by a schedule: run-to-failure records with the intervals that changed them.

Engines and sensors are those of `fleet`. Wear follows a clock that the load drives: at load 2 a cycle wears as two cycles do. An
engine also fouls, which costs efficiency as its fault does. A wash removes most of the fouling; an overhaul removes all of it, and
most of the fault, but not what the engine was built with. So the sensors jump, and the engine lives longer.

All is planned from the start, without regard to an engine's wear: what is planned for later than its failure never happens. A share
of the engines has no plan: they run at load 1 until they fail.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tocsin.models.rul.simulation.fleet import GROWTH, Array, Engines, sensed

KINDS, NUMBERS = ("wash", "overhaul", "load"), ("load",)
"""The kinds of intervals, and the numbers that they have."""
PERIOD = timedelta(hours=6)
"""The event time of a cycle."""
START = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST = 800
"""Cycles for which there is a plan."""
UNPLANNED = 0.3
"""The share of engines without a plan."""
LOADS = (0.5, 0.8, 1.3, 2.0)
FOULED, FOULING = 0.25, 90.0
"""The loss by fouling that an engine tends to, and the cycles at load 1 in which it comes nearer by a factor e."""


@dataclass(frozen=True)
class Plan:
    """What is planned for an engine, by cycle.

    Attributes:
        load: `[LONGEST + 1]`, of each cycle, 1 where nothing is planned.
        washed, overhauled: `[LONGEST + 1]`, the share of the fouling that a wash before a cycle leaves, and of the fault that an
            overhaul leaves; 1: there is none.
    """

    load: Array
    washed: Array
    overhauled: Array

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Plan:
        """Draw the plan of an engine."""
        load, washed, overhauled = np.ones((3, LONGEST + 1))
        if rng.uniform() >= UNPLANNED:
            at = 1 + rng.integers(0, 60)
            while at < LONGEST:
                end = at + rng.integers(20, 70)
                load[at:end] = rng.choice(LOADS)
                at = end + rng.integers(0, 50)
            at = rng.integers(20, 80)
            while at < LONGEST:
                washed[at] = rng.uniform(0.1, 0.4)
                at += rng.integers(40, 90)
            at = rng.integers(70, 180)
            while at < LONGEST:
                overhauled[at] = rng.uniform(0.1, 0.3)
                at += rng.integers(130, 260)
        return cls(load, washed, overhauled)

    def table(self, unit: int, first: int, period: int) -> pl.DataFrame:
        """The intervals of the plan; a wash and an overhaul take place between two cycles.

        Args:
            first, period: cycle c is at the time `first + c * period`.

        Returns:
            `asset`, `kind`, `from`, `to`, `load`; the times in float64.
        """
        edges = np.flatnonzero(np.diff(self.load, prepend=1.0, append=1.0)).tolist()
        found: list[tuple[str, float, float, float | None]] = [
            ("load", a, b, float(self.load[a])) for a, b in pairwise(edges) if self.load[a] != 1
        ]
        for kind, left in (("wash", self.washed), ("overhaul", self.overhauled)):
            found += [(kind, at - 0.75, at - 0.25, None) for at in np.flatnonzero(left < 1).tolist()]
        schema = {"kind": pl.String, "from": pl.Float64, "to": pl.Float64, "load": pl.Float64}
        table = pl.DataFrame(sorted(found, key=lambda each: each[1:3]), schema=schema, orient="row")
        return table.select(pl.lit(str(unit)).alias("asset"), "kind", pl.col("from", "to") * period + first, "load")


class Fleet:
    """Engines that fly, with what wear has done to each so far; all fields `[N]`."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.engines = Engines.draw(count, rng)
        self.plans = [Plan.draw(rng) for _ in range(count)]
        self.clock, self.fault, self.fouling = np.zeros((3, count))
        self.cycle = np.zeros(count, np.int64)
        self._load, self._washed, self._overhauled = (
            np.stack([getattr(plan, name) for plan in self.plans]) for name in ("load", "washed", "overhauled")
        )

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Whether an engine's losses add up to what it can afford."""
        e = self.engines
        return e.efficiency + e.flow + self.fault + self.fouling >= 1

    def step(self) -> None:
        """Fly one more cycle."""
        self.cycle = self.cycle + 1  # not in place: frames share its memory
        rows, at = np.arange(len(self.cycle)), np.minimum(self.cycle, LONGEST)
        left = self._overhauled[rows, at]
        self.fault = self.fault * left
        self.fouling = np.where(left < 1, 0, self.fouling * self._washed[rows, at])
        load = self._load[rows, at]
        before = self.clock
        self.clock = before + load
        grown = np.clip(self.clock - np.maximum(self.engines.onset, before), 0, None)
        self.fault = (self.fault + GROWTH) * np.exp(grown / self.engines.pace) - GROWTH
        self.fouling = FOULED + (self.fouling - FOULED) * np.exp(-load / FOULING)

    def readings(self, units: NDArray[np.int64], times: NDArray[np.int64]) -> pl.DataFrame:
        """Read all sensors of each engine once.

        Args:
            units: `[N]`, copied to the output.
            times: `[N]`, of the readings, ms since the epoch.
        """
        e = self.engines
        efficiency = e.efficiency + self.fouling + (1 - e.flow_share) * self.fault
        values = sensed(efficiency, e.flow + e.flow_share * self.fault, self._rng)
        return pl.DataFrame({"unit": units, "cycle": self.cycle, "time": times, **values})

    def replace(self, which: NDArray[np.bool_]) -> None:
        """Put new engines in the place of some."""
        new = Fleet(int(which.sum()), self._rng)
        self.engines = self.engines.take(np.arange(len(which)))
        for field in fields(self.engines):
            getattr(self.engines, field.name)[which] = getattr(new.engines, field.name)
        for name in ("clock", "fault", "fouling", "cycle", "_load", "_washed", "_overhauled"):
            getattr(self, name)[which] = getattr(new, name)
        for number, plan in zip(np.flatnonzero(which).tolist(), new.plans, strict=True):
            self.plans[number] = plan


def run_to_failure(*, engines: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Simulate whole lives.

    Args:
        engines: number of engines, numbered from 1; they enter service one after another.
        seed: the same seed gives the same frames.

    Returns:
        The readings, engine after engine: `unit`, `cycle` (from 1) int64, `time` (ms since the epoch) int64, `setting1..3`,
        `s1..s21` float64. And the intervals of their plans: `asset` (text), `kind`, `from`, `to` (ms), `load` float64.
    """
    rng = np.random.default_rng(seed)
    fleet, units = Fleet(engines, rng), np.arange(1, engines + 1)
    period = PERIOD // timedelta(milliseconds=1)
    first = round(START.timestamp() * 1000) + rng.integers(0, 400, engines) * period
    flying, frames = np.ones(engines, bool), []
    while flying.any():
        fleet.step()
        frames.append(fleet.readings(units, first + fleet.cycle * period).filter(pl.Series(flying)))
        flying &= ~fleet.failed & (fleet.cycle < LONGEST)
    plans = [
        plan.table(unit, at, period) for unit, at, plan in zip(units.tolist(), first.tolist(), fleet.plans, strict=True)
    ]
    return pl.concat(frames).sort("unit", "cycle"), pl.concat(plans).with_columns(
        pl.col("from", "to").round().cast(pl.Int64)
    )


def live(*, engines: int, seed: int) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Fly a fleet forever, all engines one cycle at a time; they start with some cycles behind them.

    Yields:
        One frame per cycle with one row per engine, as in `run_to_failure` without `time`; and the plans of the engines that are
        new, with `from` and `to` in cycles of the fleet, from 0.
    """
    rng = np.random.default_rng(seed)
    fleet, units = Fleet(engines, rng), np.arange(1, engines + 1)
    behind, new = rng.integers(0, 100, engines), np.ones(engines, bool)
    for _ in range(100):
        before = copy.copy(fleet)
        fleet.step()
        stays = (behind == 0) | fleet.failed
        for name in ("clock", "fault", "fouling", "cycle"):
            setattr(fleet, name, np.where(stays, getattr(before, name), getattr(fleet, name)))
        behind = np.maximum(behind - 1, 0)
    for now in count():
        at = now - fleet.cycle
        plans = [fleet.plans[i].table(int(units[i]), int(at[i]) - 1, 1) for i in np.flatnonzero(new)]
        fleet.step()
        yield fleet.readings(units, at).drop("time"), pl.concat(plans) if plans else pl.DataFrame()
        new = fleet.failed | (fleet.cycle >= LONGEST)
        if new.any():
            units = np.where(new, units.max() + np.cumsum(new), units)
            fleet.replace(new)
