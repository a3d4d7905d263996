"""Time-segmented cross-attention against cross-attention without bias, and against a hard mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.meter import Row, compare
from tocsin.operators.relay import relay_attention

SEGMENTS = 16
TAIL = 8.0  # ticks


def rows(*, quick: bool) -> Iterator[Row]:
    for tokens, slots in ((512, 64),) if quick else ((1024, 256), (4096, 256), (4096, 1024), (4096, 4096)):
        q = torch.randn(1, 8, tokens, 64)
        k, v = torch.randn(2, 1, 8, slots, 64).unbind()
        length = tokens // SEGMENTS
        segment = torch.arange(slots) * SEGMENTS // slots  # segment of each slot
        times, intervals = torch.arange(tokens), torch.stack((segment, segment + 1), dim=-1) * length
        inside = segment == (times // length)[:, None]

        def ours(v=v, q=q, k=k, times=times, intervals=intervals) -> Tensor:
            return relay_attention(q, k, v, times, intervals, tail=TAIL, tick=1.0)

        def unbiased(v=v, q=q, k=k) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

        def hard(v=v, q=q, k=k, inside=inside) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=inside)

        size = f"{tokens:,} tokens, {slots:,} slots"
        one_hot = F.pad(F.one_hot(segment, SEGMENTS).float(), (0, 64 - SEGMENTS)).expand_as(k)
        right = (times // length).view(1, 1, -1, 1).expand(1, 8, -1, 1)
        mass, before = (run(one_hot).gather(-1, right).mean().item() for run in (ours, unbiased))
        quality = f"weight inside the right segment {mass:.3f}, without bias {before:.3f}"
        yield compare("relay / SDPA without bias", size, ours, unbiased, quality=quality)
        still = q[:, :, :1].expand_as(q)  # only time varies
        jump, cut = (run(v, still).diff(dim=2).norm(dim=-1).amax().item() for run in (ours, hard))
        quality = f"largest step between two ticks {jump / cut:.2f} of the mask's"
        yield compare("relay / SDPA with a hard mask", size, ours, hard, quality=quality)
