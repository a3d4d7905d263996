"""Histograms of a room's own past, from which its units are read as quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Histogram:
    """Counts of a quantity in bins of equal ratio, with forgetting.

    Args:
        low, high: edges of the first and the last inner bin, in the quantity's unit. Values outside count in two outer bins.
        bins: number of inner bins.
        share: of the counts below the quantile that is read.
        half_life: counts after which a count weighs half.
        prior: the quantile of a room without history.
        weight: of the prior, in counts.
    """

    low: float
    high: float
    bins: int
    share: float
    half_life: float
    prior: float
    weight: float

    @cached_property
    def edges(self) -> Tensor:
        return torch.logspace(math.log10(self.low), math.log10(self.high), self.bins + 1, dtype=torch.float64)

    @property
    def size(self) -> int:
        """The number of counts that a room stores."""
        return self.bins + 2

    @cached_property
    def _prior(self) -> Tensor:
        """The prior's counts: an exponential distribution with the prior's quantile."""
        below = 1 - torch.exp(self.edges * (math.log(1 - self.share) / self.prior))
        return self.weight * torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))

    def add(self, counts: Tensor, values: Tensor, counted: Tensor) -> Tensor:
        """Add one value `[B]` to the counts `[B, size]` of the rooms `counted` `[B] bool`. Empty counts begin as the prior."""
        fresh = counts.sum(1, keepdim=True) == 0
        counts = torch.where(fresh, self._prior.to(counts.device), counts)
        decay = torch.where(counted, 0.5 ** (1 / self.half_life), 1.0)
        bins = torch.bucketize(values.nan_to_num(0), self.edges.to(counts.device), right=True)
        return (counts * decay[:, None]).scatter_add(1, bins[:, None], counted.double()[:, None])

    def quantile(self, counts: Tensor) -> Tensor:
        """The quantile `[B]` of counts `[B, size]`; linear within a bin, at most `high`."""
        fresh = counts.sum(1, keepdim=True) == 0
        edges = self.edges.to(counts.device)
        counts = torch.where(fresh, self._prior.to(counts.device), counts)
        below = counts.cumsum(1) / counts.sum(1, keepdim=True)
        at = (below < self.share).sum(1).clamp(max=len(edges) - 1)
        low = torch.cat([edges.new_zeros(1), edges])[at]
        before = torch.where(at > 0, below.gather(1, (at - 1).clamp(min=0)[:, None])[:, 0], 0.0)
        reached = below.gather(1, at[:, None])[:, 0]
        within = ((self.share - before) / (reached - before)).clamp(0, 1)
        return low + (edges[at] - low) * within
