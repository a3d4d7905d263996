"""What an imputer has to beat: the last value, the mean of the window, the nearest neighbours, and linear interpolation.

The first three are causal: they see a row and those before it. Interpolation needs the next reading: it is for recordings only.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 20


def last_value(windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
    """The last known value of each column, `[B, C]`; arguments as of `Imputer`."""
    return carried


def window_mean(windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
    """The mean of each column's known values in the window, `[B, C]`; the last value where the window has none."""
    mean = windows.nanmean(1)
    return torch.where(mean.isnan(), carried, mean)


class Nearest:
    """k nearest neighbours: the mean of the rows that are nearest in the columns that are known; one without any is last value.

    Args:
        rows: `[N, C]`, standardised rows to choose from, NaN where missing.
    """

    def __init__(self, rows: Tensor) -> None:
        self._has, self._rows = ~rows.isnan(), rows.nan_to_num(0.0)

    def __call__(self, windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        row = windows[:, -1]
        known, row = (~row.isnan()).to(row), row.nan_to_num(0.0)
        has = self._has.to(row)
        shared = known @ has.T  # [B, N], columns that both know
        away = known * row.square() @ has.T - 2 * (known * row) @ self._rows.T + known @ self._rows.square().T
        away = torch.where(shared > 0, away / shared.clamp_min(1), torch.inf)
        filled = torch.empty_like(row)
        for c, column_has in enumerate(self._has.unbind(1)):
            distance, near = away.masked_fill(~column_has, torch.inf).topk(NEIGHBOURS, dim=1, largest=False)
            counts = distance.isfinite().to(row)
            mean = (self._rows[:, c][near] * counts).sum(1) / counts.sum(1).clamp_min(1)
            filled[:, c] = torch.where(counts.any(1), mean, carried[:, c])
        return filled


def interpolated(windows: Tensor, carried: Tensor) -> Tensor:
    """Windows `[B, T, C]` with each gap on the line between the readings beside it, or at the nearest one; offline only."""
    at = torch.arange(windows.shape[1]).unsqueeze(1).expand(windows.shape)
    known = ~windows.isnan()
    before = torch.where(known, at, -1).cummax(1).values
    after = torch.where(known, at, windows.shape[1]).flip(1).cummin(1).values.flip(1)
    low, high = (windows.gather(1, i.clamp(0, windows.shape[1] - 1)) for i in (before, after))
    has_low, has_high = before >= 0, after < windows.shape[1]
    line = low + (high - low) * ((at - before) / (after - before).clamp(min=1))
    nearest = torch.where(has_low, low, torch.where(has_high, high, carried.unsqueeze(1)))
    return torch.where(has_low & has_high, line, nearest)
