"""Whether two pictures show the same place, and by how much the camera has moved between them.

Phase correlation finds a shift, not a turn: that is enough for a fixed camera that was knocked. The pipeline asks for an `Aligner`
alone, so that a registration that finds more can take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
SIZE = (90, 160)
"""Rows and columns of the grey pictures that are compared."""
FARTHEST = 0.2
"""Shift, as a share of a side, beyond which another place is shown."""
LEAST = 0.35
"""Correlation of fine structure below which another place is shown."""

Aligner = Callable[[Grey, Grey], tuple[float, float] | None]
"""A reference and a picture `[H, W]` -> how far down and right its contents moved, as shares of its sides; None: another place."""


def phase(reference: Grey, picture: Grey) -> tuple[float, float] | None:
    """Align by phase correlation of the pictures' relief, so that light does not count; an `Aligner`."""
    a, b = _relief(reference), _relief(picture)
    (dx, dy), _ = cv2.phaseCorrelate(a, b, _window(reference.shape))
    rows, columns = reference.shape
    if abs(dy) > FARTHEST * rows or abs(dx) > FARTHEST * columns:
        return None
    moved = cv2.warpAffine(a, np.float32([[1, 0, dx], [0, 1, dy]]), (columns, rows))  # type: ignore[arg-type]
    top, left = int(np.ceil(abs(dy))) + 1, int(np.ceil(abs(dx))) + 1
    part = slice(top, rows - top), slice(left, columns - left)
    one, other = moved[part].ravel(), b[part].ravel()
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    alike = float(one @ other) / length if length else 1.0
    return (dy / rows, dx / columns) if alike >= LEAST else None


def _relief(grey: Grey) -> NDArray[np.float32]:
    x = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.8)
    mean = cv2.blur(x, (17, 17))
    spread = np.sqrt(cv2.blur((x - mean) ** 2, (17, 17)))
    return np.asarray((x - mean) / (spread + 4), np.float32)


@cache
def _window(shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.createHanningWindow(shape[::-1], cv2.CV_32F))
