"""Recall attention against its naive form, and the cost of leaving each channel out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.cases.meter import Row, compare
from tocsin.operators.recall import FAR, naive_recall_attention, recall_attention


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    for batch, remembered, channels in ((2, 16, 4),) if quick else ((64, 64, 8), (16, 64, 24)):
        q, k = torch.randn(batch, 32, channels), torch.randn(batch, remembered, channels)
        known = torch.ones_like(q, dtype=torch.bool), torch.ones_like(k, dtype=torch.bool)
        yield compare(
            "each channel left out / none",
            f"{batch} windows of 32 x {channels}, {remembered} rows",
            lambda q=q, k=k, known=known: recall_attention(q, k, *known),
            lambda q=q, k=k: _whole(q, k),
            quality="a wrong channel cannot excuse itself",
        )
    q, k = torch.randn(1, 4, 3), torch.randn(1, 8, 3)
    known = torch.ones_like(q, dtype=torch.bool), torch.ones_like(k, dtype=torch.bool)
    yield compare(
        "all channels at once / one by one",
        "1 window of 4 x 3, 8 rows",
        lambda: recall_attention(q, k, *known),
        lambda: naive_recall_attention(q, k, *known),
    )


def _whole(q: Tensor, k: Tensor) -> Tensor:
    """Recall by all channels."""
    away = (q.unsqueeze(2) - k.unsqueeze(1)).clamp(-FAR, FAR).square().mean(-1)
    return torch.softmax(-2 * away, -1) @ k
