"""A scene of sensors and a ray, the same scene turned and moved, and the points that a block computes from both."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.geometric import GeometricBlock, motion, moved, point, position, ray

SENSORS = 7


def draw(axes: Axes) -> None:
    torch.manual_seed(3)
    places, along = torch.rand(1, SENSORS, 3) * 2, torch.tensor([[[1.0, 0.4, 0.0]]])
    places[..., 2] = 0
    tokens = torch.zeros(1, SENSORS, 4, 16)
    tokens[:, :, 0], tokens[:, :1, 1] = point(places), ray(places[:, :1], along)
    block, located = GeometricBlock(channels=4, scalars=4, heads=2), torch.ones(1, SENSORS, dtype=torch.bool)
    by = motion(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1.2), torch.tensor([4.5, -0.5, 0.0]))
    for name, colour, x in (("a scene", "tab:blue", tokens), ("turned and moved", "tab:orange", moved(tokens, by))):
        at = position(x[:, :, 0])
        out, _ = block(x, torch.zeros(1, SENSORS, 4), at, located)
        found = position(out[:, :, 0]).detach()
        axes.plot(at[0, :, 0], at[0, :, 1], "o", color=colour, label=name)
        axes.plot(found[0, :, 0], found[0, :, 1], "x", color=colour, label="its output points")
        for start, end in zip(at[0], found[0], strict=True):
            axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=0.6)
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("What is computed turns with the scene")
