"""Which patches of a grid fill those of a sensor that has dropped out."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tocsin.operators.grid import grid_attention

SENSORS, TIMES, STEPS = 6, 40, 5
OUT = 20
"""The time from which sensor 2 is missing."""


def draw(axes: Axes) -> None:
    # Sensors 1 to 3 follow one wave, 4 to 6 another. The keys are the readings; the queries are what they ought to be.
    t = torch.linspace(0, 6.3, TIMES)
    waves = torch.stack([torch.sin(t + s / 9) if s < 3 else torch.cos(2 * t + s / 9) for s in range(SENSORS)])
    known = torch.ones(1, SENSORS, TIMES, dtype=torch.bool)
    known[0, 1, OUT:] = False
    count = SENSORS * TIMES // STEPS
    q = k = torch.nn.functional.pad(8 * waves.unsqueeze(-1), (0, count - 1))[None, None]
    patch = torch.arange(count).view(SENSORS, -1).repeat_interleave(STEPS, dim=1)
    weights = grid_attention(q, k, torch.eye(count)[patch][None, None], patch=(1, STEPS), known=known)[0, 0]
    seen = weights[1, -1]  # of each patch, by the last patch of sensor 2
    picture = axes.imshow(seen[patch].numpy(), aspect="auto", cmap="Blues", extent=(0, TIMES, SENSORS + 0.5, 0.5))
    axes.add_patch(Rectangle((OUT, 1.5), TIMES - OUT, 1, fill=False, hatch="//"))
    axes.figure.colorbar(picture, ax=axes, label="weight")
    axes.set_xlabel("time")
    axes.set_ylabel("sensor")
    axes.set_title("What the last patch of sensor 2 attends to (hatched: missing)")
