"""Simulated weather sites anywhere on earth: cloud regimes, fronts that announce themselves, dirt and obstacles, all known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tocsin.models.irradiance import sun
from tocsin.models.irradiance.data import COLUMNS

Array = NDArray[np.float64]

STEP_MS, DAY_MS = 600_000, 86_400_000
BLOCK = 256  # steps of noise that are made at once
"""The simulation's step is ten minutes."""
START_MS = 1_546_300_800_000
"""1 January 2019."""
CLEAR, CIRRUS, SCATTERED, BROKEN, OVERCAST = range(5)
CLEARNESS = np.array([1.0, 0.86, 0.82, 0.55, 0.24])
SPREAD = np.array([0.004, 0.05, 0.16, 0.22, 0.07])
STAYS = np.array([16.0, 7.0, 5.0, 5.0, 9.0])
"""Clearness of each regime, its standard deviation over time, and how long the regime stays, h."""
NEXT = np.array(
    [
        [0.0, 0.45, 0.5, 0.05, 0.0],
        [0.3, 0.0, 0.2, 0.1, 0.4],
        [0.55, 0.1, 0.0, 0.3, 0.05],
        [0.1, 0.1, 0.45, 0.0, 0.35],
        [0.05, 0.05, 0.2, 0.7, 0.0],
    ]
)
"""Which regime follows: cirrus comes before a front, broken clouds after it."""


@dataclass(frozen=True)
class Obstacle:
    """Takes a share of the direct light while the sun is between two azimuths and below an elevation, degrees, from a day on."""

    first: float
    last: float
    below: float
    share: float
    day: int


@dataclass(frozen=True)
class Dirt:
    """Dims the sensor by `rate` more each day from day `begin` on, until it is washed on day `end`."""

    rate: float
    begin: int
    end: int

    def lost(self, day: Array) -> Array:
        """The share of the light that is lost, by the day."""
        return np.where((day >= self.begin) & (day < self.end), np.clip(self.rate * (day - self.begin), 0, 0.6), 0)


