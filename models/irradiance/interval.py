"""Intervals around a forecast: the network's quantiles, widened or narrowed until they hold the share that they should."""

from __future__ import annotations

import torch
from torch import Tensor

from tocsin.models.conformal import BANDS, LEAST, Offsets, band, quantile


class Interval(Offsets):
    """Conformalised quantiles (arXiv 1905.03222): an offset for each end and band, in the unit of the network.

    The offsets come from sites and days that the network was not trained on.
    """

    def fit(self, shares: Tensor, target: Tensor, *, coverage: float) -> None:
        """Calibrate on the forecast and both ends, `[N, 3]`, and the truth `[N]`, all in shares of the unit."""
        tail, at = (1 - coverage) / 2, band(shares[:, 0])
        for number in range(BANDS):
            inside = at == number
            if inside.sum() < LEAST:
                inside = torch.ones_like(inside)
            if not inside.any():
                continue
            self.low[number] = -quantile((shares[:, 1] - target)[inside], 1 - tail)
            self.high[number] = quantile((target - shares[:, 2])[inside], 1 - tail)

    def ends(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends, `[N]`, for `[N, 3]`; the forecast lies between them, and neither is below 0."""
        at, value = band(shares[:, 0]), shares[:, 0]
        low, high = shares[:, 1] + self.low[at], shares[:, 2] + self.high[at]
        return low.clamp(min=0).minimum(value), high.maximum(value)
