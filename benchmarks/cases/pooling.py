"""Additive attention pooling against multi-head attention with one learned query."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.cases.meter import Row, compare
from tocsin.operators.pooling import AdditiveAttentionPool


def rows(*, quick: bool) -> Iterator[Row]:
    pool, other = AdditiveAttentionPool(dim=64, hidden=32), nn.MultiheadAttention(64, 4, batch_first=True)
    for steps in (30,) if quick else (30, 300, 3000):
        states, query = torch.randn(256, steps, 64), torch.randn(256, 1, 64)
        yield compare(
            "pooling / MultiheadAttention, one query",
            f"256 windows of {steps:,}",
            lambda states=states: pool(states),
            lambda states=states, query=query: other(query, states, states),
        )
