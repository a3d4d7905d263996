"""Gated attention, and a probe that measures how far a function bends."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match


def gated_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attention whose output is multiplied by a learned gate.

    Ungated attention over fixed values stays in their affine hull; the gate lets it leave. In a network the values depend on
    the input too, so the lack of a gate does not by itself make a trained network flat.
    Source: "Gating Enables Curvature" (arXiv 2604.14702); the element-wise sigmoid is this project's choice.

    Args:
        q: `[B, H, T, D]`, any float dtype.
        k, v: `[B, H, S, D]`.
        gate: `[B, H, T, D]` logits; large positive logits give plain attention.
        mask: `[B, H, T, S] bool`, True where a query sees a key; a query that sees none gives zeros.
        causal: mask keys after the query. It requires T = S and no `mask`.

    Returns:
        `[B, H, T, D]`, dtype of `q`.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    _check(q, k, v, gate, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal) * torch.sigmoid(gate)


def naive_gated_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """`gated_attention` a query at a time: the oracle of its tests."""
    _check(q, k, v, gate, mask, causal)
    rows = []
    for t in range(q.shape[2]):
        logits = (k @ q[:, :, t, :, None]).squeeze(-1) * q.shape[-1] ** -0.5  # [B, H, S]
        seen = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask[:, :, t]
        if causal:
            seen = seen & (torch.arange(k.shape[2], device=k.device) <= t)
        weights = torch.exp(logits - logits.amax(-1, keepdim=True)) * seen
        total = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1)
        rows.append((weights.unsqueeze(-2) @ v).squeeze(-2) / (1 + torch.exp(-gate[:, :, t])))
    return torch.stack(rows, dim=2) if rows else torch.zeros_like(q)


class GatedAttention(nn.Module):
    """Multi-head self-attention with a gate computed from its input; see `gated_attention`.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim`.
        causal: mask tokens after the query.
        gate_bias: the gate's initial bias. The default opens it to 0.95, near plain attention.
    """

    def __init__(self, *, dim: int, heads: int, causal: bool = False, gate_bias: float = 3.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.heads = heads
        self.causal = causal
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.gate = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` of `x` `[B, T, dim]`."""
        match(x=(x, f"B T {self.gate.in_features}"))
        split = torch.cat((self.project(x), self.gate(x)), dim=-1).unflatten(-1, (4, self.heads, -1))
        q, k, v, gate = split.permute(2, 0, 3, 1, 4)  # each [B, H, T, D]
        return self.out(gated_attention(q, k, v, gate, causal=self.causal).transpose(1, 2).flatten(2))


def curvature(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    directions: int = 16,
    step: float = 1e-2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Measure how far `function` bends around `x`: its second difference over its first, averaged over random directions.

    `rho = |f(x + hu) - 2 f(x) + f(x - hu)| / |f(x + hu) - f(x - hu)|` with `h = step |x|`. It is 0 for an affine function of any
    scale. `rho` grows with `step`. If `rho / step` grows too, the step is too large to measure curvature. Use float64.
    Source: the probe used with arXiv 2604.14702, as described by others.

    Args:
        function: maps a batch `[N, ...]` to a batch, each row independently.
        x: `[...]`, one input, not zero.
        directions: how many random unit vectors.
        step: the step as a share of `|x|`.
        generator: source of the directions; None is torch's global generator.

    Returns:
        A scalar, dtype of `x`.
    """
    u = torch.randn((directions, *x.shape), dtype=x.dtype, device=x.device, generator=generator)
    u = u / u.flatten(1).norm(dim=1).view(-1, *[1] * x.dim())
    h = step * x.norm()
    ahead, centre, behind = (function(x + sign * h * u).flatten(1) for sign in (1, 0, -1))
    bend, slope = (ahead - 2 * centre + behind).norm(dim=1), (ahead - behind).norm(dim=1)
    return (bend / slope.clamp_min(torch.finfo(slope.dtype).tiny)).mean()


def _check(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, mask: Tensor | None, causal: bool) -> None:
    sizes = match(q=(q, "B H T D"), k=(k, "B H S D"), v=(v, "B H S D"), gate=(gate, "B H T D"))
    if mask is not None:
        match(q=(q, "B H T D"), k=(k, "B H S D"), mask=(mask, "B H T S"))
    if causal and (mask is not None or sizes["T"] != sizes["S"]):
        raise ValueError(
            f"causal needs as many keys as queries and no mask; got {sizes['T']} queries, {sizes['S']} keys"
        )
