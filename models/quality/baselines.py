"""The rules of thumb that people use: how far, how flat, how far out of range, and how much is missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.quality.cases import Cases

RULES = ("z-score", "flat line", "range")
GAPS = "gaps"


def scores(cases: Cases) -> dict[str, Tensor]:
    """How bad each window is, `[B]`, by each of `RULES` and `GAPS`; of the worst channel, each by its own memory.

    z-score: largest distance from the mean, in standard deviations. flat line: longest stretch of one value, readings. range:
    furthest beyond the lowest or highest reading, in units of their distance. gaps: the largest number of missing readings.
    """
    width = cases.windows.shape[-1]
    past, windows = cases.history.memory[..., :width], cases.windows[:, 1:]
    lost = windows.isnan()
    mean = past.nanmean(1, keepdim=True)
    deviation = (past - mean).square().nanmean(1, keepdim=True).sqrt().clamp(min=1e-9)
    low, high = (end.unsqueeze(1) for end in cases.history.limits.unbind(1))
    beyond = torch.maximum(windows - high, low - windows) / (high - low).clamp(min=1e-9)
    same = windows == cases.windows[:, :-1]
    at = torch.arange(windows.shape[1]).view(1, -1, 1)
    flat = at - torch.where(same, -1, at).cummax(1).values + 1
    interval = cases.history.memory[..., 2 * width].nanmedian(1).values
    skipped = (cases.times.diff(dim=1) / interval.unsqueeze(1) - 1).abs().amax(1)
    worst = {
        "z-score": ((windows - mean) / deviation).abs(),
        "flat line": torch.where(lost, 0.0, flat.float()),
        "range": beyond.clamp(min=0),
    }
    found = {name: values.nan_to_num(0.0).flatten(1).amax(1) for name, values in worst.items()}
    return {**found, GAPS: torch.maximum(lost.sum(1).amax(1).double(), skipped.nan_to_num(0.0))}


def together(found: Mapping[str, NDArray[np.float64]], clean: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The most suspicious of several rules, each as its rank among clean windows, and beyond them by its size."""
    ranks = []
    for values in found.values():
        known = np.sort(values[clean])
        top = known[-1] if len(known) else 0.0
        below = np.searchsorted(known, values, side="right") / max(len(known), 1)
        ranks.append(below + np.maximum(values - top, 0) / (1 + abs(top)))
    return np.max(ranks, axis=0)
