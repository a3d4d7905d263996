"""Cross-attention behind a FiLM gate: tokens take in features as far as the instance asks for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match


def film_attention(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, shift: Tensor, *, known: Tensor | None = None
) -> Tensor:
    """Add to tokens what they attend to among features, scaled and shifted by their instance.

    `x + scale * attention(q, k, v) + shift`. An instance whose scale and shift are 0 keeps its tokens, bit for bit.
    Source: the gate by which VisPrompt lets an image's features into prompt tokens, so that images with a wrong label can't bend
    them; as described by others. The residual form, and `known`, are this project's.

    Args:
        x: `[B, H, L, D]`, any float dtype; the tokens.
        q: `[B, H, L, D]`, from the tokens.
        k, v: `[B, H, N, D]`, from the features.
        scale, shift: `[B, H, D]`, from the instance.
        known: `[B, N] bool`, features that are there; None: all. With none, attention gives zeros.

    Returns:
        `[B, H, L, D]`, dtype of `x`.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    _check(x, q, k, v, scale, shift, known)
    mask = None if known is None else known[:, None, None]  # [B, 1, 1, N]
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if mask is not None:  # some kernels give NaN for a query that sees nothing
        seen = seen.masked_fill(~mask.any(dim=-1, keepdim=True), 0)
    return x + scale.unsqueeze(2) * seen + shift.unsqueeze(2)


def naive_film_attention(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, shift: Tensor, *, known: Tensor | None = None
) -> Tensor:
    """`film_attention` a token at a time: the oracle of its tests."""
    batch, heads, tokens, width = x.shape
    _check(x, q, k, v, scale, shift, known)
    out = 0 * x  # of the graph, also where the batch is empty
    for b in range(batch):
        there = range(k.shape[2]) if known is None else known[b].nonzero()[:, 0].tolist()
        for h in range(heads):
            for t in range(tokens):
                seen = torch.zeros_like(x[b, h, t])
                if there:
                    scores = torch.stack([(q[b, h, t] * k[b, h, n]).sum() for n in there])
                    weights = torch.softmax(scores * width**-0.5, dim=0)
                    seen = sum((w * v[b, h, n] for w, n in zip(weights, there, strict=True)), seen)
                out[b, h, t] = x[b, h, t] + scale[b, h] * seen + shift[b, h]
    return out


class FilmAttention(nn.Module):
    """Multi-head cross-attention behind a FiLM gate; see `film_attention`. It begins as the identity.

    Args:
        dim: width of a token.
        features: width of a feature.
        heads: number of heads, which must divide `dim`.
        instance: width of what describes an instance.
    """

    def __init__(self, *, dim: int, features: int, heads: int, instance: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(features, 2 * dim, bias=False)
        self.gate = nn.Linear(instance, 2 * dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, features: Tensor, instance: Tensor, known: Tensor | None = None) -> Tensor:
        """`[B, L, dim]` of `x` `[B, L, dim]`, `features` `[B, N, F]` and `instance` `[B, I]`; `known` as in `film_attention`."""
        width, wide = self.query.in_features, self.key_value.in_features
        match(
            x=(x, f"B L {width}"), features=(features, f"B N {wide}"), instance=(instance, f"B {self.gate.in_features}")
        )

        def split(tensor: Tensor) -> Tensor:
            return tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, ..., D]

        key, value = self.key_value(features).chunk(2, dim=-1)
        scale, shift = (part.unflatten(-1, (self.heads, -1)) for part in self.gate(instance).chunk(2, dim=-1))
        out = film_attention(
            split(x), split(self.query(self.norm(x))), split(key), split(value), scale, shift, known=known
        )
        return out.transpose(1, 2).flatten(2)


def _check(x: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: Tensor, shift: Tensor, known: Tensor | None) -> None:
    match(
        x=(x, "B H L D"),
        q=(q, "B H L D"),
        k=(k, "B H N D"),
        v=(v, "B H N D"),
        scale=(scale, "B H D"),
        shift=(shift, "B H D"),
    )
    if known is not None:
        match(k=(k, "B H N D"), known=(known, "B N"))
