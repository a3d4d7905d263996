"""A frame of a wall, and where the shipped model finds damage in it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tocsin.models.damage.frames import CELL
from tocsin.models.damage.model import load
from tocsin.models.damage.simulation.watch import Watch

SEED, SIZE = 10, (544, 960)


def draw(axes: Axes) -> None:
    *_, picture = Watch(SEED, frames=2, begins=0, ends=1, size=SIZE)
    model = load(device="cpu")
    found = model(picture)
    axes.imshow(picture, extent=(0, SIZE[1], SIZE[0], 0))
    heat = np.ma.masked_less(found.places.max(0), 0.2)
    axes.imshow(heat, cmap="autumn_r", alpha=0.6, vmin=0.2, vmax=1, extent=(0, SIZE[1], SIZE[0], 0))
    plan = model.plan(SIZE)
    for y, x in plan.corners.tolist():
        scale = CELL * SIZE[0] / (plan.size[0] * plan.finer)
        side = [scale * n for n in plan.side]
        axes.add_patch(
            Rectangle((scale * x, scale * y), side[1], side[0], fill=False, edgecolor="white", linewidth=0.3)
        )
    axes.set_axis_off()
    axes.set_title(f"{found.kind}, {found.score:.2f}; {found.looks[0]} of {found.looks[1]} patches looked at closely")
