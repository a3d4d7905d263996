"""Scenes: the field of a hall at known places, from which sensors and places are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tocsin.models.field.hall import KINDS, Array, Hall
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.simulation.fields import Simulation
from tocsin.models.field.simulation.halls import halls, spread

SENSORS = (6, 12, 24)
"""Numbers of sensors that are judged."""


@dataclass(frozen=True)
class Scene:
    """A field.

    Args:
        places, values: `[n, 2]` and `[n]`, all known.
        noise: standard deviation that a sensor adds to a value; 0: values are readings.
    """

    hall: Hall
    places: Array
    values: Array
    noise: float


class Drawn(NamedTuple):
    """Inputs, and the truth at their places, `[B, N]`; NaN for padding."""

    inputs: Inputs
    truth: Tensor


def simulated(count: int, seed: int, *, fields: int = 1) -> list[Scene]:
    """Scenes of so many simulated halls, both kinds in turn, with so many fields each."""
    scenes = []
    for number, hall in enumerate(halls(count, seed)):
        inside = hall.holds(hall.cells)
        for each in range(fields):
            draw = np.random.default_rng([seed, number, each])
            field = Simulation(hall, draw).field(spot=float(draw.choice([0.0, draw.uniform()])))
            scenes.append(Scene(hall, hall.cells[inside], field[inside], KINDS[hall.kind].noise))
    return scenes


def draw(scenes: Sequence[Scene], sensors: Sequence[int], places: int, rng: np.random.Generator) -> Drawn:
    """Draw sensors and places that have none from each scene.

    Args:
        sensors: how many in each scene; at least one place stays without.
        places: at most so many in each.
    """
    at, readings, asked, truth = [], [], [], []
    for scene, count in zip(scenes, sensors, strict=True):
        every = np.arange(len(scene.places))
        chosen = spread(scene.places, every, min(count, len(every) - 1), rng)
        rest = np.setdiff1d(every, chosen)
        hidden = rng.choice(rest, min(places, len(rest)), replace=False)
        at.append(scene.places[chosen])
        readings.append(scene.values[chosen] + rng.normal(0, 1, len(chosen)) * scene.noise)
        asked.append(scene.places[hidden])
        truth.append(scene.values[hidden])
    known = np.full((len(truth), max(map(len, truth))), np.nan)
    for row, values in zip(known, truth, strict=True):
        row[: len(values)] = values
    return Drawn(Inputs.of([scene.hall for scene in scenes], at, readings, asked), torch.from_numpy(known))
