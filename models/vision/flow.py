"""How a picture moves: dense flow between grey frames, and what of it is the camera's own motion."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 0.5
"""Pixels by which a vector may differ from the camera's motion and still be counted as caused by it."""


def grey(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B, 3, H, W] uint8` -> `[B, *size] uint8`, brightness averaged over the pixels that fall into one."""
    import cv2

    shades = np.empty((len(pixels), *size), np.uint8)
    for frame, shade in zip(pixels.permute(0, 2, 3, 1).contiguous().numpy(), shades, strict=True):
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size[::-1], dst=shade, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(shades)


def between(
    before: NDArray[np.uint8], after: NDArray[np.uint8], every: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Where each pixel was before, see `dense`, and the similarity that says so of most (RANSAC).

    Args:
        before, after: `[H, W]`.
        every: of the flow one vector in so many pixels each way is looked at for the similarity.

    Returns:
        `[H, W, 2]`; and `[2, 3]`, from a pixel to where it was.
    """
    import cv2

    flow, here = dense(before, after), places(after.shape, every)
    fitted, _ = cv2.estimateAffinePartial2D(
        here, here + sampled(flow, every), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=200
    )
    return flow, np.eye(2, 3) if fitted is None or not np.isfinite(fitted).all() else fitted


def dense(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far from a pixel it was before, x and y (DIS): `[H, W]` twice -> `[H, W, 2]`."""
    import cv2

    # Pairs are what is shared out; over pictures this small OpenCV's own threads mostly wait for each other.
    cv2.setNumThreads(1)
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Less than half the time, and what most of the flow agrees with is as near to the simulator's truth as before.
    finder.setVariationalRefinementIterations(0)
    finder.setPatchStride(4)
    flow: NDArray[np.float32] = finder.calc(after, before, np.zeros((*after.shape, 2), np.float32))
    return flow


@cache
def places(size: tuple[int, int], every: int) -> NDArray[np.float32]:
    """The pixels (x, y) whose flow is looked at, `[P, 2]`."""
    y, x = np.mgrid[every // 2 : size[0] : every, every // 2 : size[1] : every].astype(np.float32)
    return np.stack([x, y], -1).reshape(-1, 2)


def sampled(flow: NDArray[np.float32], every: int) -> NDArray[np.float32]:
    """Their flow, `[..., H, W, 2]` -> `[..., P, 2]`."""
    some = flow[..., every // 2 :: every, every // 2 :: every, :]
    return some.reshape(*flow.shape[:-3], -1, 2)
