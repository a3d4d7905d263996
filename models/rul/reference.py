"""How the sensors' readings were distributed in training: by operating regime and age, to notice when a stream drifts away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from tocsin.models.drift import LEAST, Distribution
from tocsin.models.rul.data import Lives
from tocsin.models.rul.scaling import Scaling

AGES, BINS = 5, 10
"""Bands of age, and bins of a reading."""
GROUPS = (5, 10, 20, 50)
"""Numbers of assets for which it is known how far so few differ from all others by chance."""
DRAWS, BEYOND, LOWEST = 20, 1.25, 0.25
"""So many assets have drifted if their index exceeds that of each of `DRAWS` random groups of training assets `BEYOND` times. It is
never less than `LOWEST`, the usual rule of thumb."""


class Reference(nn.Module):
    """The distribution of training readings; its buffers are stored with the weights.

    A stream of young assets reads otherwise than one of old assets, without any drift. So the distribution is kept by age.

    Args:
        regimes, features: numbers K and C.
    """

    ages: Tensor  # [AGES - 1], quantiles of the age
    edges: Tensor  # [K, C, BINS - 1], quantiles of each sensor in a regime
    counts: Tensor  # [K, AGES, C, BINS], training readings; all 0: there is no reference
    levels: Tensor  # [GROUPS], drift index from which so many assets have drifted; infinite: not known

    def __init__(self, *, regimes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("ages", torch.zeros(AGES - 1, dtype=torch.float64))
        self.register_buffer("edges", torch.zeros(regimes, features, BINS - 1, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(regimes, AGES, features, BINS))
        self.register_buffer("levels", torch.full((len(GROUPS),), torch.inf))

    @classmethod
    def fit(cls, lives: Lives, scaling: Scaling) -> Self:
        """Count the readings of training lives, and measure how far groups of them differ from the others."""
        reference, numbers = cls._counted(lives, scaling), torch.arange(len(lives.keys))
        for place, size in enumerate(GROUPS):
            if 2 * size > len(numbers):
                break
            indices = list[float]()
            for draw in range(DRAWS):
                drawn = torch.randperm(len(numbers))[:size]
                others = cls._counted(lives.of(numbers[~torch.isin(numbers, drawn)]), scaling)
                group = _at_once(lives.of(drawn), LEAST * len(scaling.mean), young=bool(draw % 2))
                seen = others.count(*_readings(group, scaling), group.age)
                distribution = others.distribution()
                assert distribution
                indices.append(float(np.nanmax(distribution.index(seen.numpy(), least=1))))
            reference.levels[place] = max(LOWEST, BEYOND * max(indices))
        return reference

    @classmethod
    def _counted(cls, lives: Lives, scaling: Scaling) -> Self:
        """Count the readings of lives."""
        regimes, features = scaling.mean.shape
        reference, (readings, regime) = cls(regimes=regimes, features=features), _readings(lives, scaling)
        reference.ages = lives.age.quantile(torch.linspace(0, 1, AGES + 1, dtype=torch.float64)[1:-1])
        shares = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1]
        for number in range(regimes):
            if (inside := regime == number).any():
                reference.edges[number] = readings[inside].quantile(shares, dim=0).T
        reference.counts = reference.count(readings, regime, lives.age).float()
        return reference

    def count(self, readings: Tensor, regime: Tensor, age: Tensor) -> Tensor:
        """Count readings `[B, C]` of regimes `[B]` at ages `[B]`: `[K, AGES, C, BINS] int64`."""
        bins = (readings.unsqueeze(-1) > self.edges[regime]).sum(-1)  # [B, C]
        cell = regime * AGES + torch.bucketize(age, self.ages)
        features = readings.shape[1]
        place = (cell.unsqueeze(1) * features + torch.arange(features)) * BINS + bins
        return torch.bincount(place.flatten(), minlength=self.counts.numel()).view(self.counts.shape)

    def distribution(self, columns: Sequence[str] = (), level: float | None = None) -> Distribution | None:
        """The reference as it is compared with a stream; None: there is none.

        Args:
            columns: names of the sensors.
            level: in place of those that training has found.
        """
        if not self.counts.any():
            return None
        regimes = len(self.counts)
        known = {size: float(at) for size, at in zip(GROUPS, self.levels, strict=True) if at < torch.inf}
        return Distribution(
            counts=self.counts.double().numpy(),
            groups=[f"regime {number}" for number in range(regimes)] if regimes > 1 else [""],
            columns=columns,
            levels=known if level is None else {1: level},
        )


def _at_once(lives: Lives, count: int, *, young: bool) -> Lives:
    """What a stream shows of assets in `count` readings: a part of each life, or the beginnings of all."""
    length = lives.last - lives.first + 1
    rows = -(-count // len(lives.keys))
    start = torch.zeros_like(length) if young else (torch.rand(len(length)) * (length - rows).clamp_min(0)).long()
    place = lives.place - start[lives.engine]
    return lives.where((place >= 0) & (place < rows))


def _readings(lives: Lives, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Readings `[R, C]` of lives, and their regimes `[R]`."""
    return lives.rows[:, scaling.spread.numel() :], scaling.regime(lives.rows)
