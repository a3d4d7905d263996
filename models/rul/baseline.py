"""What a RUL model has to beat: one number for all rows, and the age alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tocsin.models.rul.data import Lives
from tocsin.models.rul.interval import BEYOND


def trivial(known: Lives, age: Tensor, *, cap: float) -> Tensor:
    """What lives that failed say of rows of an age `[N] float64`: their mean RUL, and their mean RUL at that age, `[N, 2] float32`.

    All is capped, and NaN if none failed. The mean is over the rows that are judged. Of the mean at an age: lives that were over by
    then do not count; where all were, it is the least RUL of any.
    """
    judged = known.rul[known.rul <= BEYOND * cap].clamp(max=cap)
    return torch.stack([judged.mean().expand(len(age)), _by_age(known, age, cap)], dim=1)


def _by_age(known: Lives, age: Tensor, cap: float) -> Tensor:
    curves = []
    for first, last in zip(known.first[known.failed].tolist(), known.last[known.failed].tolist(), strict=True):
        ages, left = known.age[first : last + 1].numpy(), known.rul[first : last + 1].clamp(max=cap).numpy()
        curves.append(np.interp(age.numpy(), ages, left, right=np.nan))
    if not curves:
        return torch.full((len(age),), torch.nan)
    table = np.stack(curves)
    alive = ~np.isnan(table)
    mean = np.where(alive, table, 0).sum(0) / np.maximum(alive.sum(0), 1)
    least = float(known.rul[~known.rul.isnan()].clamp(max=cap).min())
    return torch.tensor(np.where(alive.any(0), mean, least), dtype=torch.float32)
