"""Hierarchical attention against plain attention, fused and unfused, and its module against a plain module."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.meter import Row, compare
from tocsin.operators.hierarchical import HierarchicalAttention, hierarchical_attention, naive_hierarchical_attention

LEVELS = 3


def rows(*, quick: bool) -> Iterator[Row]:
    for tokens in (256,) if quick else (512, 1024, 2048, 4096):
        queries, keys = ([torch.randn(1, 8, tokens >> level, 64) for level in range(LEVELS)] for _ in range(2))
        v, weights = torch.randn(1, 8, tokens, 64), torch.rand(8, LEVELS).softmax(-1)

        def ours(queries=queries, keys=keys, v=v, weights=weights) -> Tensor:
            return hierarchical_attention(queries, keys, v, weights)

        def fused(q=queries[0], k=keys[0], v=v) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def plain(q=queries[0], k=keys[0], v=v) -> Tensor:
            return plain_attention(q, k, v)

        quality = ""
        if tokens <= 1024:  # the naive form is slow
            exact = naive_hierarchical_attention(
                [q.double() for q in queries], [k.double() for k in keys], v.double(), weights.double()
            )
            quality = f"off the exact result by {(ours() - exact).abs().max():.0e}"
        yield compare(
            "hierarchical, L = 3 / plain, fused (SDPA)",
            f"{tokens:,} tokens",
            ours,
            fused,
            quality=quality,
            target="time >= 0.71 (1.4x of plain)",
        )
        yield compare(
            "hierarchical, L = 3 / plain, scores in memory",
            f"{tokens:,} tokens",
            ours,
            plain,
            quality=quality,
            target="time >= 0.71 (1.4x of plain)",
        )

    tokens = 256 if quick else 2048
    x = torch.randn(1, tokens, 512)
    levels, one = (HierarchicalAttention(dim=512, heads=8, levels=n).eval() for n in (LEVELS, 1))

    def plain_layer() -> Tensor:
        q, k, v = (
            t.unflatten(-1, (8, -1)).transpose(1, 2) for t in (*one.project[0](x).chunk(2, dim=-1), one.value(x))
        )
        return one.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    yield compare(
        "hierarchical layer, L = 3 / plain layer, fused", f"{tokens:,} tokens, 512 wide", lambda: levels(x), plain_layer
    )


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute unfused attention: all scores, a mask, softmax."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    ahead = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(ahead, -torch.inf), dim=-1) @ v
