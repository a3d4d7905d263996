"""A simulated sensor that switches between six regimes, normalised over all regimes and per regime, and its trend."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.regimes import decompose, regime_statistics


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    steps = 300
    regime = torch.randint(6, (steps,))
    wear = 4 * torch.linspace(0, 1, steps).square()
    x = (500 + 40 * torch.randn(6)[regime] + (0.5 + torch.rand(6)[regime]) * (wear + torch.randn(steps)))[:, None]
    everywhere = torch.zeros_like(regime)
    for labels, count, colour, name in (
        (everywhere, 1, "lightgrey", "over all"),
        (regime, 6, "tab:blue", "a regime at a time"),
    ):
        mean, deviation = regime_statistics(x, labels, count)
        out = decompose(x[None], labels[None], mean, deviation, keep=0.95)
        axes.plot((out.trend + out.residual)[0, :, 0], ".", markersize=3, color=colour, label=f"normalised {name}")
    axes.plot(out.trend[0, :, 0], color="tab:orange", label="its trend")
    axes.plot((wear - wear.mean()) / 1.5, color="black", linewidth=0.8, linestyle=":", label="wear, scaled")
    axes.set_xlabel("cycle")
    axes.set_ylabel("standard deviations")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("A sensor in six regimes")
