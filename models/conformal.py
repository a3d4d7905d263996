"""What intervals have in common that are calibrated by band: offsets of both ends, and their conformal quantiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BANDS = 5
"""Bands of a prediction, in shares of its unit; each is calibrated apart."""
LEAST = 100
"""Rows that a band needs to be calibrated on its own."""


class Offsets(nn.Module):
    """Offsets of both ends of an interval, by band of the prediction; 0 until they are fitted."""

    low: Tensor  # [BANDS], added to the lower end
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(BANDS))
        self.register_buffer("high", torch.zeros(BANDS))


def band(share: Tensor) -> Tensor:
    """The band of each prediction `[N]`, in shares of its unit: 0 to BANDS - 1."""
    return (share * BANDS).long().clamp(0, BANDS - 1)


def quantile(scores: Tensor, share: float) -> float:
    """The conformal quantile: the least score that at least `share` of one more exchangeable score would not exceed."""
    rank = min(math.ceil((len(scores) + 1) * share), len(scores))
    return float(scores.kthvalue(rank).values)
