"""What is measured at each place of a frame: how it looks, and how it moves; and a small print by which a replay is recognised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.vision import flow

SIZE = 180, 320
"""Rows and columns of the frames that are measured."""
GRID = 9, 16
"""Rows and columns of places."""
PRINT = 18, 32
"""Rows and columns of a print."""
HALF = 90, 160
"""Rows and columns at which motion is measured."""
EVERY = 6
"""Distance in pixels of the flow vectors to which the camera's motion is fitted."""
APPEARANCE = ("light", "red", "blue", "contrast", "detail", "noise", "slant", "diagonal", "clipped")
"""Measures of how a place looks:

- light: mean brightness, 0 to 1; red, blue: how much more of that colour there is than of green, -1 to 1;
- contrast: logarithm of the deviation of the brightness; detail: of the mean edge; noise: of the deviation of the grain;
- slant, diagonal: whether edges are rather upright than level, and rather fall than rise, -1 to 1;
- clipped: share of pixels that are black or white.
"""
MOTION = ("change", "equal", "flow", "stray", "unexplained", "fixed")
"""Measures of how a place has moved since the frame before, NaN without one:

- change: logarithm of the mean difference; equal: share of pixels that are the same, of those that are not clipped;
- flow: logarithm of the length of the flow, in pixels; stray: of its difference from the motion of the whole picture;
- unexplained: logarithm of the mean difference to the frame before, moved by the flow;
- fixed: correlation of the grain with that of the frame before.
"""
DARK, BRIGHT = 6, 249
"""Brightness up to which a pixel counts as black, and from which on it counts as white."""
GRAIN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / np.float32(6)
"""Answers to grain, hardly to edges; that of unit noise has a deviation of 1. Source: Immerkaer (1996)."""
SEED = 20
"""Of the pattern by which prints are made."""


class Measured(NamedTuple):
    """The measures of a frame.

    Args:
        appearance: `[A, *GRID] float32`, of `APPEARANCE`.
        motion: `[M, *GRID] float32`, of `MOTION`; all NaN without a frame before.
        print: `[*PRINT] int8`: the picture times a fixed pattern of +1 and -1, summed over cells of 10 x 10 pixels.
    """

    appearance: NDArray[np.float32]
    motion: NDArray[np.float32]
    print: NDArray[np.int8]


def measured(picture: NDArray[np.uint8], before: NDArray[np.uint8] | None) -> Measured:
    """Measure a frame.

    Args:
        picture: `[*SIZE, 3]` RGB.
        before: `[*SIZE]`, the grey frame before; None: there is none.
    """
    shade = flow.grey_frame(picture, SIZE)
    bright = shade.astype(np.float32)
    return Measured(_appearance(picture, shade, bright), _motion(before, shade), _print(bright))


def film(pictures: Iterable[NDArray[np.uint8]]) -> Iterator[Measured]:
    """Measure the consecutive frames of a camera, `[*SIZE, 3]` each."""
    before = None
    for picture in pictures:
        yield measured(picture, before)
        before = flow.grey_frame(picture, SIZE)


def places(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each place, `[H, W]` or `[H, W, C]` -> `[*GRID]` or `[C, *GRID]`."""
    mean = np.asarray(cv2.resize(values, GRID[::-1], interpolation=cv2.INTER_AREA), np.float32)
    return mean if mean.ndim == 2 else np.ascontiguousarray(mean.transpose(2, 0, 1))


def grain(bright: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of a grey picture without its shapes, `[H, W]`."""
    return np.asarray(cv2.filter2D(bright, cv2.CV_32F, GRAIN), np.float32)


def _appearance(
    picture: NDArray[np.uint8], shade: NDArray[np.uint8], bright: NDArray[np.float32]
) -> NDArray[np.float32]:
    red, green, blue = places(picture.astype(np.float32)) / 255
    right, down = (cv2.Scharr(bright, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1)))
    edges = cv2.Laplacian(cv2.GaussianBlur(bright, (3, 3), 0), cv2.CV_32F)
    clipped = ((shade <= DARK) | (shade >= BRIGHT)).astype(np.float32)
    light, square, detail, noise = places(cv2.merge([bright, bright * bright, np.abs(edges), np.abs(grain(bright))]))
    across, along, both, share = places(cv2.merge([right * right, down * down, right * down, clipped]))
    steep = across + along + 1
    return np.stack(
        [
            light / 255,
            red - green,
            blue - green,
            np.log1p(np.sqrt(np.maximum(square - light * light, 0))),
            np.log1p(detail),
            np.log1p(1.2533 * noise),  # of unit noise, the mean is sqrt(2 / pi)
            (across - along) / steep,
            2 * both / steep,
            share,
        ]
    )


def _motion(before: NDArray[np.uint8] | None, shade: NDArray[np.uint8]) -> NDArray[np.float32]:
    if before is None:
        return np.full((len(MOTION), *GRID), np.nan, np.float32)
    apart = cv2.absdiff(before, shade)
    valid = ((shade > DARK) & (shade < BRIGHT)).astype(np.float32)
    same = (apart == 0) * valid
    now, then = grain(shade.astype(np.float32)), grain(before.astype(np.float32))
    change, valid_share, same_share = places(cv2.merge([apart.astype(np.float32), valid, same]))
    with_then, own, of_then = places(cv2.merge([now * then, now * now, then * then]))
    small, smaller = (cv2.resize(image, HALF[::-1], interpolation=cv2.INTER_AREA) for image in (shade, before))
    moved, similarity = flow.between(smaller, small, EVERY)
    y, x = _pixels()
    expected = similarity[:, 0] * x[..., None] + similarity[:, 1] * y[..., None] + similarity[:, 2]
    stray = np.hypot(x + moved[..., 0] - expected[..., 0], y + moved[..., 1] - expected[..., 1])
    came = cv2.remap(smaller, x + moved[..., 0], y + moved[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    unexplained = cv2.absdiff(small, came).astype(np.float32)
    length = np.hypot(moved[..., 0], moved[..., 1])
    lengths, strays, rests = places(cv2.merge([length, stray.astype(np.float32), unexplained]))
    return np.stack(
        [
            np.log1p(change),
            same_share / (valid_share + 0.05),
            np.log1p(lengths),
            np.log1p(strays),
            np.log1p(rests),
            with_then / (np.sqrt(own * of_then) + 0.05),
        ]
    ).astype(np.float32)


def _print(bright: NDArray[np.float32]) -> NDArray[np.int8]:
    summed = cv2.resize(bright * _pattern(), PRINT[::-1], interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(20 * summed), -127, 127).astype(np.int8)


@cache
def _pattern() -> NDArray[np.float32]:
    """+1 and -1 at random, as many of each in each cell of a print, `[*SIZE]`. Grain of deviation s prints with 2 s."""
    rng = np.random.default_rng(SEED)
    rows, columns = SIZE[0] // PRINT[0], SIZE[1] // PRINT[1]
    signs = np.resize(np.array([1, -1], np.float32), rows * columns)
    cells = rng.permuted(np.tile(signs, (*PRINT, 1)), axis=2).reshape(*PRINT, rows, columns)
    return np.ascontiguousarray(cells.transpose(0, 2, 1, 3).reshape(SIZE))


@cache
def _pixels() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[0 : HALF[0], 0 : HALF[1]].astype(np.float32)
    return y, x
