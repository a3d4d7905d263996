"""Motion in pictures: dense flow between grey frames, and the part of it that is the camera's own motion."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 0.5
"""Pixels by which a flow vector may differ from the camera's motion and still count as caused by it."""


def grey(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale to grey: `[B, 3, H, W] uint8` -> `[B, *size] uint8`, the mean brightness over the area of each output pixel."""
    import cv2

    shades = np.empty((len(pixels), *size), np.uint8)
    for frame, shade in zip(pixels.permute(0, 2, 3, 1).contiguous().numpy(), shades, strict=True):
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size[::-1], dst=shade, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(shades)


def between(
    before: NDArray[np.uint8], after: NDArray[np.uint8], every: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Dense flow between two frames, see `dense`, and the similarity that most of it agrees with (RANSAC).

    Args:
        before, after: `[H, W]`.
        every: distance in pixels, along rows and columns, between the flow vectors that the similarity is fitted to.

    Returns:
        The flow `[H, W, 2]`; and the similarity `[2, 3]`, from a pixel to where it was.
    """
    import cv2

    flow, points = dense(before, after), places(after.shape, every)
    fitted, _ = cv2.estimateAffinePartial2D(
        points, points + sampled(flow, every), method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=200
    )
    return flow, np.eye(2, 3) if fitted is None or not np.isfinite(fitted).all() else fitted


def dense(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Flow (DIS) from each pixel of `after` to where it was in `before`, in x and y: `[H, W]` twice -> `[H, W, 2]`."""
    import cv2

    # Callers process pairs in parallel. On pictures this small, OpenCV's own threads mostly wait for each other.
    cv2.setNumThreads(1)
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Takes less than half the time, and the fitted similarity stays as close to the simulator's ground truth.
    finder.setVariationalRefinementIterations(0)
    finder.setPatchStride(4)
    flow: NDArray[np.float32] = finder.calc(after, before, np.zeros((*after.shape, 2), np.float32))
    return flow


@cache
def places(size: tuple[int, int], every: int) -> NDArray[np.float32]:
    """The pixels (x, y) at which flow is sampled, `[P, 2]`."""
    y, x = np.mgrid[every // 2 : size[0] : every, every // 2 : size[1] : every].astype(np.float32)
    return np.stack([x, y], -1).reshape(-1, 2)


def sampled(flow: NDArray[np.float32], every: int) -> NDArray[np.float32]:
    """The flow at `places`, `[..., H, W, 2]` -> `[..., P, 2]`."""
    samples = flow[..., every // 2 :: every, every // 2 :: every, :]
    return samples.reshape(*flow.shape[:-3], -1, 2)
