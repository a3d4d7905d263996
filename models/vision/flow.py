"""How a picture moves: dense flow between grey frames, and what of it is the camera's own motion."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 0.5
"""Pixels by which a vector may differ from the camera's motion and still be counted as caused by it."""
AT_ONCE = 4
"""Frames that are made grey together: more of them, as floats, leave a CPU's caches."""


def grey(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B, 3, H, W] uint8` -> `[B, *size] uint8`, brightness averaged over the pixels that fall into one."""
    if not len(pixels):
        return torch.empty(0, *size, dtype=torch.uint8)
    weights, shades = torch.tensor([0.299, 0.587, 0.114]), []
    for some in pixels.split(AT_ONCE):
        light = some.permute(0, 2, 3, 1).float() @ weights
        shades.append(F.interpolate(light[:, None], size, mode="area").squeeze(1).round().to(torch.uint8))
    return torch.cat(shades)


def between(
    before: NDArray[np.uint8], after: NDArray[np.uint8], every: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Where each pixel was before (DIS), and the similarity that says so of most (RANSAC).

    Args:
        before, after: `[H, W]`.
        every: of the flow one vector in so many pixels each way is looked at for the similarity.

    Returns:
        `[H, W, 2]`, how far from a pixel it was before, x and y; and `[2, 3]`, from a pixel to where it was.
    """
    import cv2

    # Pairs are what is shared out; over pictures this small OpenCV's own threads mostly wait for each other.
    cv2.setNumThreads(1)
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Less than half the time, and what most of the flow agrees with is as near to the simulator's truth as before.
    finder.setVariationalRefinementIterations(0)
    finder.setPatchStride(4)
    flow = finder.calc(after, before, np.zeros((*after.shape, 2), np.float32))
    here = places(after.shape, every)
    fitted, _ = cv2.estimateAffinePartial2D(
        here, here + sampled(flow, every), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=200
    )
    return flow, np.eye(2, 3) if fitted is None or not np.isfinite(fitted).all() else fitted


@cache
def places(size: tuple[int, int], every: int) -> NDArray[np.float32]:
    """The pixels (x, y) whose flow is looked at, `[P, 2]`."""
    y, x = np.mgrid[every // 2 : size[0] : every, every // 2 : size[1] : every].astype(np.float32)
    return np.stack([x, y], -1).reshape(-1, 2)


def sampled(flow: NDArray[np.float32], every: int) -> NDArray[np.float32]:
    """Their flow, `[..., H, W, 2]` -> `[..., P, 2]`."""
    some = flow[..., every // 2 :: every, every // 2 :: every, :]
    return some.reshape(*flow.shape[:-3], -1, 2)
