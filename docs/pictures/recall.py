"""A sensor that drifts away from what the other two recall."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.recall import recall_attention

ROWS, REMEMBERED, ONSET = 160, 96, 110


def draw(axes: Axes) -> None:
    generator = torch.Generator().manual_seed(2)
    at = torch.arange(ROWS)
    load = (at / 9).sin() + 0.4 * (at / 23).cos()
    rows = torch.stack([load, 0.8 * load, load.square() - 0.5], -1) + 0.05 * torch.randn(ROWS, 3, generator=generator)
    rows[ONSET:, 1] += torch.linspace(0, 2.5, ROWS - ONSET)
    known = torch.ones(1, ROWS, 3, dtype=torch.bool)
    recalled = recall_attention(rows[None], rows[None, :REMEMBERED], known, known[:, :REMEMBERED], temperature=0.05)[0][
        0
    ]
    axes.axvspan(0, REMEMBERED, alpha=0.1, color="grey", label="remembered")
    axes.plot(at, rows[:, 0], linewidth=0.8, color="grey", label="sensor 1")
    axes.plot(at, rows[:, 1], label="sensor 2")
    axes.plot(at, recalled[:, 1], linestyle="--", label="sensor 2, recalled from 1 and 3")
    axes.axvline(ONSET, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("reading")
    axes.legend(loc="upper left", ncols=2)
    axes.set_ylim(-2, 4.5)
    axes.set_title("Sensor 2 drifts from the dotted line on")
