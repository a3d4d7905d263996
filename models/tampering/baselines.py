"""What the model is compared with: hashes that repeat, differences between frames, and blur."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tocsin.models.tampering.memory import averaged

HASH = 9, 16
"""Rows and columns of a difference hash, and one more column of brightness."""
PAST, NEAR = 320, 20
"""Frames that are remembered, and the newest ones that do not count as past ones."""
USUAL = 200
"""Frames over which what is usual is averaged."""
SMALL = 90, 160
NAMES = ("hashes", "frame differences", "blur")


def baselines(pictures: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.float64]]:
    """The scores of a camera's frames by each of `NAMES`, `[T]`; higher is more suspicious.

    - hashes: share of bits that agree with the most similar past frame, or with the last one, beyond what is usual;
    - frame differences: by how many deviations the difference to the last frame is off what is usual;
    - blur: the same of the variance of the Laplacian.
    """
    hashes, alike, differences, edges, before = (
        list[NDArray[np.bool_]](),
        list[float](),
        list[float](),
        list[float](),
        None,
    )
    for picture in pictures:
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), SMALL[::-1], interpolation=cv2.INTER_AREA)
        cells = cv2.resize(grey, (HASH[1] + 1, HASH[0]), interpolation=cv2.INTER_AREA).astype(np.int16)
        own = (cells[:, 1:] > cells[:, :-1]).ravel()
        past = [*hashes[-PAST:-NEAR], *hashes[-1:]]
        alike.append(max((float((own == one).mean()) for one in past), default=0.5))
        hashes.append(own)
        differences.append(0.0 if before is None else float(np.log1p(cv2.absdiff(grey, before).mean())))
        edges.append(float(np.log1p(cv2.Laplacian(grey, cv2.CV_32F).var())))
        before = grey
    return {
        "hashes": _off(alike),
        "frame differences": np.abs(_off(differences)),
        "blur": np.abs(_off(edges)),
    }


def _off(values: list[float]) -> NDArray[np.float64]:
    """By how many deviations each value is off the mean of those before it."""
    mean, square, found = torch.zeros(()), torch.zeros(()), []
    for seen, value in enumerate(values):
        deviation, off = (square + 1e-4).sqrt(), value - mean
        found.append(float(off / deviation))
        mean, square = averaged(mean, square, off, deviation, torch.tensor(seen), usual=USUAL, settles=NEAR + 1)
    return np.array(found)
