"""A simulated hall with about the usual gain: the field, and estimates by inverse distances and by the shipped model."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tocsin.models.field.evaluate import IDW, baselines
from tocsin.models.field.hall import COLUMNS, KINDS, ROWS
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import load
from tocsin.models.field.simulation.fields import Simulation
from tocsin.models.field.simulation.halls import halls

NUMBER, SEED = 4, 31
GAP = 2.0


def draw(axes: Axes) -> None:
    hall = halls(NUMBER + 1, SEED, sensors=12)[NUMBER]
    draw = np.random.default_rng(SEED)
    field, inside = Simulation(hall, draw).field(), hall.holds(hall.cells)
    nearest = np.linalg.norm(hall.cells - hall.sensor_places[:, None], axis=-1).argmin(1)
    readings = field[nearest] + draw.normal(0, KINDS[hall.kind].noise, len(nearest))
    inputs, model = Inputs.of([hall], [hall.sensor_places], [readings], [hall.cells[inside]]), load(device="cpu")
    maps = {"the field": field[inside]}
    maps["inverse distances"] = baselines(inputs, model.config.power)[IDW][0].numpy()
    maps["estimate"] = model(inputs)[0][0].numpy()
    low, high = float(np.nanmin(field)), float(np.nanmax(field))
    width, height = hall.size
    for at, (name, values) in enumerate(maps.items()):
        full, left = np.full(len(inside), np.nan), at * (width + GAP)
        full[inside] = values
        wrong = "" if name == "the field" else f"\nRMSE {np.sqrt(((values - field[inside]) ** 2).mean()):.1f}"
        shown = axes.imshow(
            full.reshape(ROWS, COLUMNS), origin="lower", extent=(left, left + width, 0, height), vmin=low, vmax=high
        )
        for a, b, c, d in hall.segments:
            axes.plot([a + left, c + left], [b, d], color="black", linewidth=1.5)
        axes.plot(
            *(hall.sensor_places + np.array([left, 0])).T, "o", color="white", markeredgecolor="black", markersize=4
        )
        axes.text(left + width / 2, height * 1.04, name + wrong, ha="center")
    axes.set_xlim(-GAP / 2, 3 * (width + GAP) - GAP / 2)
    axes.set_ylim(-GAP / 2, height * 1.4)
    axes.set_axis_off()
    axes.figure.colorbar(shown, ax=axes, shrink=0.6, label=KINDS[hall.kind].unit)
