"""A rig's two frames, and the second brought over the first in every other square by what the shipped weights find."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib.axes import Axes

from tocsin.models.alignment.model import load
from tocsin.models.alignment.simulation.rig import Rig

SEED, SQUARE, GAP = 3, 40, 8


def draw(axes: Axes) -> None:
    (sight,) = Rig(SEED, pairs=1, every=1.0, start=11)
    found = load().align(sight.first, sight.second)
    size = sight.first.shape
    brought = cv2.warpPerspective(
        sight.second, found.homography, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    y, x = np.mgrid[: size[0], : size[1]] // SQUARE
    both = np.where((x + y) % 2 == 0, sight.first, brought)
    gap = np.full((size[0], GAP), 255, np.uint8)
    picture = np.hstack([sight.first, gap, sight.second, gap, both])
    axes.imshow(
        cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), cmap="gray", vmin=0, vmax=255
    )
    axes.set_axis_off()
    axes.set_title("Light, heat, and the second frame brought over the first in squares")
