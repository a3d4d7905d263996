"""Flux routing: a router sends each sample through dense attention or through a sink and a local window."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from tocsin.operators.shapes import match

BLOCK = 128
"""Queries per block. Measured best of 128, 256, 512 and 1,024 on a CPU; also FlexAttention's own block size."""


def sink_window_attention(q: Tensor, k: Tensor, v: Tensor, *, sink: int, window: int) -> Tensor:
    """Causal attention to the first `sink` tokens and to the last `window` tokens, including the query's own.

    Work is `T * (sink + window)`, not `T²`. Each block of queries attends only to the blocks that it sees.
    Source: the sparse path of Flux Attention (arXiv 2604.07394); this project cuts sink and window at tokens, not at blocks.

    Args:
        q, k, v: `[B, H, T, D]`, any float dtype.
        sink: number of tokens at the beginning that every later query sees, 0 or more.
        window: number of tokens, 1 or more; T or more is dense causal attention.

    Returns:
        `[B, H, T, D]`, dtype of `q`.

    Raises:
        ValueError: if shapes or dtypes do not fit together, or `sink` or `window` is too small.
    """
    tokens = _check(q, k, v, sink, window)
    if window >= tokens or sink >= tokens:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # Use FlexAttention on a GPU only. On a CPU it was 1.3 times as fast as blocks at 16,384 tokens, but it has no
    # gradient there, takes 4-15 s to compile in each process and needs a C++ compiler at run time.
    flex = _flex(q.device, q.dtype, q.shape[-1]) if q.is_cuda and q.numel() else None
    if flex is not None:
        return flex(q, k, v, block_mask=_block_mask(tokens, sink, window, q.device))
    return _blocked(q, k, v, sink, window)


def naive_sink_window_attention(q: Tensor, k: Tensor, v: Tensor, *, sink: int, window: int) -> Tensor:
    """`sink_window_attention` a query at a time: the oracle of its tests."""
    rows = []
    for t in range(_check(q, k, v, sink, window)):
        visible = [s for s in range(t + 1) if s < sink or t - s < window]
        logits = (k[:, :, visible] @ q[:, :, t, :, None]).squeeze(-1) * q.shape[-1] ** -0.5  # [B, H, visible]
        rows.append((torch.softmax(logits, dim=-1).unsqueeze(-2) @ v[:, :, visible]).squeeze(-2))
    return torch.stack(rows, dim=2) if rows else q


class SinkWindow(NamedTuple):
    """The state of the sparse path over a stream: at most `sink + window - 1` tokens, for a stream of any length.

    Args:
        k, v: `[B, H, N, D]`, the sink and then the latest tokens.
        seen: number of tokens so far.
    """

    k: Tensor
    v: Tensor
    seen: int


def sink_window_step(
    q: Tensor, k: Tensor, v: Tensor, state: SinkWindow | None = None, *, sink: int, window: int
) -> tuple[Tensor, SinkWindow]:
    """`sink_window_attention` on the next tokens of a stream; the result does not depend on how the stream is split.

    Memory is `n * (sink + window + n)` once there is a state, so pass long sequences in pieces.

    Args:
        q, k, v: `[B, H, n, D]`, the next n tokens.
        state: returned by the last call; None at the beginning.
        sink, window: as in `sink_window_attention`, the same in every call.

    Returns:
        `[B, H, n, D]`, and the state for the next call.

    Raises:
        ValueError: as `sink_window_attention`, or if the state has another shape or dtype.
    """
    fresh = _check(q, k, v, sink, window)
    if state is None:
        state = SinkWindow(k[:, :, :0], v[:, :, :0], 0)
    match(q=(q, "B H T D"), state_k=(state.k, "B H N D"), state_v=(state.v, "B H N D"))
    stored, total = state.k.shape[2], state.seen + fresh
    k, v = torch.cat((state.k, k), dim=2), torch.cat((state.v, v), dim=2)
    if not stored:
        out = sink_window_attention(q, k, v, sink=sink, window=window)  # the prefill, in blocks
    else:
        first = min(sink, stored)  # tokens of the sink in the state; the rest are the last tokens seen
        places = torch.arange(stored + fresh, device=q.device)
        places = torch.where(places < first, places, places + state.seen - stored)
        now = torch.arange(state.seen, total, device=q.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_seen(now[:, None], places, sink, window))
    near = k.shape[2] - (window - 1)  # where the next query's window begins
    if near > sink:
        k, v = (torch.cat((x[:, :, :sink], x[:, :, near:]), dim=2) for x in (k, v))
    return out, SinkWindow(k, v, total)


