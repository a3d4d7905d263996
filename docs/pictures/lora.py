"""A network that learned one site's curve, another site's curve, and what a small adapter makes of a few of its points."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from tocsin.operators.lora import Adapters, adaptable

POINTS = 12


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 200)[:, None]
    network = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    learn(network, x, x.sin())
    adapters = Adapters(network, adaptable(network, share=0.05))
    own = (x + 0.7).sin() * 1.2 + 0.4  # its sensor is shifted, and reads more
    few = torch.linspace(10, 190, POINTS).long()
    learn(adapters, torch.zeros(POINTS, dtype=torch.int64), own[few], x[few])
    size = sum(p.numel() for p in adapters.values.values()) / sum(p.numel() for p in network.parameters())
    axes.plot(x, network(x).detach(), color="grey", label="shared network")
    axes.plot(x, own, color="black", linestyle=":", label="another site")
    axes.plot(x[few], own[few], "o", color="black", markersize=4, label=f"{POINTS} points of it")
    adapted = adapters(torch.zeros(len(x), dtype=torch.int64), x).detach()
    axes.plot(x, adapted, color="tab:orange", label=f"with an adapter of {size:.1%}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel("reading")
    axes.set_title("A site's own adapter")


def learn(network: nn.Module, first: Tensor, target: Tensor, *more: Tensor) -> None:
    """Fit by 400 steps."""
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (network(first, *more) - target).square().mean().backward()
        optimizer.step()
