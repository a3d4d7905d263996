"""Feature-flow attention: a place of one picture attends to places of another, and its value is where they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.operators.shapes import match


class Matches(NamedTuple):
    """Where places are in another picture.

    Args:
        flow: `[B, 2, H, W]`, by how many places in x and y.
        weights: `[B, K, H, W]`, the attention to the K steps of a window, rows first. They sum to 1.
    """

    flow: Tensor
    weights: Tensor


def flow_attention(query: Tensor, key: Tensor, flow: Tensor, *, radius: int, scale: Tensor | float) -> Matches:
    """Correct a flow: each place attends to a window around itself in the other picture, which the flow has brought over.

    The keys are warped by the flow. Place p attends to p + d for all steps d of a window with the weights
    `softmax_d(scale q(p) . warped k(p + d))`. Its value at p + d is `d + flow(p + d)`: the other picture's place that was brought
    to p + d. Steps beyond the frame, or to places that the flow brought from beyond the other picture, have no weight. If there is
    no other step, the flow stays and all weights are 0.
    Source: feature-flow attention of CRFT (arXiv 2604.05689), reconstructed from its description. There the weights come from
    differences of features and the values are flows alone; adding the step makes it a match, this project's choice.

    Args:
        query: `[B, C, H, W]`, any float dtype.
        key: `[B, C, H, W]`, as `query`.
        flow: `[B, 2, H, W]`, in places: x, then y.
        radius: of the window, places: it has `2 radius + 1` squared steps.
        scale: of the products; a number or a tensor without dimensions.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    match(query=(query, "B C H W"), key=(key, "B C H W"), flow=(flow, "B 2 H W"))
    _, _, height, width = query.shape
    places = _places(flow)  # [2, H, W]
    target = places + flow
    inside = _inside(target, height, width).to(flow.dtype)  # [B, 1, H, W]
    warped = warp(key, flow)
    values = torch.cat([target, inside], 1)  # [B, 3, H, W], of each place in the frame of the query
    side = 2 * radius + 1
    keys, values = (F.pad(t, [radius] * 4) for t in (warped, values))
    steps = [
        (slice(None), slice(None), slice(dy, dy + height), slice(dx, dx + width))
        for dy in range(side)
        for dx in range(side)
    ]
    logits = torch.stack([(query * keys[step]).sum(1) for step in steps], 1) * scale  # [B, K, H, W]
    there = torch.stack([values[step][:, 2] for step in steps], 1) > 0
    logits = logits.masked_fill(~there, torch.finfo(logits.dtype).min)
    weights = torch.softmax(logits, 1) * there
    reached = sum(weights[:, k, None] * values[step][:, :2] for k, step in enumerate(steps))
    return Matches(torch.where(weights.sum(1, keepdim=True) > 0, reached - places, flow), weights)


def naive_flow_attention(query: Tensor, key: Tensor, flow: Tensor, *, radius: int, scale: Tensor | float) -> Matches:
    """`flow_attention` place by place: the oracle of its tests. Arguments and results are the same."""
    match(query=(query, "B C H W"), key=(key, "B C H W"), flow=(flow, "B 2 H W"))
    batch, _, height, width = query.shape
    window = range(-radius, radius + 1)
    flows, weights = torch.empty_like(flow), query.new_empty(batch, len(window) ** 2, height, width)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                logits, values, steps = [], [], []
                for k, (dy, dx) in enumerate((dy, dx) for dy in window for dx in window):
                    if not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    at = flow.new_tensor([x + dx, y + dy]) + flow[b, :, y + dy, x + dx]
                    if not (0 <= at[0] <= width - 1 and 0 <= at[1] <= height - 1):
                        continue
                    logits.append(scale * query[b, :, y, x].dot(_between(key[b], at)))
                    values.append(at)
                    steps.append(k)
                weights[b, :, y, x] = 0
                flows[b, :, y, x] = flow[b, :, y, x]
                if steps:
                    shares = torch.softmax(torch.stack(logits), 0)
                    weights[b, steps, y, x] = shares
                    flows[b, :, y, x] = shares @ torch.stack(values) - flow.new_tensor([x, y])
    return Matches(flows, weights)


def global_flow_attention(query: Tensor, key: Tensor, *, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Attention of all places of two pictures to each other, both ways.

    Source: the dual softmax of LoFTR (arXiv 2104.00680), on which CRFT builds.

    Args:
        query: `[B, C, H, W]`, any float dtype.
        key: `[B, C, h, w]`.
        scale: as for `flow_attention`.

    Returns:
        The logarithm of each place's attention to all places of the other picture, `[B, H W, h w]`; and of the other's to it.
        Their sum is that of the probability that each chooses the other.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    match(query=(query, "B C H W"), key=(key, "B C h w"))
    logits = query.flatten(2).mT @ key.flatten(2) * scale  # [B, H W, h w]
    return torch.log_softmax(logits, 2), torch.log_softmax(logits, 1)


def warp(key: Tensor, flow: Tensor) -> Tensor:
    """What is at the places that a flow `[B, 2, H, W]` points at, bilinear, 0 beyond the frame: `[B, C, H, W]` -> the same."""
    height, width = key.shape[2:]
    target = _places(flow) + flow
    size = target.new_tensor([max(width - 1, 1), max(height - 1, 1)])[:, None, None]
    grid = (2 * target / size - 1).permute(0, 2, 3, 1)
    return F.grid_sample(key, grid.to(key.dtype), mode="bilinear", padding_mode="zeros", align_corners=True)


def _places(flow: Tensor) -> Tensor:
    """Each place's x and y, `[2, H, W]`."""
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=flow.dtype, device=flow.device) for n in flow.shape[2:]), indexing="ij"
    )
    return torch.stack([x, y])


def _inside(target: Tensor, height: int, width: int) -> Tensor:
    x, y = target[:, :1], target[:, 1:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _between(key: Tensor, at: Tensor) -> Tensor:
    """The key at a place between others, bilinear: `[C, H, W]` -> `[C]`."""
    (x, y), (height, width) = at, key.shape[1:]
    left, top = math.floor(float(x)), math.floor(float(y))
    total = torch.zeros_like(key[:, 0, 0])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total = total + (1 - (x - column).abs()) * (1 - (y - row).abs()) * key[:, row, column]
    return total
