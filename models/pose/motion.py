"""What a pair of frames says of the camera's motion: dense flow, how far each vector can be trusted, and a two-view estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.vision import flow

Array = NDArray[np.float64]

EVERY = 8
"""Spacing of the flow vectors that are used, pixels in both directions."""
FINE = 5
"""Variational refinements of the flow."""
TOLERANCE = 0.3
"""Pixels by which a flow vector may miss its epipolar line and still agree with a motion."""
FARTHEST = 2_000.0
"""Steps: what is farther away than so many of them is not judged to be in front of both cameras."""
LEAST = 6
"""Vectors in front of both cameras below which a two-view estimate does not count."""


@dataclass(frozen=True)
class Pairs:
    """Measurements of B pairs of frames, at G places each. All coordinates are those of a camera of focal length 1.

    Args:
        now: `[B, G, 2] float32`, the places, in the frame; then: where they were, in the frame before.
        trust: `[B, G, 2] float32`, the log of how much the pictures differ there, and the log of how much structure there is.
        guess: `[B, 7] float32`, of the two-view estimate: turn (rotation vector) and direction of the shift from the frame to the
            frame before, and the share of the vectors that agree; the direction and the share are 0 where there is none.
        focal: `[B] float32`, pixels.
    """

    now: Tensor
    then: Tensor
    trust: Tensor
    guess: Tensor
    focal: Tensor

    def at(self, index: Tensor | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(tensor[index] for tensor in vars(self).values()))


def pairs_of(
    before: Tensor,
    after: Tensor,
    lens: Array,
    *,
    each: Callable[..., Iterable[tuple[Array, Array, Array]]] = map,
) -> Pairs:
    """Measure pairs of grey frames, `[B, H, W] uint8` each.

    Args:
        lens: `[3, 3]`, or one of each pair, `[B, 3, 3]`.
        each: maps a function over pairs. A thread pool's `map` runs them in parallel, since OpenCV releases the GIL.
    """
    size, count = tuple(before.shape[1:]), len(before)
    lenses, points = np.broadcast_to(lens, (count, 3, 3)), flow.places((size[0], size[1]), EVERY)
    now = (points - lenses[:, None, :2, 2]) / lenses[:, None, [0, 1], [0, 1]]
    found = list(each(measured, before.numpy(), after.numpy(), lenses))
    shapes = (len(points), 2), (len(points), 2), (7,)
    parts = [np.stack(part) for part in zip(*found, strict=True)] if found else [np.zeros((0, *s)) for s in shapes]
    then, trust, guess = (torch.from_numpy(part.astype(np.float32)) for part in parts)
    here, focal = torch.from_numpy(now.astype(np.float32)), torch.from_numpy(lenses[:, 0, 0].astype(np.float32))
    return Pairs(here, then, trust, guess, focal)


def measured(before: NDArray[np.uint8], after: NDArray[np.uint8], lens: Array) -> tuple[Array, Array, Array]:
    """Measure one pair of grey frames `[H, W]` with the lens `[3, 3]`: places then `[G, 2]`, trust `[G, 2]`, guess `[7]`."""
    import cv2

    found = flow.dense(before, after, fine=FINE)
    points = flow.places(after.shape, EVERY)
    moved = points + flow.sampled(found, EVERY)
    rows, columns = after.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    warped = cv2.remap(before, x + found[..., 0], y + found[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    differs = cv2.blur(cv2.absdiff(warped, after).astype(np.float32), (EVERY - 1, EVERY - 1))
    structure = cv2.cornerMinEigenVal(after, EVERY - 1)
    images = np.stack([np.log(differs + 0.5), np.log(structure + 1e-5)], -1)
    trust = np.asarray(flow.sampled(images, EVERY), np.float64)
    return straightened(moved, lens), trust, guessed(points, moved, lens)


def straightened(points: NDArray[np.float32], lens: Array) -> Array:
    """Pixels `[G, 2]` as coordinates of a camera of focal length 1."""
    return np.asarray((points - lens[:2, 2]) / lens[[0, 1], [0, 1]])


def guessed(now: NDArray[np.float32], then: NDArray[np.float32], lens: Array, *, tolerance: float = TOLERANCE) -> Array:
    """The two-view estimate (essential matrix, RANSAC), see `Pairs.guess`: `[7]`."""
    import cv2

    nothing = np.zeros(7)
    essential, agree = cv2.findEssentialMat(now, then, lens, cv2.RANSAC, 0.999, tolerance)
    if essential is None or len(essential) < 3:
        return nothing
    share = float(agree.mean())
    count, turn, shift, *_ = cv2.recoverPose(essential[:3], now, then, lens, distanceThresh=FARTHEST, mask=agree)
    if count < LEAST:
        return nothing
    return np.concatenate([cv2.Rodrigues(turn)[0][:, 0], shift[:, 0], [share]])
