"""The number of rows that a query of a stream attends to, with every latent kept and with old latents condensed."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.latent import LatentCache


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    window, tokens = 64, 512
    for group, colour in ((1, "tab:blue"), (4, "tab:green"), (16, "tab:orange")):
        cache, rows = LatentCache(group=group, window=window), []
        for _ in range(tokens):
            c, k = torch.randn(1, 1, 4), torch.randn(1, 1, 2)
            cache.step(c, k, c.unsqueeze(1), k.unsqueeze(1))
            rows.append(cache.groups + cache.tokens - cache.groups * group)
        axes.plot(rows, color=colour, label=f"groups of {group}" if group > 1 else "every latent")
    axes.axvline(window, color="grey", linestyle=":", label="window of 64")
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("rows that a query attends to")
    axes.legend(loc="upper left")
    axes.set_title("A stream's cache, condensed")
