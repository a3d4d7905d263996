"""Readings of simulated halls over time: in each, a spot that no sensor watches grows past the hall's level."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl

from tocsin.models.field.hall import KINDS, Array, Hall
from tocsin.models.field.simulation.fields import Simulation
from tocsin.models.field.simulation.halls import halls

START_MS = 1_767_225_600_000
"""1 January 2026."""
MINUTE_MS, EVERY_MS = 60_000, 20_000
SEED, SENSORS = 77, 12
HALLS = 4
LEVELS = {"signal": -28.0, "temperature": 38.0}
STRONGEST = {"signal": 30.0, "temperature": 5.0}
"""How much of the spot there is in the end."""
BEGINS, FULL = 0.3, 0.8
"""Shares of the time at which a spot begins and is at its strongest."""


@cache
def usual_halls() -> list[Hall]:
    """The halls that the pipeline knows unless its options name others, with sensors and levels."""
    return [replace(hall, above=LEVELS[hall.kind]) for hall in halls(HALLS, SEED, sensors=SENSORS)]


def unwatched(hall: Hall) -> Array:
    """The place that is farthest from all sensors, but 1 m from the outline at least."""
    cells = hall.cells[hall.holds(hall.cells)]
    outline = hall.segments[hall.outer]
    along = outline[:, 2:] - outline[:, :2]
    share = ((cells[:, None] - outline[:, :2]) * along).sum(-1) / (along**2).sum(-1)
    foot = outline[:, :2] + np.clip(share, 0, 1)[..., None] * along
    inner = cells[(np.linalg.norm(cells[:, None] - foot, axis=-1) > 1).all(1)]
    apart = np.linalg.norm(inner[:, None] - hall.sensor_places, axis=-1).min(1)
    return np.asarray(inner[apart.argmax()])


def simulate(hall: Hall, *, minutes: int, seed: int, spot: bool = True) -> pl.DataFrame:
    """The readings of a hall's sensors, three a minute.

    Returns:
        `hall`, `sensor`, `time` (ms since 1970), `value`, in the order of time.
    """
    draw = np.random.default_rng([seed, *hall.name.encode()])
    simulation = Simulation(hall, draw, spot=unwatched(hall))
    names = [*hall.sensors]
    cells = np.linalg.norm(hall.cells - hall.sensor_places[:, None], axis=-1)
    cells[:, ~hall.holds(hall.cells)] = np.inf
    at, tables = cells.argmin(1), []
    for step in range(minutes * MINUTE_MS // EVERY_MS):
        time = step * EVERY_MS
        share = (time / (minutes * MINUTE_MS) - BEGINS) / (FULL - BEGINS)
        field = simulation.field(STRONGEST[hall.kind] * float(np.clip(share, 0, 1)) * spot)
        values = field[at] + draw.normal(0, KINDS[hall.kind].noise, len(names))
        lag = draw.integers(0, EVERY_MS, len(names))
        tables.append(pl.DataFrame({"sensor": names, "time": START_MS + time + lag, "value": values.round(2)}))
    return pl.concat(tables).select(pl.lit(hall.name).alias("hall"), "sensor", "time", "value").sort("time", "sensor")
