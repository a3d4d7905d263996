"""Intervals around a forecast: the network's quantiles, widened or narrowed until they hold the share that they should."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BANDS = 5
"""Bands of the forecast, in shares of its unit, the cloudless sky; each is calibrated apart."""
LEAST = 100
"""Hours that a band needs to be calibrated on its own."""


class Interval(nn.Module):
    """Conformalised quantiles (arXiv 1905.03222): an offset for each end and band, in the unit of the network.

    The offsets come from sites and days that the network was not trained on.
    """

    low: Tensor  # [BANDS], added to the lower end
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(BANDS))
        self.register_buffer("high", torch.zeros(BANDS))

    def fit(self, shares: Tensor, target: Tensor, *, coverage: float) -> None:
        """Calibrate on the forecast and both ends, `[N, 3]`, and the truth `[N]`, all in shares of the unit."""
        tail, at = (1 - coverage) / 2, band(shares[:, 0])
        for number in range(BANDS):
            inside = at == number
            if inside.sum() < LEAST:
                inside = torch.ones_like(inside)
            if not inside.any():
                continue
            self.low[number] = -_quantile((shares[:, 1] - target)[inside], 1 - tail)
            self.high[number] = _quantile((target - shares[:, 2])[inside], 1 - tail)

    def ends(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends, `[N]`, for `[N, 3]`; the forecast lies between them, and neither is below 0."""
        at, value = band(shares[:, 0]), shares[:, 0]
        low, high = shares[:, 1] + self.low[at], shares[:, 2] + self.high[at]
        return low.clamp(min=0).minimum(value), high.maximum(value)


def band(share: Tensor) -> Tensor:
    """The band of each forecast `[N]`, 0 to BANDS - 1."""
    return (share * BANDS).long().clamp(0, BANDS - 1)


def _quantile(scores: Tensor, share: float) -> float:
    """The conformal quantile: the least score that at least `share` of one more exchangeable score would not exceed."""
    rank = min(math.ceil((len(scores) + 1) * share), len(scores))
    return float(scores.kthvalue(rank).values)
