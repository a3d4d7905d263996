"""Homographies between two frames, in pixels: `[3, 3]`, from a pixel (x, y) of the first to its place in the second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def corners(size: tuple[int, int]) -> Matrix:
    """The corners of a frame of so many rows and columns, `[4, 2]`: upper left, upper right, lower right, lower left."""
    rows, columns = size
    return np.array([[0, 0], [columns - 1, 0], [columns - 1, rows - 1], [0, rows - 1]], float)


def moved(homography: Matrix, points: Matrix) -> Matrix:
    """Where points `[..., 2]` are in the other frame; infinite behind the camera."""
    placed = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(placed[..., 2:] > 1e-9, placed[..., :2] / placed[..., 2:], np.inf)


def offsets(homography: Matrix, size: tuple[int, int]) -> Matrix:
    """How far the corners move, `[4, 2]` pixels."""
    return moved(homography, corners(size)) - corners(size)


def from_offsets(shift: Matrix, size: tuple[int, int]) -> Matrix:
    """The homography that moves the corners by `shift` `[4, 2]`."""
    import cv2

    start = corners(size).astype(np.float32)
    return np.asarray(cv2.getPerspectiveTransform(start, (start + shift).astype(np.float32)), float)


def distance(one: Matrix, other: Matrix, size: tuple[int, int]) -> float:
    """Mean distance in pixels between where two homographies put a grid of places of a frame; infinite for one that is none."""
    rows, columns = size
    y, x = np.mgrid[0 : rows - 1 : 5j, 0 : columns - 1 : 5j]
    grid = np.stack([x, y], -1)
    return float(np.linalg.norm(moved(one, grid) - moved(other, grid), axis=-1).mean())


def scaled(homography: Matrix, first: tuple[float, float], second: tuple[float, float]) -> Matrix:
    """The same map after the frames are scaled: `first` and `second` are (x, y) factors. Pixels' centres are at whole numbers."""
    return _scaling(*second) @ homography @ np.linalg.inv(_scaling(*first))


def _scaling(x: float, y: float) -> Matrix:
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def drawn(rng: np.random.Generator, size: tuple[int, int], *, reach: float = 1.0) -> Matrix:
    """A homography as between two cameras of a rig: shift, turn, zoom and tilt by chance.

    Args:
        reach: 1: shifts up to a quarter of the frame, turns of 20 degrees, zooms of a quarter; less in proportion.
    """
    rows, columns = size
    angle, zoom = np.radians(20) * reach * rng.uniform(-1, 1), np.exp(0.22 * reach * rng.uniform(-1, 1))
    shift = 0.22 * reach * rng.uniform(-1, 1, 2) * (columns, rows)
    middle = np.array([[1, 0, (columns - 1) / 2], [0, 1, (rows - 1) / 2], [0, 0, 1]])
    turn = np.array(
        [
            [zoom * np.cos(angle), -zoom * np.sin(angle), shift[0]],
            [zoom * np.sin(angle), zoom * np.cos(angle), shift[1]],
            [0, 0, 1],
        ]
    )
    tilt = from_offsets(0.04 * reach * rng.uniform(-1, 1, (4, 2)) * (columns, rows), size)
    return np.asarray(middle @ turn @ np.linalg.inv(middle) @ tilt)
