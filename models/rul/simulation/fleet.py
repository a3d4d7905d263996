"""A simulated turbofan fleet that wears out: run-to-failure records with known remaining life, for use without NASA's data.

Each engine leaves the factory slightly different. Its high-pressure compressor loses efficiency and flow at its own
pace. A loss is a fraction of what the engine can afford; the engine fails in the cycle in which its losses add up to 1.
After the onset of a fault, losses grow exponentially, because the fault feeds on itself. Engines differ in the share of
flow loss. Flow loss speeds the core up; efficiency loss slows it down. Sensors respond linearly at one operating
condition, take-off at sea level, and carry white noise.

The constants below are this project's own calibration to the aggregate statistics of the C-MAPSS FD001 training engines
(levels, slopes, noise, distribution of life); no record of that data set is contained or reproduced.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[np.float64]

GROWTH = 0.05  # size of a fault at its onset, as a fraction of the loss at which an engine fails
SETTINGS = {"setting1": (0.0, 0.0022, 4), "setting2": (0.0, 0.0003, 4), "setting3": (100.0, 0.0, 1)}
"""Altitude, Mach number, throttle resolver angle: mean, standard deviation, decimals."""

# Level when healthy, change at total efficiency loss, change at total flow loss, noise (standard deviation), decimals.
SENSORS = {
    "s1": (518.67, 0.0, 0.0, 0.0, 2),  # T2, fan inlet temperature [deg R]
    "s2": (642.38, 1.26, 1.36, 0.30, 2),  # T24, LPC outlet temperature [deg R]
    "s3": (1586.8, 13.7, 18.5, 4.0, 2),  # T30, HPC outlet temperature [deg R]
    "s4": (1402.8, 25.7, 26.9, 4.0, 2),  # T50, LPT outlet temperature [deg R]
    "s5": (14.62, 0.0, 0.0, 0.0, 2),  # P2, fan inlet pressure [psia]
    "s6": (21.61, 0.0, 0.0, 0.002, 2),  # P15, bypass duct pressure [psia]
    "s7": (553.95, -2.66, -2.15, 0.41, 2),  # P30, HPC outlet pressure [psia]
    "s8": (2388.06, 0.24, 0.046, 0.030, 2),  # Nf, fan speed [rpm]
    "s9": (9056.0, -20.7, 154.0, 4.2, 2),  # Nc, core speed [rpm]
    "s10": (1.30, 0.0, 0.0, 0.0, 2),  # epr, engine pressure ratio P50/P2
    "s11": (47.35, 0.81, 0.76, 0.10, 2),  # Ps30, HPC outlet static pressure [psia]
    "s12": (521.91, -2.29, -1.77, 0.30, 2),  # phi, fuel flow over Ps30 [pps/psi]
    "s13": (2388.06, 0.24, 0.046, 0.030, 2),  # NRf, corrected fan speed [rpm]
    "s14": (8137.4, -26.7, 130.0, 3.1, 2),  # NRc, corrected core speed [rpm]
    "s15": (8.418, 0.100, 0.109, 0.020, 4),  # BPR, bypass ratio
    "s16": (0.03, 0.0, 0.0, 0.0, 2),  # farB, burner fuel-air ratio
    "s17": (392.26, 3.6, 4.9, 0.90, 0),  # htBleed, bleed enthalpy
    "s18": (2388.0, 0.0, 0.0, 0.0, 0),  # Nf_dmd, demanded fan speed [rpm]
    "s19": (100.0, 0.0, 0.0, 0.0, 1),  # PCNfR_dmd, demanded corrected fan speed [%]
    "s20": (38.93, -0.475, -0.513, 0.10, 2),  # W31, HPT coolant bleed [lbm/s]
    "s21": (23.36, -0.284, -0.312, 0.060, 4),  # W32, LPT coolant bleed [lbm/s]
}
LEVEL, EFFICIENCY_EFFECT, FLOW_EFFECT, NOISE, DECIMALS = (
    np.array(column) for column in zip(*SENSORS.values(), strict=True)
)


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Parameters of each engine; every field is an array `[N]`.

    Attributes:
        efficiency, flow: loss when new (initial wear and manufacturing variation); negative is better than average.
        flow_share: share of flow loss in the loss that the fault adds, in [0, 1].
        onset: cycle at which the fault starts.
        pace: cycles in which the fault grows by a factor e.
        life: cycles until failure, int64; the engine fails in this cycle.
    """

    efficiency: Array
    flow: Array
    flow_share: Array
    onset: Array
    pace: Array
    life: NDArray[np.int64]

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Self:
        """Draw `count` engines from the fleet's distribution."""
        flow_share = rng.uniform(size=count) ** 2
        efficiency, flow = 0.18 * _normal(count, rng), 0.034 * _normal(count, rng)
        onset = np.maximum(16 + 64 * flow_share + 11 * _normal(count, rng), 0)
        pace = np.exp(4.06 - 0.25 * flow_share + 0.24 * _normal(count, rng))
        life = np.ceil(onset + pace * np.log1p((1 - efficiency - flow) / GROWTH)).astype(np.int64)
        return cls(efficiency=efficiency, flow=flow, flow_share=flow_share, onset=onset, pace=pace, life=life)

    def take(self, index: NDArray[np.int64]) -> Self:
        """Return the engines at `index`, repeated where `index` repeats."""
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def readings(self, unit: NDArray[np.int64], cycle: NDArray[np.int64], rng: np.random.Generator) -> pl.DataFrame:
        """Read all sensors of each engine once, at `cycle` `[N]` (from 1); `unit` `[N]` is copied to the output."""
        fault = GROWTH * np.expm1(np.maximum(cycle - self.onset, 0) / self.pace)
        efficiency = self.efficiency + (1 - self.flow_share) * fault
        flow = self.flow + self.flow_share * fault
        values = sensed(efficiency, flow, rng)
        return pl.DataFrame({"unit": unit, "cycle": cycle, **values, "rul": self.life - cycle})


