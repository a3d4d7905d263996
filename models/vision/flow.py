"""Motion in pictures: dense flow between grey frames, and the part of it that is the camera's own motion."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 0.5
"""Pixels by which a flow vector may differ from the camera's motion and still count as caused by it."""
LOCAL = 9
"""Pixels, both ways, over which a pixel's brightness is compared, so that changes of light do not count."""
SETTLED = 0.01
"""Pixels: a smaller step ends the fit to brightness."""
REACH = 3.0
"""Pixels by which the fit to brightness may move a corner; one that goes further has found something else."""
OUTSIDE = 1e6
"""Marks pixels that the frame before did not show."""


def grey(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale to grey: `[B, 3, H, W] uint8` -> `[B, *size] uint8`, the mean brightness over the area of each output pixel."""
    shades = np.empty((len(pixels), *size), np.uint8)
    for number, frame in enumerate(pixels.permute(0, 2, 3, 1).contiguous().numpy()):
        shades[number] = grey_frame(frame, size)
    return torch.from_numpy(shades)


def grey_frame(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """As `grey`, for one frame `[H, W, 3]`."""
    import cv2

    shade = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(shade, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


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


def dense(before: NDArray[np.uint8], after: NDArray[np.uint8], *, fine: int = 0) -> NDArray[np.float32]:
    """Flow (DIS) from each pixel of `after` to where it was in `before`, in x and y: `[H, W]` twice -> `[H, W, 2]`.

    fine: variational refinements. Without any it takes less than half the time, and a similarity that is fitted to it stays as
    close to the simulator's ground truth.
    """
    import cv2

    # Callers process pairs in parallel. On pictures this small, OpenCV's own threads mostly wait for each other.
    cv2.setNumThreads(1)
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setVariationalRefinementIterations(fine)
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


def refined(
    before: NDArray[np.uint8], after: NDArray[np.uint8], similarity: NDArray[np.float64], *, steps: int = 3
) -> NDArray[np.float64]:
    """Fit a similarity to the brightness of all pixels: Gauss-Newton steps, in which pixels that differ much weigh little.

    Over weak texture and over patterns that repeat, dense flow errs in the same direction at many places, and so does a fit to it.

    Source: image alignment by Lucas and Kanade (1981) with Cauchy's weights; the local means are this project's choice.

    Args:
        before, after: `[H, W]`.
        similarity: `[2, 3]`, from a pixel to where it was: a first guess; the result where the fit leads away by `REACH`.
        steps: at most; they end when no pixel moves by more than `SETTLED`.

    Returns:
        `[2, 3]`.
    """
    import cv2

    (rows, columns), inner = after.shape, np.s_[1:-1, 1:-1]
    then, now = (
        image - cv2.blur(image, (LOCAL, LOCAL)) for image in (before.astype(np.float32), after.astype(np.float32))
    )
    right, down = (cv2.Sobel(now, cv2.CV_32F, *axis, ksize=3, scale=1 / 8)[inner].ravel() for axis in ((1, 0), (0, 1)))
    x, y = _centred((rows, columns))
    slopes = np.stack([right, down, right * x + down * y, down * x - right * y])  # by shift, growth and turn
    first, centre, now = similarity, np.array([(columns - 1) / 2, (rows - 1) / 2]), now[inner].ravel()
    for _ in range(steps):
        moved = cv2.warpAffine(
            then,
            similarity,
            (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=OUTSIDE,
        )
        error = moved[inner].ravel() - now
        outside = np.abs(error) > 510  # more than two brightnesses can differ
        usual = max(float(np.median(np.abs(error[::7]))), 0.5)
        error[outside] = 0
        weighted = slopes / (1 + (error / (3 * usual)) ** 2) * ~outside
        normal = weighted @ slopes.T
        normal[np.diag_indices(4)] += 1e-4 * np.trace(normal) / 4 + 1e-3
        *shift, growth, turn = -np.linalg.solve(normal, weighted @ error)
        step = np.array([[1 + growth / columns, -turn / columns], [turn / columns, 1 + growth / columns]])
        offset = centre + shift - step @ centre
        similarity = np.column_stack([similarity[:, :2] @ step, similarity[:, :2] @ offset + similarity[:, 2]])
        if max(*map(abs, shift), abs(growth) / 2, abs(turn) / 2) < SETTLED:
            break
    corners = np.array([[0, 0, 1], [columns, 0, 1], [0, rows, 1], [columns, rows, 1]])
    return similarity if np.abs((similarity - first) @ corners.T).max() < REACH else first


@cache
def _centred(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Columns and rows of all pixels but those of the edge, from the centre, in widths: `[(H - 2) * (W - 2)]` each."""
    y, x = np.mgrid[1 : size[0] - 1, 1 : size[1] - 1].astype(np.float32)
    return ((x - (size[1] - 1) / 2) / size[1]).ravel(), ((y - (size[0] - 1) / 2) / size[1]).ravel()
