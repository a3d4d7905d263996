"""FiLM-gated cross-attention against plain cross-attention added to its tokens: the cost of the gate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cases.meter import Row, compare
from tocsin.operators.film import film_attention

TOKENS, WIDTH, HEADS, BATCH = 16, 32, 4, 8


def rows(*, quick: bool) -> Iterator[Row]:
    for features in (64,) if quick else (64, 1024):
        x, q = torch.randn(2, BATCH, HEADS, TOKENS, WIDTH).unbind()
        k, v = torch.randn(2, BATCH, HEADS, features, WIDTH).unbind()
        scale, shift = torch.randn(2, BATCH, HEADS, WIDTH).unbind()
        yield compare(
            "film / cross-attention and a sum",
            f"{TOKENS} tokens, {features:,} features",
            lambda x=x, q=q, k=k, v=v, scale=scale, shift=shift: film_attention(x, q, k, v, scale, shift),
            lambda x=x, q=q, k=k, v=v: x + F.scaled_dot_product_attention(q, k, v),
        )
