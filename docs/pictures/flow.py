"""A flow that knows half of a turn, and what one pass of the attention makes of it."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.flow import flow_attention, warp

SIDE, ROWS, EVERY = 48, 24, 3


def draw(axes: Axes) -> None:
    generator = torch.Generator().manual_seed(1)
    scene = torch.randn(1, 24, ROWS, SIDE, generator=generator)
    scene = torch.nn.functional.avg_pool2d(scene, 3, 1, 1)
    scene = scene / scene.norm(dim=1, keepdim=True)
    y, x = torch.meshgrid(torch.arange(ROWS) - ROWS / 2, torch.arange(SIDE) - SIDE / 2, indexing="ij")
    true = torch.stack([-0.12 * y, 0.12 * x])[None]
    # What is at p of the second picture is at p - true of the first, as good as.
    found = flow_attention(scene, warp(scene, -true), true / 2, radius=2, scale=25.0).flow
    at = (slice(EVERY, ROWS - EVERY, EVERY), slice(EVERY, SIDE - EVERY, EVERY))
    columns, rows = x[at] + SIDE / 2, y[at] + ROWS / 2
    for flow, colour, width, label in (
        (true, "lightgrey", 0.007, "true flow"),
        (true / 2, "tab:orange", 0.003, "before"),
        (found, "tab:blue", 0.003, "after"),
    ):
        u, v = (part[at] for part in flow[0])
        axes.quiver(columns, rows, u, v, angles="xy", scale_units="xy", scale=1, color=colour, width=width, label=label)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("place")
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.15))
    axes.set_title("A turn of which half is known")