def sensed(efficiency: Array, flow: Array, rng: np.random.Generator) -> dict[str, Array]:
    """The settings and sensors of engines with these losses `[N]`, by name."""
    values = LEVEL + np.outer(efficiency, EFFICIENCY_EFFECT) + np.outer(flow, FLOW_EFFECT)
    values += NOISE * rng.standard_normal(values.shape)
    settings = {
        name: (mean + spread * rng.standard_normal(len(values))).round(decimals)
        for name, (mean, spread, decimals) in SETTINGS.items()
    }
    return settings | {name: values[:, i].round(DECIMALS[i]) for i, name in enumerate(SENSORS)}


def run_to_failure(*, engines: int, seed: int) -> pl.DataFrame:
    """Simulate whole lives, engine after engine.

    Args:
        engines: number of engines, numbered from 1.
        seed: the same seed gives the same frame.

    Returns:
        `unit`, `cycle` (from 1), `rul` (remaining cycles, 0 in the last row) int64; `setting1..3`, `s1..s21` float64.
    """
    rng = np.random.default_rng(seed)
    fleet = Engines.draw(engines, rng)
    index = np.repeat(np.arange(engines), fleet.life)
    cycle = np.concatenate([np.arange(1, life + 1) for life in fleet.life])
    return fleet.take(index).readings(index + 1, cycle, rng)


def live(*, engines: int, seed: int, soonest: int = 40) -> Iterator[pl.DataFrame]:
    """Fly a fleet forever, all engines one cycle at a time.

    The fleet starts staggered: remaining lives are spread evenly from `soonest` cycles to a full life, in random order.
    In the cycle after a failure, a new engine with the next unit number replaces the failed one.

    Args:
        engines: engines in the air at any time.
        seed: the same seed gives the same frames.
        soonest: cycles until the first failure; more than a window, or that engine fails before its first prediction.

    Yields:
        One frame per cycle with one row per engine, columns as in `run_to_failure`.
    """
    rng = np.random.default_rng(seed)
    fleet = Engines.draw(engines, rng)
    spread = rng.permutation(np.linspace(0, 1, engines, endpoint=False))
    remaining = np.minimum(soonest, fleet.life) + np.floor(spread * np.maximum(fleet.life - soonest, 0))
    cycle = fleet.life - remaining.astype(np.int64) + 1
    unit = np.arange(1, engines + 1)
    while True:
        yield fleet.readings(unit, cycle, rng)
        failed = cycle == fleet.life
        cycle = np.where(failed, 1, cycle + 1)
        if count := int(failed.sum()):
            unit = unit.copy()  # the yielded frame may share its memory
            unit[failed] = unit.max() + np.arange(1, count + 1)
            new = Engines.draw(count, rng)
            for field in fields(fleet):
                getattr(fleet, field.name)[failed] = getattr(new, field.name)


def _normal(count: int, rng: np.random.Generator) -> Array:
    """Standard normal, clipped at 2.5; engines beyond that would not pass inspection."""
    return np.clip(rng.standard_normal(count), -2.5, 2.5)
