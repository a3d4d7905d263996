"""Hierarchical kernel attention: scores of several causal resolutions, mixed by convex weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match


def hierarchical_attention(queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, weights: Tensor) -> Tensor:
    """Causal attention by the scores `sum_l weights_l S^l[i // 2^l, j // 2^l]`, where level l has half the tokens of level l - 1.

    On a CPU, scores are up-sampled for some rows and heads at a time. On a GPU, scores are never up-sampled.
    Source: Hierarchical Kernel Transformer (arXiv 2604.08829): levels, convex weights and causality as in its abstract; the index
    rule `i // 2^l` and the values of level 0 are this project's reconstruction.

    Args:
        queries: of level l, `[B, H, ceil(R / 2^l), D]`, any float dtype. R is T, or fewer if they are the last of T tokens. They
            must then begin at a multiple of `2^(L - 1)`.
        keys: of level l, `[B, H, ceil(T / 2^l), D]`. Token m of level l must depend on tokens up to `m * 2^l` alone.
        v: `[B, H, T, D]`.
        weights: `[H, L]`, not negative; they sum to 1 in each head.

    Returns:
        `[B, H, R, D]`, dtype of `v`.

    Raises:
        ValueError: if the levels, shapes or dtypes do not fit together.
    """
    _check(queries, keys, v, weights)
    if not v.numel() or not queries[0].numel():
        return queries[0].to(v.dtype)  # empty, as the result is
    # On a CPU, attention is not fused if heads are wider than values, and padding the values costs as much again: at
    # 3 levels, 2 to 5 times the time of `_blocked`. A GPU's fused kernels take both widths; there the T² scores of
    # `_blocked` would dominate (not measured).
    return (_concatenated if v.is_cuda else _blocked)(queries, keys, v, weights)


def naive_hierarchical_attention(
    queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, weights: Tensor
) -> Tensor:
    """`hierarchical_attention` a query at a time: the oracle of its tests."""
    _check(queries, keys, v, weights)
    tokens, rows = v.shape[2], []
    start = tokens - queries[0].shape[2]
    for i in range(start, tokens):
        logits = v.new_zeros(*v.shape[:2], i + 1)
        for level, (q, k) in enumerate(zip(queries, keys, strict=True)):
            near = k[:, :, torch.arange(i + 1, device=k.device) >> level]  # [B, H, i + 1, D]
            score = (near @ q[:, :, (i >> level) - (start >> level), :, None]).squeeze(-1) * q.shape[-1] ** -0.5
            logits = logits + weights[:, level, None] * score
        rows.append((torch.softmax(logits, dim=-1).unsqueeze(-2) @ v[:, :, : i + 1]).squeeze(-2))
    return torch.stack(rows, dim=2) if rows else queries[0]


def downsample(x: Tensor, taps: Tensor, past: Tensor | None = None, *, seen: int = 0) -> Tensor:
    """Compute the next level, `X'[m] = sum_r taps_r X[2 m - r]`, per channel and causally.

    Source: the trainable causal downsampling of arXiv 2604.08829. Its factor of 2 follows from the paper's cost. The form is
    this project's: each `taps_r` is diagonal, since the projections that follow mix the channels.

    Args:
        x: `[B, T, C]`, the level's tokens from number `seen` on.
        taps: `[R, C]`.
        past: `[B, R - 1, C]`, the tokens before `x`; None means zeros.
        seen: number of tokens before `x`.

    Returns:
        `[B, M, C]`, the tokens `ceil(seen / 2)` to `ceil((seen + T) / 2) - 1` of the next level.
    """
    match(x=(x, "B T C"), taps=(taps, "R C"))
    reach = len(taps) - 1
    x = F.pad(x, (0, 0, reach, 0)) if past is None else torch.cat((past, x), dim=1)
    first, last = seen % 2 + reach, x.shape[1]  # bounds of the tokens with an even number
    parts = [x[:, first - r : last - r : 2] * tap for r, tap in enumerate(taps)]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class Hierarchy(NamedTuple):
    """The state of `HierarchicalAttention.step`: all keys and values, `1.5 - 2^-L` times as many as in plain attention.

    Args:
        past: of each level but the last, `[B, R - 1, C]`: its latest tokens, from which the next level is computed.
        queries: of each level, `[B, H, n, D]`: those since the last multiple of `2^(L - 1)`.
        keys: of each level, `[B, H, ceil(T / 2^l), D]`.
        values: `[B, H, T, D]`.
    """

    past: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    values: Tensor


class HierarchicalAttention(nn.Module):
    """Multi-head causal self-attention over several resolutions; see `hierarchical_attention` and `downsample`.

    Initially, each level averages the level before it, and all levels have equal weight.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim`.
        levels: number of resolutions L; 1 is plain attention.
        taps: number of tokens R from which one token of the next level is computed.
    """

    def __init__(self, *, dim: int, heads: int, levels: int = 3, taps: int = 2) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        if levels < 1 or taps < 1:
            raise ValueError(f"levels ({levels}) and taps ({taps}) must be at least 1")
        self.heads = heads
        self.taps = nn.ParameterList([torch.full((taps, dim), 1 / taps) for _ in range(levels - 1)])
        self.project = nn.ModuleList([nn.Linear(dim, 2 * dim, bias=False) for _ in range(levels)])
        self.value = nn.Linear(dim, dim, bias=False)
        self.weights = nn.Parameter(torch.zeros(heads, levels))  # before softmax
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` of `x` `[B, T, dim]`."""
        return self.step(x)[0]

    def step(self, x: Tensor, state: Hierarchy | None = None) -> tuple[Tensor, Hierarchy]:
        """`[B, n, dim]` of the next n tokens `x`, and the state for the next call.

        The result does not depend on how the tokens are split; it equals that of `forward`.
        """
        match(x=(x, f"B T {self.out.in_features}"))
        fresh, start = x.shape[1], 0 if state is None else state.values.shape[2]
        values = self._heads(self.value(x))
        if state is not None:
            match(x=(x, "B T C"), state=(state.values, "B H N D"))
            values = torch.cat((state.values, values), dim=2)
        past, queries, keys, level_x, level_start = [], [], [], x, start
        for level, project in enumerate(self.project):
            if level:
                taps, before = self.taps[level - 1], None if state is None else state.past[level - 1]
                past.append(_latest(before, level_x, len(taps) - 1))
                level_x = downsample(level_x, taps, before, seen=level_start)
                level_start = -(-level_start // 2)
            q, k = map(self._heads, project(level_x).chunk(2, dim=-1))
            queries.append(q if state is None else torch.cat((state.queries[level], q), dim=2))
            keys.append(k if state is None else torch.cat((state.keys[level], k), dim=2))
        out = hierarchical_attention(queries, keys, values, self.weights.softmax(-1))
        aligned = (start + fresh) >> (len(keys) - 1) << (len(keys) - 1)
        latest_queries = [
            q[:, :, q.shape[2] - (k.shape[2] - (aligned >> i)) :]
            for i, (q, k) in enumerate(zip(queries, keys, strict=True))
        ]
        out = out[:, :, out.shape[2] - fresh :]
        return self.out(out.transpose(1, 2).flatten(2)), Hierarchy(
            tuple(past), tuple(latest_queries), tuple(keys), values
        )

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D]


def _latest(before: Tensor | None, x: Tensor, count: int) -> Tensor:
    x = F.pad(x, (0, 0, count, 0)) if before is None else torch.cat((before, x), dim=1)
    return x[:, x.shape[1] - count :]


def _blocked(queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, weights: Tensor) -> Tensor:
    """Compute some rows of queries and heads at a time, so that their scores stay in the cache while levels are added."""
    batch, heads, tokens, width = v.shape
    kind = torch.promote_types(v.dtype, torch.float32)  # bfloat16 would round each sum of scores
    with torch.autocast(v.device.type, enabled=False):
        scale = (weights.to(kind) * width**-0.5)[:, :, None, None]
        qs = [(q.to(kind) * scale[:, level]).flatten(0, 1) for level, q in enumerate(queries)]  # [B H, R / 2^l, D]
        ks = [k.to(kind).flatten(0, 1).transpose(1, 2) for k in keys]  # [B H, D, T / 2^l]
        values = v.to(kind).flatten(0, 1)
        # Measured on a CPU: 64 rows up to 1,024 tokens, 128 beyond. Scores of 1 MiB per thread stay in its cache.
        rows = _multiple(64 if tokens <= 1024 else 128, 2 ** (len(qs) - 1))
        group = max(1, 2**18 * torch.get_num_threads() // (min(rows, queries[0].shape[2]) * tokens))
        parts = [
            _rows([q[n : n + group] for q in qs], [k[n : n + group] for k in ks], values[n : n + group], rows)
            for n in range(0, batch * heads, group)
        ]
    return torch.cat(parts).unflatten(0, (batch, heads)).to(v.dtype)


def _rows(queries: list[Tensor], keys: list[Tensor], v: Tensor, rows: int) -> Tensor:
    tokens, count = v.shape[1], queries[0].shape[1]
    start, out = tokens - count, []
    for first in range(0, count, rows):
        last = min(first + rows, count)
        scores = v.new_zeros(())
        for level in range(len(queries) - 1, -1, -1):
            q = queries[level][:, first >> level : ((last - 1) >> level) + 1]
            k = keys[level][:, :, : ((start + last - 1) >> level) + 1]
            if level == len(queries) - 1:
                scores = q @ k
                continue
            # Up-sample to this level; `baddbmm_` then adds this level's own scores in place.
            wide = scores.repeat_interleave(2, dim=2)[:, :, : k.shape[2]]
            scores = wide.repeat_interleave(2, dim=1)[:, : q.shape[1]].baddbmm_(q, k)
        ahead = torch.ones(last - first, last - first, dtype=torch.bool, device=v.device).triu(1)
        scores[:, :, start + first :].masked_fill_(ahead, -torch.inf)  # every row sees every key before the block
        out.append(torch.softmax(scores, dim=-1) @ v[:, : start + last])
    return torch.cat(out, dim=1)


def _concatenated(queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, weights: Tensor) -> Tensor:
    """Concatenate the levels' features: one dot product is then the sum of up-sampled scores, and memory is linear in T."""
    tokens, count = v.shape[2], queries[0].shape[2]

    def beside(level_tokens: Sequence[Tensor], length: int) -> Tensor:
        return torch.cat([x.repeat_interleave(2**i, dim=2)[:, :, :length] for i, x in enumerate(level_tokens)], dim=-1)

    scaled = [q * weights[:, level, None, None].to(q.dtype) for level, q in enumerate(queries)]
    q, k = beside(scaled, count), beside(keys, tokens)  # [B, H, ., D L]
    ahead = None
    if count < tokens:
        ahead = torch.ones(count, tokens, dtype=torch.bool, device=v.device).tril(tokens - count)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=ahead, is_causal=ahead is None, scale=v.shape[-1] ** -0.5)


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _check(queries: Sequence[Tensor], keys: Sequence[Tensor], v: Tensor, weights: Tensor) -> None:
    if not len(queries) == len(keys) == weights.shape[-1]:
        raise ValueError(
            f"{len(queries)} levels of queries, {len(keys)} of keys and {weights.shape[-1]} weights; make them equal"
        )
    match(
        weights=(weights.to(v.dtype), "H L"),
        v=(v, "B H T D"),
        queries=(queries[0], "B H R D"),
        keys=(keys[0], "B H T D"),
    )
    count, tokens, align = queries[0].shape[2], v.shape[2], 2 ** (len(keys) - 1)
    if (tokens - count) % align:
        raise ValueError(
            f"{count} queries of {tokens} tokens begin at {tokens - count}, which must be a multiple of {align}"
        )
    for level, (q, k) in enumerate(zip(queries, keys, strict=True)):
        named = {
            f"queries[{level}]": (q, f"B H {-(-count // 2**level)} D"),
            f"keys[{level}]": (k, f"B H {-(-tokens // 2**level)} D"),
        }
        match(v=(v, "B H T D"), **named)
