"""Time-segmented attention: each context slot has an interval of time, and attention to it fades outside that interval."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

ROWS = 512  # queries per block; their bias stays in the cache: on a CPU twice as fast as all at once, in less memory
FARTHEST = 1e12  # in tails; slots beyond it count as equally far, so that the square stays within float32


def relay_bias(
    times: Tensor, intervals: Tensor, *, tail: float | Tensor, eps: float = 1e-3, tick: float = 0.0
) -> Tensor:
    """Bias for attention logits: 0 inside a slot's interval, `ln(eps)` one tail outside it, falling with the squared distance.

    `bias = -d² / (2 sigma²)`, with d the distance to the interval and `sigma = tail / sqrt(-2 ln eps)`, so that the weight's factor
    `exp(bias)` is eps exactly where the tail ends. (The other width in use, `sigma = 1 / ln(1 / eps)`, equals a tail of 0.54 at
    eps = 1e-3: nearly a hard cut between samples 1 apart.)
    Source: Prompt Relay (arXiv 2604.10030), the soft width of its code. Its use for slots of a stream is this project's.

    Args:
        times: `[T]` or `[B, T]`, of the queries, any unit. Seconds since 1970 need float64 or an integer dtype.
        intervals: `[S, 2]` or `[B, S, 2]`, begin and end in that unit, half-open: with a `tick`, the last time inside is
            `end - tick`. They may overlap or leave gaps. `[-inf, inf]` is a global slot, with bias 0 everywhere. A single end
            may be infinite. `[inf, inf]` is padding, with bias -inf.
        tail: in the same unit, above 0. A tensor, scalar or `[S]`, gets a gradient. `inf` gives plain attention.
        eps: factor at the tail's end, between 0 and 1.
        tick: distance between samples, for discrete time. 0 is continuous time, where the bias at `end` itself is 0.

    Returns:
        `[T, S]` or `[B, T, S]`; float64 if times, intervals or tail are, otherwise float32, also under autocast.

    Raises:
        ValueError: if the shapes do not fit together, or tail or eps is out of range.
    """
    _check(times, intervals, tail, eps)
    # Subtract first, in a dtype that holds the times: float32 resolves seconds since 1970 only to two minutes.
    fine = torch.float32 if times.is_floating_point() and times.dtype != torch.float64 else torch.float64
    begin, end = intervals.to(torch.promote_types(fine, intervals.dtype)).unsqueeze(-3).unbind(-1)  # [..., 1, S]
    now = times.to(begin.dtype).unsqueeze(-1)  # [..., T, 1]
    absent = (begin == torch.inf) | (end == -torch.inf)  # masked, or the tail's gradient would be inf * 0
    begin, last = begin.masked_fill(absent, 0), (end - tick).masked_fill(absent, 0)
    # Not from midpoint and half width: for a global slot these would give inf - inf.
    distance = torch.maximum(begin - now, now - last).clamp_min(0)
    kind = (
        torch.float64
        if torch.float64 in (times.dtype, intervals.dtype, getattr(tail, "dtype", None))
        else torch.float32
    )
    ratio = (distance.to(kind) / tail).clamp_max(FARTHEST)
    start = torch.zeros_like(absent, dtype=kind).masked_fill(absent, -torch.inf)
    return torch.add(start, ratio.square(), alpha=math.log(eps))


def relay_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    times: Tensor,
    intervals: Tensor,
    *,
    tail: float | Tensor,
    eps: float = 1e-3,
    tick: float = 0.0,
) -> Tensor:
    """Cross-attention of a stream's tokens to context slots, each with a time interval; see `relay_bias`.

    Weights sum to 1 even if a query is far from every slot: the nearest slots share the weight, and a global slot takes all of it.

    Args:
        q: `[B, H, T, D]`, any float dtype.
        k, v: `[B, H, S, D]`, the slots.
        times, intervals, tail, eps, tick: as in `relay_bias`.

    Returns:
        `[B, H, T, D]`, dtype of `q`; zeros for a query without any slot.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    _fit(q, k, v, times, intervals)
    out = []
    for rows, now in zip(q.split(ROWS, dim=2), times.split(ROWS, dim=-1), strict=True):
        bias = relay_bias(now, intervals, tail=tail, eps=eps, tick=tick)
        if bias.shape[-1]:
            # Adding a constant to a row does not change its softmax. Subtract the nearest slot's bias: far from every
            # slot, one large number would otherwise swamp the differences when the bias is added to the scores.
            nearest = bias.detach().amax(dim=-1, keepdim=True)
            bias = bias - nearest.masked_fill(nearest.isinf(), 0)
        # A CPU can add a float32 bias to bfloat16 scores; CUDA's fused kernels need one dtype.
        bias = bias.to(q.dtype if q.is_cuda else torch.promote_types(q.dtype, torch.float32))
        mask = bias if bias.dim() == 2 else bias.unsqueeze(1)
        out.append(F.scaled_dot_product_attention(rows, k, v, attn_mask=mask))
    return torch.cat(out, dim=2)


