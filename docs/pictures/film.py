"""What an instance's gate lets through: tokens that attend to the same features, at several scales."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.film import film_attention

SCALES = (0.0, 0.25, 0.5, 1.0)


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    angle = torch.linspace(0, 2 * torch.pi, 25)[:-1]
    tokens = torch.stack([angle.cos(), angle.sin()], dim=-1).expand(1, 1, -1, -1)
    features = torch.tensor([[2.0, 0.6], [2.2, -0.4], [-1.8, 1.2]]).view(1, 1, 3, 2)
    for number, scale in enumerate(SCALES):
        gate = torch.full((1, 1, 2), scale)
        out = film_attention(tokens, 2 * tokens, features, features, gate, torch.zeros(1, 1, 2))[0, 0]
        ring = torch.cat([out, out[:1]])
        axes.plot(*ring.unbind(-1), color=f"C{number}", marker=".", label=f"scale {scale:g}")
    axes.scatter(*features[0, 0].unbind(-1), color="black", marker="^", label="features")
    axes.set_aspect("equal")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Tokens behind a gate")
