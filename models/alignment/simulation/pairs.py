"""Pairs of frames of one scene by two kinds of camera, with the homography between them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.alignment.geometry import Matrix, drawn
from tocsin.models.alignment.simulation.sensors import SENSORS, Sensor, seen

Picture = NDArray[np.float32]
TRAINED = ("same", "light", "inverted", "any", "heat", "heat", "heat")
"""Kinds of second cameras, as often as they are drawn for training."""


class Pair(NamedTuple):
    """Grey frames `[H, W]` of two cameras, and the homography from the first to the second."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    homography: Matrix


def view(bands: NDArray[np.generic], size: tuple[int, int], rng: np.random.Generator) -> Matrix:
    """A piece of a still as a camera sees it: the map from a pixel of the frame to one of the still."""
    rows, columns = bands.shape[:2]
    scale = min(rows / size[0], columns / size[1]) * rng.uniform(0.6, 0.85)
    x, y = rng.uniform(0, columns - scale * size[1]), rng.uniform(0, rows - scale * size[0])
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


def sampled(bands: NDArray[np.generic], to_still: Matrix, size: tuple[int, int]) -> Picture:
    """The still's bands at the pixels of a frame, `[*size, C]`; beyond the still's rim, the rim goes on mirrored."""
    found = cv2.warpPerspective(
        np.asarray(bands, np.float32),
        to_still,
        size[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(found, np.float32)


def pair(
    bands: NDArray[np.generic],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    first: Sensor = SENSORS["light"],
    second: Sensor | None = None,
    reach: float = 1.0,
) -> Pair:
    """A pair of frames of `size` from a still `[H, W, C]`.

    Args:
        first, second: the kinds of camera; None: one of those for training.
        reach: of the motion, see `drawn`.
    """
    second = second or SENSORS[TRAINED[int(rng.integers(len(TRAINED)))]]
    place, homography = view(bands, size, rng), drawn(rng, size, reach=reach)
    one, other = (sampled(bands, to, size) for to in (place, place @ np.linalg.inv(homography)))
    return Pair(seen(one, first, rng), seen(other, second, rng), homography)
