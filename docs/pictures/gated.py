"""The outputs that attention over three fixed values can reach, without and with a gate."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.gated import gated_attention


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    values = torch.tensor([[-1.0, -0.6], [1.0, -0.6], [0.0, 1.0]])
    q, gate = torch.randn(2, 1, 1, 1500, 2)
    k, v = 2 * values.view(1, 1, 3, 2), values.view(1, 1, 3, 2)
    for name, logits, colour in (("gated", gate * 3, "tab:orange"), ("plain", gate + 60, "tab:blue")):
        x, y = gated_attention(2 * q, k, v, logits)[0, 0].unbind(-1)
        axes.scatter(x, y, s=4, color=colour, label=name)
    axes.scatter(*values.unbind(-1), color="black", marker="^", label="values")
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Outputs of attention over three values")
