"""Cross-attention of scene tokens to the tokens of the hands that are present."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match


def hand_attention(q: Tensor, k: Tensor, v: Tensor, present: Tensor) -> Tensor:
    """Attention to the tokens of two hands, either of which may be absent.

    An absent hand's tokens do not affect the result, even if they are NaN.
    Source: HiCE's hand cross-attention (arXiv 2604.12343).

    Args:
        q: `[B, H, T, D]`, of the scene's tokens, any float dtype.
        k, v: `[B, H, 2, S, D]`, of the left hand's tokens and the right hand's.
        present: `[B, 2] bool`, True where a hand is present.

    Returns:
        `[B, H, T, D]`, dtype of `q`; zeros in a frame without hands.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    tokens = _check(q, k, v, present)
    mask = present[:, None, :, None, None]
    # Masking is not enough: NaN times a weight of zero is NaN.
    k, v = (torch.where(mask, x, 0).flatten(2, 3) for x in (k, v))  # [B, H, 2S, D]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=present.repeat_interleave(tokens, dim=1)[:, None, None])


def naive_hand_attention(q: Tensor, k: Tensor, v: Tensor, present: Tensor) -> Tensor:
    """`hand_attention` a frame at a time: the oracle of its tests."""
    _check(q, k, v, present)
    frames = []
    for b, seen in enumerate(present):
        keys, values = k[b][:, seen].flatten(1, 2), v[b][:, seen].flatten(1, 2)  # [H, 0 to 2S, D]
        logits = q[b] @ keys.mT / math.sqrt(q.shape[-1])
        frames.append(torch.softmax(logits, dim=-1) @ values if seen.any() else torch.zeros_like(q[b]))
    return torch.stack(frames) if frames else q


def sine_positions(height: int, width: int, dim: int) -> Tensor:
    """Sine positions of a grid, `[height * width, dim]`: rows in the first half of `dim`, columns in the second.

    Args:
        height, width: size of the grid, whose tokens are in row-major order.
        dim: a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim ({dim}) must be a multiple of 4: sines and cosines of rows and of columns")
    rates = 10_000 ** (-4 * torch.arange(dim // 4) / dim)
    halves = []
    for size in (height, width):
        turns = torch.arange(1, size + 1)[:, None] / size  # one turn over the grid at the first rate
        angles = 2 * math.pi * turns * rates
        halves.append(torch.cat((angles.sin(), angles.cos()), dim=-1))
    rows, columns = halves[0].unsqueeze(1), halves[1].unsqueeze(0)
    return torch.cat((rows.expand(-1, width, -1), columns.expand(height, -1, -1)), dim=-1).flatten(0, 1)


class HandCrossAttention(nn.Module):
    """A pre-norm block in which a frame's tokens attend to the hands in it.

    A frame without hands is returned unchanged; only frames with hands are computed.
    Source: HiCE (arXiv 2604.12343). Dropout on the residual branches only is this project's choice.

    Args:
        dim: width of a token, a multiple of 4.
        heads: number of heads, which must divide `dim`.
        grid: height and width of the scene's token grid.
        hand_grid: height and width of a hand's token grid; None for the scene's.
        expansion: width of the feed-forward layer over `dim`.
        dropout: share of a residual branch's elements dropped in training.
    """

    scene_positions: Tensor
    hand_positions: Tensor

    def __init__(
        self,
        *,
        dim: int,
        heads: int = 8,
        grid: tuple[int, int] = (7, 7),
        hand_grid: tuple[int, int] | None = None,
        expansion: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.dim, self.heads = dim, heads
        self.register_buffer("scene_positions", sine_positions(*grid, dim), persistent=False)
        self.register_buffer("hand_positions", sine_positions(*(hand_grid or grid), dim), persistent=False)
        self.identity = nn.Parameter(0.02 * torch.randn(2, 1, dim))  # left, right
        self.before_attention = nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, expansion * dim), nn.ReLU(), nn.Linear(expansion * dim, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, scene: Tensor, hands: Tensor, present: Tensor) -> Tensor:
        """`[B, T, dim]`: the scene's tokens after attention to the hands.

        Args:
            scene: `[B, T, dim]`, one frame per row.
            hands: `[B, 2, S, dim]`, the left hand's tokens and the right hand's.
            present: `[B, 2] bool`, True where a hand is present.
        """
        scene_dims = f"B {len(self.scene_positions)} {self.dim}"
        match(
            scene=(scene, scene_dims),
            hands=(hands, f"B 2 {len(self.hand_positions)} {self.dim}"),
            present=(present, "B 2"),
        )
        frames = present.any(1).nonzero()[:, 0]
        x, present = scene.index_select(0, frames), present.index_select(0, frames)
        # Zero the tokens before the projections too: an absent hand's NaN would reach the projections' gradients.
        hands = torch.where(present[:, :, None, None], hands.index_select(0, frames), 0)
        q = self._heads(self.query(self.before_attention(x) + self.scene_positions))
        k, v = self._heads(self.key(hands + self.hand_positions + self.identity)), self._heads(self.value(hands))
        context = hand_attention(q, k, v, present).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(context))
        x = x + self.drop(self.feed_forward(x))
        return scene.index_copy(0, frames, x)

    def _heads(self, x: Tensor) -> Tensor:
        """`[B, ..., dim]` to `[B, H, ..., D]`."""
        return x.unflatten(-1, (self.heads, -1)).movedim(-2, 1)


def _check(q: Tensor, k: Tensor, v: Tensor, present: Tensor) -> int:
    sizes = match(q=(q, "B H T D"), k=(k, "B H 2 S D"), v=(v, "B H 2 S D"), present=(present, "B 2"))
    if present.dtype != torch.bool:
        raise ValueError(f"present is {present.dtype}, expected torch.bool; compare it with a threshold first")
    return sizes["S"]
