"""Intervals around a prediction: the network's quantiles, widened or narrowed until they hold the share that they should."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from tocsin.models.conformal import BANDS, LEAST, Offsets, band, quantile

BEYOND = 1.2
"""Rows up to this share of the cap are judged and calibrated: longer lives are all alike and would hide errors near failure."""


class Interval(Offsets):
    """Conformalised quantiles: offsets of both ends, by band of the predicted RUL.

    Source: conformalised quantile regression (arXiv 1905.03222), with an offset for each end and band. The offsets come from keys
    that the network was not trained on. Rows of one life are missed together. So where the lives are too few for a quantile over
    lives, each end holds its share of the rows of each single one. Without any, the interval is all from 0 to the cap.

    Args:
        cap: largest RUL.
    """

    def __init__(self, *, cap: float) -> None:
        super().__init__()
        self.cap = cap

    @classmethod
    def fit(cls, shares: Tensor, target: Tensor, *, life: Tensor, cap: float, coverage: float) -> Self:
        """Calibrate on predictions `[N, 3]` of rows of the lives `[N] int64` with the RUL `[N]`, NaN where it is not known.

        Rows with a RUL above `BEYOND` of the cap do not count: longer lives are all alike and easy to hold.
        """
        near = target <= BEYOND * cap
        interval, shares, life, target = cls(cap=cap), shares[near], life[near], target[near].clamp(max=cap)
        if not len(target):
            interval.low.fill_(-math.inf)
            interval.high.fill_(math.inf)
            return interval
        lives = len(life.unique())
        rul, low, high = interval.ends(shares)
        tail = (1 - coverage) / 2
        few = math.ceil((lives + 1) * (1 - tail)) > lives
        for number in range(BANDS):
            inside = band(rul / cap) == number
            if inside.sum() < LEAST or (few and len(life[inside].unique()) < lives):
                inside = torch.ones_like(inside)
            parts = [inside & (life == one) for one in life.unique()] if few else [inside]
            interval.low[number] = -max(quantile((low - target)[part], 1 - tail) for part in parts)
            interval.high[number] = max(quantile((target - high)[part], 1 - tail) for part in parts)
        return interval

    def ends(self, shares: Tensor, offsets: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """RUL, lower and upper end, each `[N]` in `[0, cap]`, of a network's prediction `[N, 3]`. The RUL lies between the ends.

        Args:
            offsets: `low` and `high`, `[N, BANDS]`, of each row; None: the interval's own.
        """
        rul = shares[:, 0] * self.cap
        at = band(shares[:, 0])
        if offsets is None:
            below, above = self.low[at], self.high[at]
        else:
            below, above = (offsets[name].gather(1, at[:, None])[:, 0] for name in ("low", "high"))
        low, high = rul - shares[:, 1] * self.cap + below, rul + shares[:, 2] * self.cap + above
        rul = rul.clamp(0, self.cap)
        return rul, low.clamp(min=0).minimum(rul), high.clamp(max=self.cap).maximum(rul)