def flux_attention(q: Tensor, k: Tensor, v: Tensor, route: Tensor, *, sink: int, window: int) -> Tensor:
    """Causal attention that is dense for some samples of a batch and sparse for others.

    Source: Flux Attention (arXiv 2604.07394).

    Args:
        q, k, v: `[B, H, T, D]`, any float dtype.
        route: `[B] bool`, True is dense: each sample is computed on its own path only. Or `[B]` float `z`: both paths are
            computed and mixed as `z * dense + (1 - z) * sparse`, which training the router requires.
        sink, window: of the sparse path, see `sink_window_attention`.

    Returns:
        `[B, H, T, D]`, dtype of `q`.

    Raises:
        ValueError: as `sink_window_attention`, or if there is not one route per sample.
    """
    _check(q, k, v, sink, window)
    if route.shape != q.shape[:1]:
        raise ValueError(
            f"route is {list(route.shape)}, q has {q.shape[0]} samples: {list(q.shape)}; give one route per sample"
        )
    dense = partial(F.scaled_dot_product_attention, is_causal=True)
    sparse = partial(sink_window_attention, sink=sink, window=window)
    if route.is_floating_point():
        full, local = dense(q, k, v), sparse(q, k, v)
        return torch.lerp(local, full, route.to(full.dtype).view(-1, 1, 1, 1))  # exact at 0 and 1
    route = route.bool()
    chosen, others = route.nonzero().squeeze(1), (~route).nonzero().squeeze(1)
    if not len(others) or not len(chosen):  # the usual case by far: no copies
        return sparse(q, k, v) if len(others) else dense(q, k, v)
    full, local = (f(q[i], k[i], v[i]) for f, i in ((dense, chosen), (sparse, others)))
    return torch.cat((full, local))[torch.cat((chosen, others)).argsort()]


