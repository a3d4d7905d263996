"""Explanations with each prediction: which sensors at which age added cycles to it, or took cycles from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tocsin.models.rul.network import Inputs, Network
from tocsin.models.training import Optimization

HIDDEN, LATENT = 128, 32
POINTS = 16
"""Points of the path along which gradients are integrated."""
UNITS = 1000
"""A map's unit is the cap divided by this."""


class Explainer(nn.Module):
    """A latent explanation predictor: an encoder and a decoder that reconstruct a network's attribution map from its input.

    Source: IMPACTX (arXiv 2502.12222): explanations at inference without an explainer, learned from attributions over the training
    data. This project's choices: integrated gradients as attributions, and training after the network, so that the prediction does
    not depend on it.

    Args:
        steps, channels: sizes L and C of the map.
    """

    def __init__(self, *, steps: int, channels: int) -> None:
        super().__init__()
        size = steps * channels
        self.shape = (steps, channels)
        self.encode = nn.Sequential(nn.Linear(size + 3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LATENT))
        self.decode = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size))

    def forward(self, inputs: Inputs) -> Tensor:
        """The map, `[B, L, C]`, as shares of the cap; 0 where there is no row."""
        seen = torch.cat([inputs.steps.flatten(1), inputs.age], dim=1)
        return self.decode(self.encode(seen)).unflatten(1, self.shape) * inputs.mask.unsqueeze(-1)

    def fit(self, inputs: Inputs, maps: Tensor, *, epochs: int = 40, batch: int = 256) -> None:
        """Learn the maps `[N, L, C]` of a network's inputs."""
        optimization = Optimization(
            self, steps=epochs * -(-len(maps) // batch), learning_rate=2e-3, weight_decay=1e-4, schedule="cosine"
        )
        scale = maps.std()
        for _ in range(epochs):
            for index in torch.randperm(len(maps)).split(batch):
                found = self(Inputs(*(part[index] for part in inputs)))
                optimization.step(((found - maps[index]) / scale).square().mean())
        self.eval().requires_grad_(False)


def integrated_gradients(network: Network, inputs: Inputs, *, batch: int = 512) -> Tensor:
    """How much each value of the input moved the prediction from that of an average reading: `[N, L, C]`, shares of the cap.

    The sum over a map is the prediction less the one for readings at their mean, at the same age.
    Source: integrated gradients (arXiv 1703.01365) by the midpoint rule with `POINTS` points.
    """
    maps = []
    for index in torch.arange(len(inputs.steps)).split(batch):
        part = Inputs(*(tensor[index] for tensor in inputs))
        total = torch.zeros_like(part.steps)
        for point in range(POINTS):
            steps = (part.steps * ((point + 0.5) / POINTS)).requires_grad_()
            (gradient,) = torch.autograd.grad(network(part._replace(steps=steps))[:, 0].sum(), steps)
            total += gradient
        maps.append(part.steps * total / POINTS)
    return torch.cat(maps)
