"""Gated attention against plain attention: the cost of the gate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.cases.meter import Row, compare
from tocsin.operators.gated import gated_attention


def rows(*, quick: bool) -> Iterator[Row]:
    for tokens in (256,) if quick else (512, 2048, 8192):
        q, k, v, gate = torch.randn(4, 1, 8, tokens, 64).unbind()
        yield compare(
            "gated / SDPA",
            f"{tokens:,} tokens",
            lambda q=q, k=k, v=v, gate=gate: gated_attention(q, k, v, gate, causal=True),
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        )
