"""What readings usually are, by operating regime: an imputer works in standard deviations from there."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from tocsin.operators.regimes import regime_statistics

LIMIT = 10.0
"""Standard deviations to which a reading is limited, so that a single wrong one does not spoil a window."""


class Levels(nn.Module):
    """Mean and standard deviation of each column in each regime; its buffers are stored with the weights.

    Args:
        mean, deviation: `[K, C]`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.double())
        self.register_buffer("deviation", deviation.double())

    @classmethod
    def blank(cls, *, regimes: int, columns: int) -> Self:
        """Levels to load stored ones into."""
        return cls(torch.zeros(regimes, columns), torch.ones(regimes, columns))

    @classmethod
    def fit(cls, rows: Tensor, regime: Tensor | None = None, regimes: int = 1) -> Self:
        """The levels of rows `[N, C]`, NaN where missing, whose regimes are `[N] int64`. A column without a reading has mean 0.

        Missing readings are allowed with one regime only.
        """
        if regime is not None and regimes > 1:
            return cls(*regime_statistics(rows.double(), regime, regimes))
        mean = rows.double().nanmean(0)
        deviation = (rows - mean).square().nanmean(0).sqrt().nan_to_num(1.0)
        return cls(mean.nan_to_num(0.0)[None], torch.where(deviation > 1e-6, deviation, 1.0)[None])

    def regime(self, rows: Tensor) -> Tensor:
        """The regime of each row `[..., C]`, `[...] int64`: the one that its known columns are nearest to."""
        if len(self.mean) == 1:
            return torch.zeros(rows.shape[:-1], dtype=torch.int64, device=rows.device)
        away = ((rows.unsqueeze(-2) - self.mean) / self.deviation).clamp(-LIMIT, LIMIT).square()  # [..., K, C]
        return away.nan_to_num(0.0).sum(-1).argmin(-1)

    def standardise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[..., C]` as standardised `[..., C] float32`, NaN where missing, and their regimes `[...]`."""
        regime = self.regime(rows)
        return ((rows - self.mean[regime]) / self.deviation[regime]).clamp(-LIMIT, LIMIT).float(), regime

    def restore(self, values: Tensor, regime: Tensor) -> Tensor:
        """The readings `[..., C] float64` of standardised values in their regimes."""
        return values.double() * self.deviation[regime] + self.mean[regime]
