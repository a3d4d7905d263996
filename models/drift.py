"""Drift: how far readings are from being distributed as others were, such as a stream's from a model's training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 1000
"""Readings of a group that are compared at once, at least."""
SMALLEST = 1e-3
"""The smallest share of a bin. Without it, one reading in a bin that training never filled would be infinitely much."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The distribution of training readings, from which that of a stream may drift away.

    Readings are counted by group (such as an operating regime), stratum (such as a band of age) and bin. A stream may have the
    strata in other shares than training has, which is no drift. So it is compared with training readings of the same strata.

    Args:
        counts: `[G, A, C, B]`, of training readings by group, stratum, column and bin.
        groups, columns: their names, G and C.
        levels: number of assets -> the index from which readings of so many have drifted. Few assets differ by chance.
    """

    counts: NDArray[np.float64]
    groups: Sequence[str]
    columns: Sequence[str]
    levels: Mapping[int, float]

    def index(self, seen: NDArray[np.int64], least: int = LEAST) -> NDArray[np.float64]:
        """The population stability index of each group and column, `[G, C]`; NaN for groups with too few readings.

        Args:
            seen: `[G, A, C, B]`, of the stream's readings.
            least: how many readings of a group are enough.
        """
        trained = self.counts.sum(-1, keepdims=True)  # [G, A, C, 1]
        seen = np.where(trained > 0, seen, 0)
        total = seen.sum(-1, keepdims=True)
        expected = (total * self.counts / np.maximum(trained, 1)).sum(1)  # [G, C, B]
        found, readings = seen.sum(1), total.sum(1)
        expected, found = (np.maximum(part / np.maximum(readings, 1), SMALLEST) for part in (expected, found))
        index = ((found - expected) * np.log(found / expected)).sum(-1)
        return np.where(readings[..., 0] < least, np.nan, index)

    def level(self, assets: int) -> float | None:
        """The level for so many assets; None: too few to tell."""
        known = [number for number in self.levels if number <= assets]
        return self.levels[max(known)] if known else None
