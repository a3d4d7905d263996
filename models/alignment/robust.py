"""A homography from many matches, some of which are wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tocsin.models.alignment.geometry import Matrix, corners, moved

LEAST = 8
"""Matches that a homography needs."""
CORRELATED = 9.0
"""Neighbouring matches err alike: so many count as one."""


class Fitted(NamedTuple):
    """A homography, the error to be expected of it in pixels, mean over the frame, and the share of the matches that agree."""

    homography: Matrix
    error: float
    support: float


NOTHING = Fitted(np.eye(3), np.inf, 0.0)
"""Nothing was found."""


def ransac(first: Matrix, second: Matrix, *, threshold: float) -> Fitted:
    """The homography that most matches agree with to within `threshold` pixels; `first` and `second` are `[N, 2]`."""
    import cv2

    if len(first) < LEAST:
        return NOTHING
    cv2.setRNGSeed(0)
    found, inside = cv2.findHomography(first, second, cv2.RANSAC, threshold, maxIters=2000, confidence=0.999)
    if found is None or not np.isfinite(found).all():
        return NOTHING
    return Fitted(np.asarray(found, float), np.inf, float(inside.mean()))


def refined(
    first: Matrix, second: Matrix, width: Matrix, start: Matrix, size: tuple[int, int], *, steps: int = 8
) -> Fitted:
    """Weighted least squares, in which matches that differ much weigh little: Gauss-Newton steps with Cauchy's weights.

    Args:
        first, second: `[N, 2]`, pixels of the two frames.
        width: `[N]`, the error to be expected of each match, pixels.
        start: the first guess.
        size: of the first frame.
    """
    if len(first) < LEAST:
        return NOTHING
    scale = max(size) / 2
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    p, q = (first - middle) / scale, (second - middle) / scale
    to_unit = np.array([[1 / scale, 0, -middle[0] / scale], [0, 1 / scale, -middle[1] / scale], [0, 0, 1]])
    h = to_unit @ start @ np.linalg.inv(to_unit)
    h = h / h[2, 2]
    width = width / scale
    for _ in range(steps):
        slopes, residual, ahead = _linear(h, p, q)
        weight = ahead / (width**2 * (1 + (np.linalg.norm(residual, axis=1) / (2 * width)) ** 2))
        normal = np.einsum("nik,n,nil->kl", slopes, weight, slopes)
        step = np.linalg.solve(
            normal + 1e-9 * np.trace(normal) * np.eye(8), np.einsum("nik,n,ni->k", slopes, weight, residual)
        )
        h = h + np.append(step, 0).reshape(3, 3)
        if np.abs(step).max() < 1e-6:
            break
    slopes, residual, ahead = _linear(h, p, q)
    off = np.linalg.norm(residual, axis=1) / width
    weight = ahead / (width**2 * (1 + (off / 2) ** 2))
    normal = np.einsum("nik,n,nil->kl", slopes, weight, slopes)
    spread = np.linalg.inv(normal + 1e-9 * np.trace(normal) * np.eye(8)) * CORRELATED
    edges, _, _ = _linear(h, (corners(size) - middle) / scale, np.zeros((4, 2)))
    variance = np.einsum("nik,kl,nil->n", edges, spread, edges).mean()
    # Matches that spread more than they expected of themselves are worth less.
    excess = max(1.0, float((weight * (off * width) ** 2).sum() / max(2 * ahead.sum(), 1)))
    found = np.linalg.inv(to_unit) @ h @ to_unit
    return Fitted(
        found / found[2, 2], float(scale * np.sqrt(max(variance, 0.0) * excess)), float((ahead * (off < 2)).mean())
    )


def _linear(h: Matrix, p: Matrix, q: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The slopes of placed points by the first eight numbers of `h`, `[N, 2, 8]`; what is missing to `q`; 0 for points behind."""
    x, y = p.T
    bottom = h[2, 0] * x + h[2, 1] * y + h[2, 2]
    ahead = (bottom > 1e-6).astype(float)
    bottom = np.where(ahead > 0, bottom, 1.0)
    u, v = (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / bottom, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / bottom
    zero, one = np.zeros_like(x), np.ones_like(x)
    along = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1)
    down = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1)
    slopes = np.stack([along, down], 1) / bottom[:, None, None]
    return slopes, q - np.stack([u, v], 1), ahead


def plausible(homography: Matrix, size: tuple[int, int]) -> bool:
    """Whether two cameras of a rig can be so: the frame stays convex, is not mirrored, and keeps a fifth to five times its area."""
    placed = moved(homography, corners(size))
    if not np.isfinite(placed).all():
        return False
    sides = np.roll(placed, -1, 0) - placed
    after = np.roll(sides, -1, 0)
    turns = sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0]
    x, y = placed.T
    area = 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / (size[0] * size[1])
    return bool((turns > 0).all()) and 0.2 < area < 5
