"""The weights with which the bands of fading attention see the steps before."""

from __future__ import annotations

import math

import torch
from matplotlib.axes import Axes

from tocsin.operators.fading import fading_attention

SPANS = (2, 10, 50, math.inf)


def draw(axes: Axes) -> None:
    steps = 200
    # One sequence for each step, in which that step alone is 1: its last bands are its weights.
    bands, _ = fading_attention(torch.eye(steps).unsqueeze(-1), SPANS)
    for m, span in enumerate(SPANS):
        axes.plot(
            range(steps), bands[:, -1, m, 0].flip(0).tolist(), label=f"span {span:g}" if span < math.inf else "older"
        )
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1)
    axes.set_xlabel("age of a step")
    axes.set_ylabel("weight")
    axes.legend(loc="upper right")
    axes.set_title("What each band sees of 200 steps")