@dataclass(frozen=True)
class Site:
    """A site, its climate, and what is wrong with its sensor.

    Args:
        dry: 0 to 1, how often it is clear.
        aerosol: optical depth at sea level, which the pipeline does not know.
    """

    name: str
    latitude: float
    longitude: float
    elevation: float
    dry: float
    aerosol: float
    dirt: Dirt | None = None
    obstacle: Obstacle | None = None

    @classmethod
    def drawn(cls, name: str, draw: np.random.Generator) -> Site:
        """A site between 60 S and 65 N."""
        return cls(
            name,
            latitude=float(np.degrees(np.arcsin(draw.uniform(np.sin(np.radians(-60)), np.sin(np.radians(65)))))),
            longitude=float(draw.uniform(-180, 180)),
            elevation=float(min(draw.exponential(500), 3000)),
            dry=float(draw.uniform(0, 1)),
            aerosol=float(draw.uniform(0.04, 0.25)),
        )

    def faulty(self, kind: str, draw: np.random.Generator, days: int) -> Site:
        """The site with `soiling` or `shading` that begins after a third of the days at the latest."""
        begin = int(draw.integers(30, max(days // 3, 31)))
        if kind == "soiling":
            return replace(
                self, dirt=Dirt(float(draw.uniform(0.003, 0.008)), begin, begin + int(draw.integers(30, 60)))
            )
        south = 180.0 if self.latitude > 0 else 0.0
        middle = south + float(draw.choice([-1, 1]) * draw.uniform(15, 60))
        wide = float(draw.uniform(12, 20))
        return replace(self, obstacle=Obstacle(middle - wide, middle + wide, 90.0, float(draw.uniform(0.6, 1)), begin))


def sites(count: int, seed: int) -> list[Site]:
    """Sites without faults."""
    draw = np.random.default_rng([seed, 1])
    return [Site.drawn(f"sim-{number:03d}", draw) for number in range(count)]


def simulate(site: Site, *, days: int, seed: int, minutes: int = 60, averaged: bool = True) -> pl.DataFrame:
    """The readings of a site.

    Args:
        minutes: between readings; a multiple of ten.
        averaged: readings are means of the time before; else they are instants.

    Returns:
        `COLUMNS`, as from the readers.
    """
    draw = np.random.default_rng([seed, *site.name.encode()])
    count = days * DAY_MS // STEP_MS
    time = START_MS + STEP_MS * np.arange(1, count + 1, dtype=np.float64)
    day = (time - START_MS) / DAY_MS
    at = [np.full(count, value) for value in (site.latitude, site.longitude, site.elevation)]
    clouds, coming = _clouds(site, count, draw)
    air = _air(site, time, clouds, coming, draw)
    season = 1 + 0.3 * np.sin(2 * np.pi * (time / DAY_MS / 365.25 + draw.uniform()))
    haze = site.aerosol * season * np.exp(0.3 * _wander(count, 5 * 144, draw))
    middle = sun.position(time - STEP_MS / 2, at[0], at[1])
    water = sun.water(air["temperature"], air["humidity"], at[2]) * np.exp(0.1 * _wander(count, 3 * 144, draw))
    sky = sun.clear_sky(middle, at[2], water, haze)
    beam = np.clip((clouds - 0.3) / 0.7, 0, 1) ** 1.5
    direct = sky.dni * beam
    ghi = sky.ghi * clouds
    diffuse = np.maximum(ghi - direct * middle.height, 0)
    seen = ghi
    if (obstacle := site.obstacle) is not None:
        ahead = np.mod(middle.azimuth - obstacle.first, 360) < obstacle.last - obstacle.first
        behind = ahead & (middle.elevation < obstacle.below) & (day >= obstacle.day)
        seen = seen - np.where(behind, obstacle.share, 0) * direct * middle.height
    if site.dirt is not None:
        seen = seen * (1 - site.dirt.lost(day))
    seen = np.maximum(seen * (1 + 0.003 * draw.standard_normal(count)), 0)
    table = pl.DataFrame({"time": time.astype(np.int64), "ghi": seen, "dni": direct, "dhi": diffuse, **air})
    every = minutes * 60_000
    last = pl.col("time") % every == 0
    if averaged:
        grouped = table.group_by((-(-pl.col("time") // every)).alias("step"), maintain_order=True)
        table = grouped.agg(pl.col("ghi", "dni", "dhi").mean(), pl.col("time", *air).last())
    table = table.filter(last).with_columns(pl.col("ghi", "dni", "dhi").round(1), pl.col(*air).round(2))
    constants: dict[str, Any] = {name: float(getattr(site, name)) for name in ("latitude", "longitude", "elevation")}
    constants |= {"site": site.name, "averaged": float(minutes if averaged else 0)}
    return table.with_columns(pl.lit(value).alias(name) for name, value in constants.items()).select(COLUMNS)


def _clouds(site: Site, count: int, draw: np.random.Generator) -> tuple[Array, Array]:
    """The clearness of each step, and how much of an overcast regime lies within the next six hours, 0 to 1."""
    stays = STAYS * np.array([0.5 + 1.8 * site.dry, 1, 1, 1, 1.6 - 1.2 * site.dry])
    regime, at, now = np.empty(count, np.int64), 0, int(draw.integers(5))
    while at < count:
        length = max(int(draw.exponential(stays[now]) * 6), 3)
        regime[at : at + length] = now
        at, now = at + length, int(draw.choice(5, p=NEXT[now]))
    mean = np.convolve(np.pad(CLEARNESS[regime], 2, mode="edge"), np.ones(5) / 5, mode="valid")
    clearness = mean + SPREAD[regime] * (0.7 * _wander(count, 9, draw) + 0.7 * _wander(count, 2, draw))
    overcast = np.concatenate([(regime == OVERCAST).astype(float), np.zeros(36)])
    coming = np.convolve(overcast, np.ones(36) / 36, mode="full")[35 : 35 + count]
    return np.clip(clearness, 0.05, 1.25), coming


def _air(site: Site, time: Array, clouds: Array, coming: Array, draw: np.random.Generator) -> dict[str, Array]:
    """Temperature, humidity and dew point. The dew point rises before a front."""
    count = len(time)
    year = 2 * np.pi * (time / DAY_MS / 365.2425 - 0.55)
    solar = 2 * np.pi * (time / DAY_MS + site.longitude / 360 - 0.62)
    north = 1 if site.latitude > 0 else -1
    middle = 27 - 0.45 * abs(site.latitude) - 0.0065 * site.elevation
    swings = 0.25 * abs(site.latitude) * north * np.cos(year) + (3 + 5 * site.dry) * np.cos(solar) * (
        0.4 + 0.6 * clouds
    )
    temperature = middle + swings + 2.5 * _wander(count, 3 * 144, draw)
    dew = middle - 3 - 12 * site.dry + 0.2 * abs(site.latitude) * north * np.cos(year)
    dew = dew + 4 * coming + 2 * _wander(count, 2 * 144, draw)
    dew = np.minimum(dew, temperature - 0.3)
    humidity = 100 * np.exp(17.625 * dew / (243.04 + dew) - 17.625 * temperature / (243.04 + temperature))
    return {"temperature": temperature, "humidity": np.clip(humidity, 1, 100), "dew_point": dew}


def _wander(count: int, constant: float, draw: np.random.Generator) -> Array:
    """Noise with a standard deviation of 1 that is remembered over `constant` steps."""
    keep = np.exp(-1 / constant)
    noise = draw.standard_normal(-(-count // BLOCK) * BLOCK) * np.sqrt(1 - keep**2)
    noise[0] /= np.sqrt(1 - keep**2)
    age = np.arange(BLOCK)[:, None] - np.arange(BLOCK)
    within = noise.reshape(-1, BLOCK) @ np.where(age >= 0, keep ** np.maximum(age, 0), 0).T
    fading, before = keep ** np.arange(1, BLOCK + 1), 0.0
    for block in within:
        block += before * fading
        before = block[-1]
    return np.asarray(within.ravel()[:count])
