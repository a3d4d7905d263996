"""The weights that attention pooling gives to a quiet window with one step that stands out."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.pooling import additive_attention


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    level = 0.15 * torch.randn(30)
    level[19:22] += torch.tensor([1.0, 2.0, 1.0])
    _, weights = additive_attention(level.view(1, 30, 1), torch.ones(1, 1), torch.tensor([-1.0]), torch.tensor([2.0]))
    axes.bar(range(30), weights[0].tolist(), color="tab:orange", label="weight")
    axes.set_xlabel("step")
    axes.set_ylabel("weight")
    beside = axes.twinx()
    beside.plot(level.tolist(), color="tab:blue", label="input")
    beside.set_ylabel("input")
    axes.set_title("Weights of attention pooling: they sum to 1 and follow what stands out")
