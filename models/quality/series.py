"""Series of readings: what a site has recorded of one of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
GAP = 8
"""Usual intervals without a reading after which a series begins anew: a window across it is not clean."""
SHORTEST = 100
"""Readings of a series that is of use."""


@dataclass(frozen=True)
class Series:
    """Readings of one key, in the order of time.

    Attributes:
        key: its name.
        times: `[N] float64`, s, cycles or any other unit.
        values: `[N, C] float32`, NaN where missing.
        begins: `[K] int64`, the first reading of each stretch without a gap.
        channels: `[C]`, their names.
    """

    key: str
    times: NDArray[np.float64]
    values: Floats
    begins: NDArray[np.int64]
    channels: tuple[str, ...]

    @classmethod
    def of(cls, key: str, times: NDArray[np.float64], values: Floats, channels: Sequence[str] = ()) -> Self:
        """A series; a stretch ends before a pause of more than `GAP` intervals, or where time goes back.

        Args:
            channels: their names; by default s1, s2, ...
        """
        interval = np.diff(times)
        usual = float(np.median(interval)) if len(interval) else 0.0
        jumps = np.flatnonzero((interval > GAP * usual) | (interval < 0)) + 1
        names = tuple(channels) or tuple(f"s{number}" for number in range(1, values.shape[1] + 1))
        return cls(key, times, np.asarray(values, np.float32), np.concatenate([[0], jumps]).astype(np.int64), names)

    def __len__(self) -> int:
        return len(self.times)

    def begin(self, at: int) -> int:
        """The first reading of the stretch that holds reading `at`."""
        return int(self.begins[np.searchsorted(self.begins, at, side="right") - 1])
