"""What depthwise kernels of three sizes see of lines of three widths."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.scales import multi_scale

WIDTHS, SIZES, LENGTH = (1, 3, 6), (3, 5, 7), 60


def draw(axes: Axes) -> None:
    x = torch.zeros(1, 1, 1, LENGTH)
    for number, width in enumerate(WIDTHS):
        x[..., 8 + 20 * number : 8 + 20 * number + width] = 1.0
    kernels = []
    for size in SIZES:  # the middle against both sides
        middle = torch.zeros(size)
        middle[size // 2 - size // 4 : size // 2 + size // 4 + 1] = 1.0
        row = middle / middle.sum() - (1 - middle) / (1 - middle).sum()
        kernels.append(torch.zeros(size, size).index_fill(0, torch.tensor(size // 2), 1.0) * row)
    seen = multi_scale(x, [kernel[None] for kernel in kernels])[0, :, 0]
    axes.fill_between(range(LENGTH), x[0, 0, 0].numpy(), step="mid", color="0.85", label="lines")
    for size, line in zip(SIZES, seen, strict=True):
        axes.plot(range(LENGTH), line.numpy(), label=f"{size} x {size}")
    axes.set_xlabel("pixel")
    axes.set_ylabel("response")
    axes.legend(loc="upper right")
    axes.set_title("Lines 1, 3 and 6 pixels wide, and what each size of kernel sees of them")
