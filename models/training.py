"""Shared by all training loops: a reproducible start, and the optimizer's steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

CLIP = 1.0
"""Largest norm of a gradient, by default."""


def begin(seed: int, *, threads: int | None = None) -> None:
    """Seed torch and configure it for small networks.

    Args:
        threads: 1 for layers too small to gain from more; on busy cores, more threads are a hundred times slower. None: unchanged.
    """
    torch.set_flush_denormal(True)  # saturated gates produce denormals, which halve the speed
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)


class Optimization:
    """AdamW with clipped gradients and a learning rate that follows a schedule.

    Args:
        steps: total number of steps.
        learning_rate: maximum of the schedule.
        schedule: "cosine" decays from the maximum to 0; "cycle" rises to it over the share `rise` of the steps, then decays.
        clip: largest norm of a gradient.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        schedule: Literal["cosine", "cycle"] = "cycle",
        rise: float = 0.3,
        fused: bool | None = None,
        clip: float = CLIP,
    ) -> None:
        self._network, self._clip = network, clip
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused
        )
        self._schedule: LRScheduler = (
            CosineAnnealingLR(self._optimizer, steps)
            if schedule == "cosine"
            else OneCycleLR(self._optimizer, learning_rate, steps, pct_start=rise)
        )

    def step(self, loss: Tensor) -> float:
        """Take one optimizer step on `loss` and return its value."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), self._clip)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())
