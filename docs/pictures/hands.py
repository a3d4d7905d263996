"""The similarity of each position of a grid to one marked position, by their sine embeddings."""

from __future__ import annotations

import torch.nn.functional as F
from matplotlib.axes import Axes

from tocsin.operators.hands import sine_positions


def draw(axes: Axes) -> None:
    positions = sine_positions(14, 14, 64)
    alike = F.cosine_similarity(positions, positions[6 * 14 + 4], dim=-1)
    picture = axes.imshow(alike.view(14, 14), cmap="viridis")
    axes.plot(4, 6, marker="+", color="white")
    axes.figure.colorbar(picture, ax=axes, label="cosine")
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.set_title("Positions of a grid: how like the marked one")
