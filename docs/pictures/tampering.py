"""A simulated camera with a spliced-in region, the map of the shipped model, and the score over time."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tocsin.models.tampering.footage import sent
from tocsin.models.tampering.measures import SIZE
from tocsin.models.tampering.model import load
from tocsin.models.tampering.simulation.attacks import attacked
from tocsin.models.tampering.simulation.camera import Camera

BEGIN, END, SHOWN = 60, 85, 75


def draw(axes: Axes) -> None:
    model = load()
    frames, other = [*Camera(seed=4, frames=END, size=SIZE, things=2)], [*Camera(seed=5, frames=30, size=SIZE)]
    done = attacked("splice", np.random.default_rng(6), frames, BEGIN, END, other)
    pictures = [sent(picture, 90) for picture in done.frames]
    verdict = model.watch(pictures)
    axes.imshow(pictures[SHOWN], extent=(0, SIZE[1], SIZE[0], 0))
    heat = np.ma.masked_less(verdict.places[SHOWN].numpy(), 0.3)
    axes.imshow(heat, cmap="autumn_r", alpha=0.55, vmin=0.3, vmax=1, extent=(0, SIZE[1], SIZE[0], 0))
    axes.set_axis_off()
    before = verdict.score[model.config.warm : BEGIN].max()
    axes.set_title(
        f"spliced, taken for {model.kinds[int(verdict.kind[SHOWN])]}: score {verdict.score[SHOWN]:.2f}; at most {before:.2f} before"
    )