def naive_relay_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    times: Tensor,
    intervals: Tensor,
    *,
    tail: float | Tensor,
    eps: float = 1e-3,
    tick: float = 0.0,
) -> Tensor:
    """`relay_attention` element by element: the oracle of its tests. Intervals must be finite, and all slots share one tail."""
    _fit(q, k, v, times, intervals)
    sigma = tail / math.sqrt(-2 * math.log(eps))
    out = q.clone()  # every element is overwritten
    for b in range(q.shape[0]):
        clock = (times if times.dim() == 1 else times[b]).tolist()
        table = (intervals if intervals.dim() == 2 else intervals[b]).tolist()
        for t, now in enumerate(clock):
            logits = []
            for s, (begin, end) in enumerate(table):
                middle, half = (begin + end - tick) / 2, (end - tick - begin) / 2
                beyond = max(abs(now - middle) - half, 0.0)
                logits.append((q[b, :, t] * k[b, :, s]).sum(-1) * q.shape[-1] ** -0.5 - beyond**2 / (2 * sigma**2))
            weights = torch.softmax(torch.stack(logits, dim=-1), dim=-1)  # [H, S]
            out[b, :, t] = (weights.unsqueeze(-1) * v[b]).sum(1)
    return out


class RelayCrossAttention(nn.Module):
    """Multi-head cross-attention to context slots with time intervals; see `relay_attention`.

    Args:
        dim: width of a token.
        context_dim: width of a slot.
        heads: number of heads, which must divide `dim`.
        tail: distance over which a slot fades, in the unit of the times.
        eps: factor at the tail's end.
        tick: distance between samples; 0 for continuous time.
    """

    def __init__(
        self, *, dim: int, context_dim: int, heads: int, tail: float, eps: float = 1e-3, tick: float = 0.0
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.heads, self.tail, self.eps, self.tick = heads, tail, eps, tick
        self.query = nn.Linear(dim, dim, bias=False)
        self.project = nn.Linear(context_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, context: Tensor, times: Tensor, intervals: Tensor) -> Tensor:
        """`[B, T, dim]` of the stream's `x` `[B, T, dim]` and the slots `context` `[B, S, context_dim]`."""
        match(x=(x, f"B T {self.query.in_features}"), context=(context, f"B S {self.project.in_features}"))
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D]
        k, v = self.project(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, S, D]
        out = relay_attention(q, k, v, times, intervals, tail=self.tail, eps=self.eps, tick=self.tick)
        return self.out(out.transpose(1, 2).flatten(2))


def _check(times: Tensor, intervals: Tensor, tail: float | Tensor, eps: float) -> None:
    if times.dim() not in (1, 2) or intervals.dim() not in (2, 3) or intervals.shape[-1] != 2:
        raise ValueError(
            f"times must be [T] or [B, T] and intervals [S, 2] or [B, S, 2]; got {list(times.shape)} and {list(intervals.shape)}"
        )
    if times.dim() == 2 and intervals.dim() == 3 and times.shape[0] != intervals.shape[0]:
        raise ValueError(
            f"times are {list(times.shape)} with B = {times.shape[0]}, intervals have B = {intervals.shape[0]}"
        )
    if isinstance(tail, Tensor) and tail.dim() and tail.shape != intervals.shape[-2:-1]:
        raise ValueError(
            f"tail is {list(tail.shape)}, intervals have S = {intervals.shape[-2]}; give one, or one per slot"
        )
    if not 0 < eps < 1 or not (isinstance(tail, Tensor) or tail > 0):
        raise ValueError(f"eps ({eps}) must lie between 0 and 1, and tail ({tail}) above 0")


def _fit(q: Tensor, k: Tensor, v: Tensor, times: Tensor, intervals: Tensor) -> None:
    match(q=(q, "B H T D"), k=(k, "B H S D"), v=(v, "B H S D"))
    for name, tensor, axis, dim, size in (
        ("times", times, -1, "T", q.shape[2]),
        ("intervals", intervals, -2, "S", k.shape[2]),
    ):
        if tensor.dim() < -axis or tensor.shape[axis] != size:
            raise ValueError(f"{name} are {list(tensor.shape)}, {'q' if dim == 'T' else 'k'} has {dim} = {size}")
        if tensor.dim() == 1 - axis and tensor.shape[0] != q.shape[0]:
            raise ValueError(f"{name} are {list(tensor.shape)} with B = {tensor.shape[0]}, q has B = {q.shape[0]}")
