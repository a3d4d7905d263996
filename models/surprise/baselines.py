"""Baselines for the predictor: frame scores that ignore motion, and alerts at a fixed pace that ignore the frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tocsin.models.surprise.train import Footage

NEIGHBOURS = 5
BANK = 2000
"""Frames in the kNN memory."""


def difference(clip: Footage) -> Tensor:
    """The mean absolute change of brightness from frame to frame, `[T]`."""
    light = clip.shades.float()
    return torch.cat([torch.zeros(1), (light[1:] - light[:-1]).abs().mean((1, 2))])


def bank(clips: Sequence[Footage], *, seed: int = 0) -> Tensor:
    """Pooled tokens of at most `BANK` random frames of the training clips, `[M, D]`, for `nearest`."""
    pooled = torch.cat([clip.tokens.float().mean(1) for clip in clips])
    return pooled[torch.randperm(len(pooled), generator=torch.Generator().manual_seed(seed))[:BANK]]


def nearest(clip: Footage, memory: Tensor) -> Tensor:
    """Mean distance of each frame's pooled tokens to the `NEIGHBOURS` nearest ones in `memory`, `[T]`."""
    return torch.cdist(clip.tokens.float().mean(1), memory).topk(NEIGHBOURS, largest=False).values.mean(1)


def uniform(count: int, every: int) -> list[int]:
    """Alerts at a fixed pace: frames `every` apart."""
    return list(range(every, count, every))
