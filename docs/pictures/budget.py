"""Where a budget looks closely, and what the close looks weigh."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tocsin.operators.budget import blend, least_sure, spread

HEIGHT, WIDTH, SIZE, COUNT = 36, 48, 10, 6


def draw(axes: Axes) -> None:
    rows, columns = spread(HEIGHT, SIZE), spread(WIDTH, SIZE)
    corners = torch.cartesian_prod(rows, columns)
    t = torch.linspace(0, 1, 200)
    crack = torch.stack([6 + 24 * t + 3 * torch.sin(9 * t), 8 + 30 * t], 1)  # what the coarse look half suspects
    middles = corners + SIZE / 2
    confidence = torch.cdist(middles, crack).amin(1)
    chosen = least_sure(confidence, COUNT)
    looks = torch.ones(COUNT, 1, SIZE, SIZE)
    weight = blend(torch.zeros(1, HEIGHT, WIDTH), looks, corners[chosen])[0]
    picture = axes.imshow(weight.numpy(), cmap="Blues", vmin=0, vmax=1, extent=(0, WIDTH, HEIGHT, 0))
    axes.plot(crack[:, 1].numpy(), crack[:, 0].numpy(), color="C3", linewidth=1.5)
    for number in chosen.tolist():
        y, x = corners[number].tolist()
        axes.add_patch(Rectangle((x, y), SIZE, SIZE, fill=False))
    axes.figure.colorbar(picture, ax=axes, label="share of the close looks")
    axes.set_xlabel("place")
    axes.set_ylabel("place")
    axes.set_title(f"{COUNT} of {len(corners)} patches, those of which the coarse look is least sure")
