"""Ego-motion: the camera's own part of the change between two frames, from optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.vision import flow

SIZE = (72, 128)
"""Height and width of the grey frames from which flow is computed."""
EVERY = 8
"""Spacing of the flow vectors that are used, pixels in both directions."""
ACTION = ("shift_x", "shift_y", "zoom", "roll", "flow", "divergence", "curl", "residual")
"""Units, per frame: shifts, flow and residual in frame widths; zoom log of scale; roll radians; divergence and curl 1."""


@dataclass(frozen=True)
class Motion:
    """The camera's motion from the frame before to each of B frames.

    Args:
        warp: `[B, 2, 3] float32`, from a place in the frame to its place in the frame before, as `F.affine_grid` takes it.
        action: `[B, len(ACTION)] float32`, the pooled flow: the predictor's input for the vehicle's action.
    """

    warp: Tensor
    action: Tensor


def still(count: int) -> Motion:
    """No motion at all, for B frames."""
    return Motion(torch.eye(2, 3).expand(count, 2, 3).clone(), torch.zeros(count, len(ACTION)))


def grey(pixels: Tensor) -> Tensor:
    """`[B, 3, H, W] uint8` -> `[B, *SIZE] uint8`, see `tocsin.models.vision.flow.grey`."""
    return flow.grey(pixels, SIZE)


def ego_motion(
    before: Tensor,
    after: Tensor,
    *,
    each: Callable[..., Iterable[tuple[NDArray[np.float32], NDArray[np.float64]]]] = map,
) -> Motion:
    """Measure the camera's motion between frames: dense flow (DIS), and the similarity that most of it agrees with (RANSAC).

    Source: DINO-Explorer (arXiv 2604.12933) pools RAFT's flow as the efference copy. Flow on the CPU, the similarity and its
    use as a warp are this project's choices.

    Args:
        before, after: `[B, *SIZE] uint8`, from `grey`.
        each: maps a function over pairs. A thread pool's `map` runs them in parallel, since OpenCV releases the GIL.
    """
    if not len(after):
        return still(0)
    results = list(each(_measured, before.numpy(), after.numpy()))
    flows, affine = (np.stack(parts) for parts in zip(*results, strict=True))  # [B, *SIZE, 2], [B, 2, 3]
    height, width = SIZE
    points, sample = flow.places(SIZE, EVERY), flow.sampled(flows, EVERY)
    a, b = affine[:, 0, 0], affine[:, 1, 0]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = affine[:, :, :2] @ centre + affine[:, :, 2] - centre
    residual = sample + points - (points @ affine[:, :, :2].mT + affine[:, None, :, 2])
    action = [
        shift[:, 0] / width,
        shift[:, 1] / width,
        np.log(np.maximum(np.hypot(a, b), 1e-3)),
        np.arctan2(b, a),
        np.linalg.norm(sample, axis=2).mean(1) / width,
        _slope(flows[..., 0].mT) + _slope(flows[..., 1]),
        _slope(flows[..., 1].mT) - _slope(flows[..., 0]),
        np.median(np.linalg.norm(residual, axis=2), axis=1) / width,
    ]
    return Motion(torch.from_numpy(_normalised(affine)), torch.from_numpy(np.stack(action, 1).astype(np.float32)))


def _measured(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The flow between two grey frames, and the camera's similarity."""
    found, similarity = flow.between(before, after, EVERY)
    return found, flow.refined(before, after, similarity)


def _slope(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of `np.gradient(values, axis=1)` over each `[H, W]`, `[B]`.

    The sum of the gradients depends only on the two rows at either edge.
    """
    edges = values[:, [0, 1, -2, -1]].mean(2)
    return (1.5 * (edges[:, 3] - edges[:, 0]) + 0.5 * (edges[:, 1] - edges[:, 2])) / values.shape[1]


def _normalised(affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Convert affine maps of pixels, `[B, 2, 3]`, to coordinates from -1 to 1, which are the edges of the outer pixels."""
    height, width = SIZE
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])
    homogeneous = np.concatenate([affine, np.broadcast_to([[[0, 0, 1]]], (len(affine), 1, 3))], 1)
    normalised = np.linalg.inv(to_pixels) @ homogeneous @ to_pixels
    return normalised[:, :2].astype(np.float32)
