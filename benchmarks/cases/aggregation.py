"""Attention to 3 % aggregates against attention to all tokens, and against cheaper choices of as many keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.merging import smooth_images
from benchmarks.cases.meter import Row, compare
from tocsin.operators.aggregation import SelectiveAttention, aggregate

DIM, HEADS, PATCH = 256, 8, 8


def rows(*, quick: bool) -> Iterator[Row]:
    for side in (16,) if quick else (32, 64, 96):
        torch.manual_seed(0)
        layer = SelectiveAttention(dim=DIM, heads=HEADS)
        torch.nn.init.normal_(layer.query.weight, std=2 * DIM**-0.5)  # attention that is not flat
        image = F.unfold(smooth_images(1, side * PATCH), PATCH, stride=PATCH).mT
        x = F.layer_norm(image @ torch.randn(image.shape[-1], DIM), (DIM,))
        tokens, few = side * side, max(round(layer.share * side * side), 1)
        with torch.inference_mode():
            full = attend(layer, x, x)
            strided = x[:, (2 * torch.arange(few) + 1) * tokens // (2 * few)]
            pooled = pool(x, side, few)
            errors = {
                "error": error(layer(x), full),
                "without masses": error(attend(layer, x, aggregate(x, few)[0]), full),
                f"{few} strided keys": error(attend(layer, x, strided), full),
                f"{pooled.shape[1]} pooled keys": error(attend(layer, x, pooled), full),
            }
        quality = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
        target = ">= 4" if tokens == 4096 else ""
        size = f"{tokens:,} tokens, {few} keys"
        yield compare(
            "SAT / SDPA, projections on both sides",
            size,
            lambda layer=layer, x=x: layer(x),
            lambda layer=layer, x=x: attend(layer, x, x),
            quality=quality,
            target=target,
        )


def attend(layer: SelectiveAttention, x: Tensor, to: Tensor) -> Tensor:
    """Apply the layer's attention from `x` to the tokens `to`."""
    q, k, v = (
        project(t).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for project, t in ((layer.query, x), (layer.key, to), (layer.value, to))
    )
    return layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def pool(x: Tensor, side: int, few: int) -> Tensor:
    """Return the means of at least `few` squares of the image."""
    squares = -int(-(few**0.5) // 1)
    return F.adaptive_avg_pool2d(x.mT.unflatten(-1, (side, side)), (squares, squares)).flatten(2).mT


def error(output: Tensor, full: Tensor) -> float:
    return ((output - full).norm() / full.norm()).item()
