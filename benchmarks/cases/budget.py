"""A patch budget against close looks at all patches, and against its naive form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cases.meter import Row, compare
from tocsin.operators.budget import naive_refine, refine, spread


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    side, size = (32, 16) if quick else (128, 32)
    corners = torch.cartesian_prod(spread(side, size), spread(side, size))
    kernel, coarse, confidence = torch.randn(32, 32, 3, 3), torch.randn(32, side, side), torch.rand(len(corners))
    closer = torch.randn(len(corners), 32, size, size)

    def look(numbers: torch.Tensor) -> torch.Tensor:
        return F.conv2d(closer[numbers], kernel, padding=1)

    yield compare(
        f"half of {len(corners)} patches / all",
        f"32 x {side} x {side}, a 3 x 3 convolution as the close look",
        lambda: refine(coarse, confidence, corners, look, count=len(corners) // 2),
        lambda: refine(coarse, confidence, corners, look, count=len(corners)),
        quality="depends on the confidence, see docs/damage.md",
    )
    small, corners = coarse[:, :8, :8], torch.cartesian_prod(spread(8, 4), spread(8, 4))
    looks = torch.randn(4, 32, 4, 4)
    yield compare(
        "patch budget / place by place",
        "32 x 8 x 8, 2 of 4 patches",
        lambda: refine(small, confidence[:4], corners, lambda n: looks[n], count=2),
        lambda: naive_refine(small, confidence[:4], corners, lambda n: looks[n], count=2),
    )
