"""Interpolation without a network: nearest sensor, inverse distances, with walls in the way or without, and a Gaussian process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLOSEST = 1e-3
"""Distance below which no weight rises, in the unit of the places."""
LENGTHS = (0.15, 0.27, 0.5, 0.9, 1.65, 3.0)
NOISES = (0.003, 0.03, 0.1, 0.5)
"""Lengths of the Gaussian process in the unit of the places, and shares of noise, among which each hall gets the likeliest."""


def nearest(places: Tensor, sensors: Tensor, readings: Tensor, there: Tensor) -> Tensor:
    """The reading of the nearest sensor, `[B, N]`. Arguments as in `inverse_distance`."""
    apart = torch.cdist(places, sensors).masked_fill(~there.unsqueeze(1), torch.inf)
    return readings.gather(1, apart.argmin(-1))


def inverse_distance(
    places: Tensor,
    sensors: Tensor,
    readings: Tensor,
    there: Tensor,
    *,
    power: float,
    blocked: Tensor | None = None,
) -> Tensor:
    """The mean of the readings, weighted by the inverse of their distances to a power.

    Args:
        places, sensors: `[B, N, 2]` and `[B, M, 2]`.
        readings: `[B, M]`.
        there: `[B, M] bool`, which sensors are there; one at least.
        blocked: `[B, N, M]`, length that is added for the walls in the way.

    Returns:
        `[B, N]`.
    """
    apart = torch.cdist(places, sensors)
    if blocked is not None:
        apart = apart + blocked
    weights = apart.clamp(min=CLOSEST) ** -power * there.unsqueeze(1)
    return (weights * torch.where(there, readings, 0.0).unsqueeze(1)).sum(-1) / weights.sum(-1)


def kriging(places: Tensor, sensors: Tensor, readings: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """A Gaussian process with a Matern kernel (3/2) and a constant mean, as weights of the readings.

    Each hall has the length and share of noise of the greatest likelihood; mean and amplitude follow from them.

    Returns:
        Weights `[B, N, M]`, whose sum is 1 for each place: the estimate is `weights @ readings`. And the standard deviation
        `[B, N]`. Both in the type of `readings`; computed in float64.
    """
    given = torch.where(there, readings, 0.0).double()
    apart, reach = torch.cdist(sensors.double(), sensors.double()), torch.cdist(places.double(), sensors.double())
    pairs, eye = there.unsqueeze(2) & there.unsqueeze(1), torch.eye(there.shape[1]).to(given)
    one, count = there.to(given).unsqueeze(-1), there.sum(1)

    def rooted(length: Tensor, noise: Tensor) -> Tensor:
        kernel = _matern(apart / length[:, None, None]) + eye * noise[:, None, None]
        return torch.linalg.cholesky(torch.where(pairs, kernel, eye))

    def solved(root: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the mean `[B, M]`, and the amplitude `[B]`."""
        inverse = torch.cholesky_solve(one, root).squeeze(-1)
        weights = inverse / inverse.sum(1, keepdim=True)
        rest = (given - (weights * given).sum(1, keepdim=True)).unsqueeze(-1) * one
        return weights, ((rest * torch.cholesky_solve(rest, root)).sum((1, 2)) / count).clamp(min=1e-6)

    best = torch.full_like(given[:, 0], -torch.inf)
    length, noise = torch.ones_like(best), torch.ones_like(best)
    for tried in LENGTHS:
        for share in NOISES:
            root = rooted(torch.full_like(best, tried), torch.full_like(best, share))
            _, amplitude = solved(root)
            likelihood = -0.5 * count * amplitude.log() - root.diagonal(dim1=1, dim2=2).log().sum(1)
            better = likelihood > best
            best = torch.where(better, likelihood, best)
            length, noise = torch.where(better, tried, length), torch.where(better, share, noise)
    root = rooted(length, noise)
    mean, amplitude = solved(root)
    near = _matern(reach / length[:, None, None]) * there.unsqueeze(1)  # [B, N, M]
    weights = torch.cholesky_solve(near.transpose(1, 2), root).transpose(1, 2)
    known = (near * weights).sum(-1)
    weights = weights + (1 - weights.sum(-1, keepdim=True)) * mean.unsqueeze(1)
    spread = (amplitude.unsqueeze(1) * (1 - known).clamp(min=1e-6)).sqrt()
    return weights.to(readings.dtype), spread.to(readings.dtype)


def _matern(apart: Tensor) -> Tensor:
    scaled = math.sqrt(3) * apart
    return (1 + scaled) * torch.exp(-scaled)
