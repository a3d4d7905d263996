"""Depthwise convolutions of several sizes against dense ones, and against their naive form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cases.meter import Row, compare
from tocsin.operators.scales import multi_scale, naive_multi_scale

SIZES = (3, 5, 7)


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    for batch, channels, side in ((1, 16, 28),) if quick else ((1, 48, 60), (16, 48, 28)):
        x = torch.randn(batch, channels, side, side)
        kernels = [torch.randn(channels, size, size) for size in SIZES]
        dense = [torch.randn(channels, channels, size, size) for size in SIZES]
        yield compare(
            "depthwise 3, 5, 7 / dense 3, 5, 7",
            f"{batch} x {channels} x {side} x {side}",
            lambda x=x, kernels=kernels: multi_scale(x, kernels),
            lambda x=x, dense=dense: torch.cat([F.conv2d(x, k, padding=k.shape[-1] // 2) for k in dense], 1),
            quality=f"{channels} times fewer weights",
        )
    yield compare(
        "depthwise 3, 5, 7 / place by place",
        f"1 x {channels} x {side} x {side}",
        lambda: multi_scale(x[:1], kernels),
        lambda: naive_multi_scale(x[:1], kernels),
    )
