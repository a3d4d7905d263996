"""Histograms of a room's own past, from which its units are read as quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    def edges(self) -> Array:
        return np.geomspace(self.low, self.high, self.bins + 1)

    @property
    def size(self) -> int:
        """The number of counts that a room stores."""
        return self.bins + 2

    @cached_property
    def _prior(self) -> Array:
        """The prior's counts: an exponential distribution with the prior's quantile."""
        below = 1 - np.exp(self.edges * (math.log(1 - self.share) / self.prior))
        return self.weight * np.diff(below, prepend=0.0, append=1.0)

    def add(self, counts: Array, values: Array, counted: NDArray[np.bool_]) -> Array:
        """Add one value `[B]` to the counts `[B, size]` of the rooms `counted` `[B]`. Empty counts begin as the prior."""
        counts = self._begun(counts)
        which = counted.nonzero()[0]
        counts[which] *= 0.5 ** (1 / self.half_life)
        counts[which, np.searchsorted(self.edges, values[which], side="right")] += 1
        return counts

    def quantile(self, counts: Array) -> Array:
        """The quantile `[B]` of counts `[B, size]`; linear within a bin, at most `high`."""
        counts = self._begun(counts)
        below = counts.cumsum(1) / counts.sum(1, keepdims=True)
        at = np.minimum((below < self.share).sum(1), self.bins)
        rooms = np.arange(len(counts))
        low = np.where(at > 0, self.edges[at - 1], 0.0)
        before = np.where(at > 0, below[rooms, at - 1], 0.0)
        within = np.clip((self.share - before) / (below[rooms, at] - before), 0, 1)
        return low + (self.edges[at] - low) * within

    def _begun(self, counts: Array) -> Array:
        return np.where(counts.sum(1, keepdims=True) == 0, self._prior, counts)
