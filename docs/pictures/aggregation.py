"""Tokens in a plane, and the few aggregates that represent them."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.aggregation import aggregate


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    middles = torch.tensor([[2.0, 0.3], [1.2, 1.6], [-1.0, 1.8], [-2.0, -0.4], [-0.5, -1.8], [1.3, -1.5]])
    counts = torch.tensor([220, 120, 70, 40, 30, 20])
    x = middles.repeat_interleave(counts, dim=0)
    x = (x + 0.16 * torch.randn_like(x))[torch.randperm(len(x))]
    tokens, masses, centres = aggregate(x[None], 6, oversample=16, neighbours=2, hard=True, restore_norm=False)
    axes.scatter(*x.T, s=3, color="tab:blue", label="500 tokens")
    axes.scatter(*x[centres[0]].T, s=30, facecolors="none", edgecolors="black", label="centres")
    axes.scatter(*tokens[0].T, s=20 + masses[0], color="tab:orange", alpha=0.7, label="aggregates, by mass")
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Six tokens that stand for all")
