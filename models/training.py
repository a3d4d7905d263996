"""What every training loop shares: a reproducible start, and the optimizer's steps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

CLIP = 1.0
"""Largest norm of a gradient."""


def begin(seed: int, *, threads: int | None = None) -> None:
    """Seed torch, and set it up for small networks.

    Args:
        threads: 1 for layers so small that they gain nothing from more; on busy cores more lose a hundredfold. None: unchanged.
    """
    torch.set_flush_denormal(True)  # saturated gates give denormals, which halve the speed
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)


class Optimization:
    """AdamW with clipped gradients and a learning rate that follows a schedule.

    Args:
        steps: in all.
        learning_rate: the highest of the schedule.
        schedule: "cosine" falls from it to 0; "cycle" rises to it over the share `rise` of the steps, then falls.
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
    ) -> None:
        self._network = network
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused
        )
        self._schedule: LRScheduler = (
            CosineAnnealingLR(self._optimizer, steps)
            if schedule == "cosine"
            else OneCycleLR(self._optimizer, learning_rate, steps, pct_start=rise)
        )

    def step(self, loss: Tensor) -> float:
        """Take one step down the gradient of `loss`, whose value is returned."""
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), CLIP)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())
