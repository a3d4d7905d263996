"""Arrays of counts by name, which are summed over steps, windows and shards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Tallies = dict[str, NDArray[np.int64]]


def add(sums: Tallies, more: Mapping[str, NDArray[np.int64]]) -> None:
    """Add arrays of counts to those of the same names."""
    for name, counts in more.items():
        sums[name] = sums[name] + counts if name in sums else counts
