"""A patch budget: look closely only where a coarse look is least sure, with its patches as context, and blend both."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

Look = Callable[[Tensor], Tensor]
"""Numbers of patches `[K] int64` -> `[K, C, h, w]`, what a close look at each gives. It must not depend on the others."""


def refine(
    coarse: Tensor,
    confidence: Tensor,
    corners: Tensor,
    look: Look,
    *,
    count: int,
    sigma: float = 0.5,
    weight: float = 0.05,
) -> Tensor:
    """Look closely at the `count` patches of which the coarse look is least sure, and blend what they give into it.

    Source: PatchICL (arXiv 2604.12752): levels from coarse to fine, the next one where confidence is low, blended by Gaussians.
    Its levels take random patches by confidence; taking the lowest ones is this project's, so that a picture is judged the same
    each time.

    Args:
        coarse: `[C, H, W]`, the coarse look, enlarged to the places of the close ones.
        confidence: `[P]`; of patches with equal confidence, the first ones are taken.
        corners: `[P, 2] int64`, the first row and column of each patch.
        look: see `Look`; called once, unless `count` is 0.
        count: of patches; P or more: all.
        sigma: of the Gaussian over a patch, in halves of its sides.
        weight: of the coarse look, where the middle of a patch has 1.

    Returns:
        `[C, H, W]`. With `count` 0 it is `coarse`.

    Raises:
        ValueError: the shapes do not fit together, or `count` is negative.
    """
    chosen = least_sure(confidence, count)
    if not len(chosen):
        return coarse
    return blend(coarse, look(chosen), corners[chosen], sigma=sigma, weight=weight)


def naive_refine(
    coarse: Tensor,
    confidence: Tensor,
    corners: Tensor,
    look: Look,
    *,
    count: int,
    sigma: float = 0.5,
    weight: float = 0.05,
) -> Tensor:
    """`refine` with a close look at every patch, one at a time, and the sums place by place: the oracle of its tests."""
    looks = [look(torch.tensor([number]))[0] for number in range(len(confidence))]
    order = sorted(range(len(confidence)), key=lambda number: (float(confidence[number]), number))
    out = coarse.clone()
    for row in range(coarse.shape[1]):
        for column in range(coarse.shape[2]):
            total, weights = weight * coarse[:, row, column], weight
            for number in order[:count]:
                y, x = row - int(corners[number, 0]), column - int(corners[number, 1])
                h, w = looks[number].shape[1:]
                if 0 <= y < h and 0 <= x < w:
                    away = ((2 * y + 1 - h) / h) ** 2 + ((2 * x + 1 - w) / w) ** 2
                    share = math.exp(-away / (2 * sigma**2))
                    total, weights = total + share * looks[number][:, y, x], weights + share
            out[:, row, column] = total / weights
    return out


def least_sure(confidence: Tensor, count: int) -> Tensor:
    """The numbers of the `count` patches with the lowest confidence `[P]`, in the order of the patches, `[K] int64`."""
    match(confidence=(confidence, "P"))
    if count < 0:
        raise ValueError(f"count: expected 0 or more patches, got {count}")
    return torch.argsort(confidence, stable=True)[:count].sort().values


def blend(coarse: Tensor, looks: Tensor, corners: Tensor, *, sigma: float = 0.5, weight: float = 0.05) -> Tensor:
    """The mean of a coarse look `[C, H, W]` and close ones `[K, C, h, w]`, each with a Gaussian about its middle; see `refine`."""
    sizes = match(coarse=(coarse, "C H W"), looks=(looks, "K C h w"), corners=(corners, "K 2"))
    (height, width), (h, w) = (sizes["H"], sizes["W"]), (sizes["h"], sizes["w"])
    ends = corners + torch.tensor([h, w], device=corners.device)
    if len(corners) and (
        bool((corners < 0).any()) or bool((ends > torch.tensor([height, width], device=ends.device)).any())
    ):
        raise ValueError(f"corners: expected patches of {h} x {w} within {height} x {width}, got {corners.tolist()}")
    y, x = ((2 * torch.arange(n, device=looks.device, dtype=looks.dtype) + 1 - n) / n for n in (h, w))
    shares = torch.exp(-(y.square()[:, None] + x.square()) / (2 * sigma**2))  # [h, w]
    rows = corners[:, 0, None, None] + torch.arange(h, device=corners.device)[:, None]
    places = (
        rows * width + corners[:, 1, None, None] + torch.arange(w, device=corners.device)
    ).flatten()  # [K * h * w]
    total = (weight * coarse).flatten(1).index_add(1, places, (looks * shares).transpose(0, 1).flatten(1))
    weights = coarse.new_full((height * width,), weight).index_add(0, places, shares.expand(len(looks), h, w).flatten())
    return (total / weights).view_as(coarse)


def spread(length: int, size: int) -> Tensor:
    """The beginnings of the fewest pieces of `size` that cover `length`, as far apart as they can be, `[N] int64`."""
    if not 0 < size <= length:
        raise ValueError(f"size: expected 1 to {length}, the length, got {size}")
    return torch.linspace(0, length - size, -(-length // size)).round().long()


class PatchContext(nn.Module):
    """The places of close looks attend to the patches of the coarse one: what is usual for this picture.

    It starts as the identity. Source: the cross-attention between target and context patches of PatchICL, with its registers.

    Args:
        channels: C.
        heads: number of heads, which must divide `channels`.
        registers: learned context tokens, for places to which no patch says anything.
    """

    def __init__(self, *, channels: int, heads: int = 4, registers: int = 1) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads ({heads}) must divide channels ({channels})")
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.keys = nn.Linear(channels, 2 * channels)
        self.registers = nn.Parameter(torch.randn(registers, channels) / channels**0.5)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, looks: Tensor, context: Tensor) -> Tensor:
        """`[K, C, h, w]` of close looks `[K, C, h, w]` at one picture and its coarse patches `[P, C]`."""
        sizes = match(
            looks=(looks, f"K {self.query.in_channels} h w"), context=(context, f"P {self.query.in_channels}")
        )
        # Torch 2.13 ends the process in the gradient of a group norm over channels_last whose input needs none.
        q = self.query(self.norm(looks.contiguous())).flatten(2).unflatten(1, (self.heads, -1))  # [K, H, D, h * w]
        q = q.permute(1, 0, 3, 2).flatten(1, 2)  # [H, K * h * w, D]: all looks see the same patches
        tokens = torch.cat([self.registers.to(context.dtype), context])
        k, v = self.keys(tokens).unflatten(1, (2, self.heads, -1)).permute(1, 2, 0, 3)  # [H, R + P, D]
        seen = F.scaled_dot_product_attention(q[None], k[None], v[None])[0].unflatten(1, (len(looks), -1))
        seen = seen.permute(1, 0, 3, 2).flatten(1, 2)  # [K, C, h * w]
        return looks + self.out(seen.unflatten(2, (sizes["h"], sizes["w"])))
