"""The sparse path of Flux routing against dense attention: prefill of whole prompts, and one decode step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.meter import Row, compare
from tocsin.operators.routing import sink_window_attention, sink_window_step

SINK, WINDOW = 128, 1024  # as in the published configuration
RANGE = 256  # tokens over which scores fall in the local case


def rows(*, quick: bool) -> Iterator[Row]:
    for tokens in (2048,) if quick else (4096, 8192, 16384):
        q, k, v = torch.randn(3, 1, 8, tokens, 64).unbind()
        near = local(q, k)
        yield compare(
            "routing, sparse prefill / causal SDPA",
            f"{tokens:,} tokens",
            lambda q=q, k=k, v=v: sink_window_attention(q, k, v, sink=SINK, window=WINDOW),
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            rounds=3,
            quality=f"error {error(*near, v):.3f} where scores fall over {RANGE} tokens, {error(q, k, v):.1f} on random q, k",
            target="time >= 2.8" if tokens == 16384 else "",
        )
    tokens = 2048 if quick else 16384
    q, k, v = torch.randn(3, 1, 8, tokens, 64).unbind()
    _, state = sink_window_step(q, k, v, sink=SINK, window=WINDOW)
    last = q[:, :, -1:]
    yield compare(
        "routing, sparse decode step / SDPA over the whole cache",
        f"{tokens:,} tokens",
        lambda: sink_window_step(last, last, last, state, sink=SINK, window=WINDOW),
        lambda: F.scaled_dot_product_attention(last, k, v),  # assumes a cache that grows in place
        rounds=9,
        quality=f"keeps {state.k.shape[2] / tokens:.1%} of the cache, which a step copies",
    )


def error(q: Tensor, k: Tensor, v: Tensor) -> float:
    """Return the error of the sparse output relative to the norm of the dense output."""
    dense = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    sparse = sink_window_attention(q, k, v, sink=SINK, window=WINDOW)
    return ((sparse - dense).norm() / dense.norm()).item()


def local(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and keys whose scores get a bonus for proximity: up to 10, falling like a bell curve over `RANGE` tokens."""
    tokens, dim = q.shape[-2:]
    angles = torch.arange(tokens)[:, None] * torch.randn(dim // 2) / RANGE
    # w_t . w_s is about exp(-(t - s)² / 2 RANGE²)
    waves = torch.cat((angles.cos(), angles.sin()), dim=-1) * (dim // 2) ** -0.5
    return 10 * dim**0.5 * waves + q / 2, waves + k / (20 * dim**0.5)
