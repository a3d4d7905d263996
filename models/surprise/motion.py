"""Ego-motion: what of the change between two frames is the camera's own, from optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIZE = (72, 128)
"""Height and width of the grey frames between which flow is found."""
EVERY = 8
"""Of the flow one vector in so many pixels each way is looked at."""
TOLERANCE = 0.5
"""Pixels by which a vector may differ from the camera's motion and still be counted as caused by it."""
AT_ONCE = 4
"""Frames that are made grey together: more of them, as floats, leave a CPU's caches."""
ACTION = ("shift_x", "shift_y", "zoom", "roll", "flow", "divergence", "curl", "residual")
"""Shifts, flow and residual in frame widths a frame, the others a frame: log of scale, radians, 1, 1."""


@dataclass(frozen=True)
class Motion:
    """The camera's motion from the frame before to each of B frames.

    Args:
        warp: `[B, 2, 3] float32`, from a place in the frame to where it was in the frame before, as `F.affine_grid` takes it.
        action: `[B, len(ACTION)] float32`, the flow pooled: what the predictor is told of the vehicle's action.
    """

    warp: Tensor
    action: Tensor


def still(count: int) -> Motion:
    """No motion at all, for B frames."""
    return Motion(torch.eye(2, 3).expand(count, 2, 3).clone(), torch.zeros(count, len(ACTION)))


def grey(pixels: Tensor) -> Tensor:
    """`[B, 3, H, W] uint8` -> `[B, *SIZE] uint8`, brightness averaged over the pixels that fall into one."""
    if not len(pixels):
        return torch.empty(0, *SIZE, dtype=torch.uint8)
    weights, shades = torch.tensor([0.299, 0.587, 0.114]), []
    for some in pixels.split(AT_ONCE):
        light = some.permute(0, 2, 3, 1).float() @ weights
        shades.append(F.interpolate(light[:, None], SIZE, mode="area").squeeze(1).round().to(torch.uint8))
    return torch.cat(shades)


def ego_motion(
    before: Tensor,
    after: Tensor,
    *,
    each: Callable[..., Iterable[tuple[NDArray[np.float32], NDArray[np.float64]]]] = map,
) -> Motion:
    """What the camera did between frames: dense flow (DIS), and the similarity that most of it agrees with (RANSAC).

    Source: DINO-Explorer (arXiv 2604.12933) pools RAFT's flow as the efference copy; flow on the CPU, the similarity and its
    use as a warp are this project's choices.

    Args:
        before, after: `[B, *SIZE] uint8`, from `grey`.
        each: maps a function over pairs; a thread pool's, since OpenCV lets go of the interpreter's lock.
    """
    if not len(after):
        return still(0)
    import cv2

    # Pairs are what is shared out; over pictures this small OpenCV's own threads mostly wait for each other.
    cv2.setNumThreads(1)
    found = list(each(_between, before.numpy(), after.numpy()))
    flow, fitted = (np.stack(parts) for parts in zip(*found, strict=True))  # [B, *SIZE, 2], [B, 2, 3]
    height, width = SIZE
    here, sample = _places(), _sampled(flow)
    a, b = fitted[:, 0, 0], fitted[:, 1, 0]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = fitted[:, :, :2] @ centre + fitted[:, :, 2] - centre
    away = sample + here - (here @ fitted[:, :, :2].mT + fitted[:, None, :, 2])
    action = [
        shift[:, 0] / width,
        shift[:, 1] / width,
        np.log(np.maximum(np.hypot(a, b), 1e-3)),
        np.arctan2(b, a),
        np.linalg.norm(sample, axis=2).mean(1) / width,
        _slope(flow[..., 0].mT) + _slope(flow[..., 1]),
        _slope(flow[..., 1].mT) - _slope(flow[..., 0]),
        np.median(np.linalg.norm(away, axis=2), axis=1) / width,
    ]
    return Motion(torch.from_numpy(_normalised(fitted)), torch.from_numpy(np.stack(action, 1).astype(np.float32)))


def _between(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Where each pixel was before, `[*SIZE, 2]`, and the similarity that says so of most, `[2, 3]`."""
    import cv2

    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Less than half the time, and what most of the flow agrees with is as near to the simulator's truth as before.
    finder.setVariationalRefinementIterations(0)
    finder.setPatchStride(4)
    flow = finder.calc(after, before, np.zeros((*SIZE, 2), np.float32))
    here = _places()
    fitted, _ = cv2.estimateAffinePartial2D(
        here, here + _sampled(flow), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=200
    )
    return flow, np.eye(2, 3) if fitted is None or not np.isfinite(fitted).all() else fitted


@cache
def _places() -> NDArray[np.float32]:
    """The pixels (x, y) whose flow is looked at, `[P, 2]`."""
    y, x = np.mgrid[EVERY // 2 : SIZE[0] : EVERY, EVERY // 2 : SIZE[1] : EVERY].astype(np.float32)
    return np.stack([x, y], -1).reshape(-1, 2)


def _sampled(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Their flow, `[..., *SIZE, 2]` -> `[..., P, 2]`."""
    some = flow[..., EVERY // 2 :: EVERY, EVERY // 2 :: EVERY, :]
    return some.reshape(*flow.shape[:-3], -1, 2)


def _slope(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The means of `np.gradient(values, axis=1)` over `[B, H, W]`, of which nothing is left but the two rows at either edge."""
    edges = values[:, [0, 1, -2, -1]].mean(2)
    return (1.5 * (edges[:, 3] - edges[:, 0]) + 0.5 * (edges[:, 1] - edges[:, 2])) / values.shape[1]


def _normalised(fitted: NDArray[np.float64]) -> NDArray[np.float32]:
    """Affine maps of pixels, `[B, 2, 3]`, as ones of places from -1 to 1, edges of the outer pixels at both ends."""
    height, width = SIZE
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])
    square = np.concatenate([fitted, np.broadcast_to([[[0, 0, 1]]], (len(fitted), 1, 3))], 1)
    whole = np.linalg.inv(to_pixels) @ square @ to_pixels
    return whole[:, :2].astype(np.float32)