class FluxRouter(nn.Module):
    """Decides for each sample, from its first and last queries, whether attention is dense.

    The last layer starts at weight 0 and bias `[0, 4.5]`, so that routing starts dense: always when it takes the larger logit,
    99 times out of 100 when it samples.
    Source: Flux Attention (arXiv 2604.07394), the router of its code.

    Args:
        dim: width D of a query head.
        pool: number of queries P that are averaged at each end.
    """

    def __init__(self, *, dim: int, pool: int = 100) -> None:
        super().__init__()
        if pool < 1:
            raise ValueError(f"pool ({pool}) must be at least 1 query")
        self.dim, self.pool = dim, pool
        self.encode = nn.Sequential(nn.Linear(dim, 8 * dim), nn.SiLU(), nn.Linear(8 * dim, 2 * dim))
        self.decide = nn.Sequential(
            nn.Linear(2 * dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim), nn.SiLU(), nn.Linear(dim, 2)
        )
        last = self.decide[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor([0.0, 4.5])

    def logits(self, q: Tensor) -> Tensor:
        """Logits of sparse and dense, `[B, 2]`, for `q` `[B, H, T, D]`; below 2 P tokens, the middle ones count at both ends."""
        match(q=(q, f"B H T {self.dim}"))
        ends = torch.cat((q[:, :, : self.pool], q[:, :, -self.pool :]), dim=2)
        return self.decide(self.encode(ends.mean(dim=(1, 2))))

    def forward(self, q: Tensor, *, tau: float = 1.0) -> Tensor:
        """The route of each sample, see `flux_attention`.

        In training it is `[B]` float, 0 or 1, sampled with Gumbel noise at temperature `tau`. Its gradient is that of the soft
        sample. Otherwise it is `[B] bool`, True if the dense logit is the larger.
        """
        logits = self.logits(q)
        if not self.training:
            return logits[:, 1] > logits[:, 0]
        return F.gumbel_softmax(logits.float(), tau=tau, hard=True)[:, 1]  # bfloat16 is too coarse for the noise


class FluxAttention(nn.Module):
    """Multi-head causal self-attention with its own router; see `flux_attention`.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim`.
        sink, window: numbers of tokens of the sparse path.
        pool: number of queries that the router averages at each end.
    """

    def __init__(self, *, dim: int, heads: int, sink: int = 128, window: int = 1024, pool: int = 100) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.heads, self.sink, self.window = heads, sink, window
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.router = FluxRouter(dim=dim // heads, pool=pool)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, route: Tensor | None = None, *, tau: float = 1.0) -> tuple[Tensor, Tensor]:
        """`[B, T, dim]` of `x` `[B, T, dim]`, and the route `[B]`.

        The route is `route` if given, else the router's; `SparsityLoss` takes it.
        """
        match(x=(x, f"B T {self.out.in_features}"))
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        if route is None:
            route = self.router(q, tau=tau)
        out = flux_attention(q, k, v, route, sink=self.sink, window=self.window)
        return self.out(out.transpose(1, 2).flatten(2)), route


class SparsityLoss(nn.Module):
    """Pulls the share of sparse layers towards a target for each task: `a |d| + b d²`, averaged over tasks.

    d is the share minus its target. The multipliers a and b are learned by gradient ascent, so that a missed target weighs more
    and more. Give `parameters()` to a separate optimizer with `maximize=True`.
    Source: Flux Attention (arXiv 2604.07394). Its targets: 0.45 for question answering, 1.0 for code, summaries and in-context
    learning.

    Args:
        targets: of each task, the target share of sparse layers, 0 to 1.
    """

    targets: Tensor

    def __init__(self, *, targets: list[float]) -> None:
        super().__init__()
        self.register_buffer("targets", torch.tensor(targets))
        self.multipliers = nn.Parameter(torch.rand(len(targets), 2) / 2)  # U(0, 0.5); one row per task

    def forward(self, routes: Tensor, tasks: Tensor) -> Tensor:
        """The loss, a scalar, of `routes` `[layers, B]` float, 1 where dense, and the task `[B] int64` of each sample."""
        match(routes=(routes, "layers B"), tasks=(tasks, "B"))
        off = (1 - routes.float().mean(dim=0)) - self.targets[tasks]  # [B]
        loss = (self.multipliers[tasks] * torch.stack((off.abs(), off.square()), dim=-1)).sum(-1)
        one_hot = F.one_hot(tasks, len(self.targets)).to(loss)  # [B, tasks]
        counts = one_hot.sum(0)
        return (loss @ one_hot / counts.clamp_min(1)).sum() / (counts > 0).sum().clamp_min(1)  # only tasks in the batch


def tau_at(step: int, steps: int) -> float:
    """The temperature of the router: a cosine from 1.5 to 1.0 over the first 60 % of `steps`, then 1.0 (arXiv 2604.07394)."""
    progress = min(step / max(0.6 * steps, 1), 1.0)
    return 1.0 + 0.25 * (1 + math.cos(math.pi * progress))


def _blocked(q: Tensor, k: Tensor, v: Tensor, sink: int, window: int) -> Tensor:
    # Cut once with split, whose gradient is one cat. The gradient of a slice is as long as the sequence, for every
    # block: at 16,384 tokens, slices made the backward pass 7 times as slow.
    keys, values = k.split(BLOCK, dim=2), v.split(BLOCK, dim=2)
    places = torch.arange(q.shape[2], device=q.device).split(BLOCK)
    far, inner, out = -(-sink // BLOCK), None, []
    for i, rows in enumerate(q.split(BLOCK, dim=2)):
        near = max(0, (i * BLOCK - window + 1) // BLOCK)
        visible = [*range(min(far, near)), *range(near, i + 1)]
        mask = inner if rows.shape[2] == BLOCK else None
        if mask is None:
            mask = _seen(places[i][:, None], torch.cat([places[j] for j in visible]), sink, window)
            # From here on, every full block has the same mask, shifted.
            inner = mask if i * BLOCK >= window and near >= far else None
        few_keys, few_values = (
            torch.cat([keys[j] for j in visible], dim=2),
            torch.cat([values[j] for j in visible], dim=2),
        )
        out.append(F.scaled_dot_product_attention(rows, few_keys, few_values, attn_mask=mask))
    return torch.cat(out, dim=2)


@cache
def _flex(device: torch.device, dtype: torch.dtype, dim: int) -> Callable[..., Tensor] | None:
    """Compiled FlexAttention, or None if it does not compile (no Triton, float64, heads under 16 wide); tried once."""
    compiled: Callable[..., Tensor] = torch.compile(flex_attention)
    probe = torch.zeros(1, 1, 2 * BLOCK, dim, device=device, dtype=dtype)
    try:
        compiled(probe, probe, probe, block_mask=_block_mask(2 * BLOCK, 1, 1, device))
    except RuntimeError:  # the base of every compiler error
        return None
    return compiled


@lru_cache(maxsize=16)
def _block_mask(tokens: int, sink: int, window: int, device: torch.device) -> BlockMask:
    """Build the block mask from sizes: FlexAttention's own `create_block_mask` would make a mask of `tokens²` first."""
    first = torch.arange(0, tokens, BLOCK, device=device)
    t, s = first[:, None], first[None, :]
    some = (s <= t) & ((s < sink) | (t - s - (BLOCK - 1) < window))
    every = (s < t) & ((s + BLOCK <= sink) | (t + (BLOCK - 1) - s < window))

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        counts, order = blocks.sum(-1), blocks.int().argsort(dim=-1, descending=True, stable=True)
        return counts.int()[None, None], order.int()[None, None]

    return BlockMask.from_kv_blocks(
        *listed(some & ~every),
        *listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, t, s: _seen(t, s, sink, window),
        seq_lengths=(tokens, tokens),
    )


def _seen(t: Tensor, s: Tensor, sink: int, window: int) -> Tensor:
    return (s <= t) & ((s < sink) | (t - s < window))


def _check(q: Tensor, k: Tensor, v: Tensor, sink: int, window: int) -> int:
    if sink < 0 or window < 1:
        raise ValueError(f"sink ({sink}) must be 0 or more and window ({window}) 1 or more tokens")
    return match(q=(q, "B H T D"), k=(k, "B H T D"), v=(v, "B H T D"))["T"]
