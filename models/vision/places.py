"""Places: frames that show what an earlier frame showed, by features that most agree on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEATURES = 96
"""Of a frame, at most."""
RATIO = 0.8
"""A feature is like another one if the second best is farther by this."""
CLOSE = 1.5
"""Pixels by which a feature may miss its epipolar line."""
AGREE = 0.6
"""Share of the features alike that must agree on one motion."""
SAME = 20
"""Features that agree on one motion, from which on two frames show one place."""
TRIED = 3
"""Places that are compared closely."""


class View(NamedTuple):
    """The features of a frame (ORB).

    Args:
        points: `[FEATURES, 2] int16`, x and y; marks: `[FEATURES, 32] uint8`; both are zero from `number` on.
        number: of features.
    """

    points: NDArray[np.int16]
    marks: NDArray[np.uint8]
    number: int


def view(grey: NDArray[np.uint8]) -> View:
    """Find the features of a grey frame `[H, W]`."""
    import cv2

    finder = cv2.ORB.create(FEATURES, scaleFactor=1.2, nlevels=6, edgeThreshold=12, patchSize=25, fastThreshold=7)
    found, described = finder.detectAndCompute(grey, None)
    count = min(len(found), FEATURES)
    points, marks = np.zeros((FEATURES, 2), np.int16), np.zeros((FEATURES, 32), np.uint8)
    if count:
        points[:count] = np.round([key.pt for key in found[:count]])
        marks[:count] = described[:count]
    return View(points, marks, count)


def common(one: View, other: View) -> int:
    """How many features of two views agree on one motion of the camera."""
    import cv2

    if min(one.number, other.number) < SAME:
        return 0
    near = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(one.marks[: one.number], other.marks[: other.number], k=2)
    good = [best for best, second in near if best.distance < RATIO * second.distance]
    if len(good) < SAME:
        return 0
    here = one.points[[match.queryIdx for match in good]].astype(np.float64)
    there = other.points[[match.trainIdx for match in good]].astype(np.float64)
    _, agree = cv2.findFundamentalMat(here, there, cv2.FM_RANSAC, CLOSE, 0.99, 300)
    count = 0 if agree is None else int(agree.sum())
    return count if count >= AGREE * len(good) else 0


def recognised(
    seen: View, marks: NDArray[np.uint8], points: NDArray[np.int16], counts: NDArray[np.int64]
) -> int | None:
    """Which of P places a view shows, None: none of them.

    The places with the most features alike are compared closely.

    Args:
        marks: `[P, FEATURES, 32]`; points: `[P, FEATURES, 2]`; counts: `[P]`, as those of `View`; 0 where there is no place.
    """
    if seen.number < SAME or not (counts >= SAME).any():
        return None
    votes = _votes(seen, marks, counts)
    best, agreed = None, 0
    for place in np.argsort(-votes, kind="stable")[:TRIED].tolist():
        if votes[place] < SAME:
            break
        count = common(seen, View(points[place], marks[place], int(counts[place])))
        if count > agreed and count >= SAME:
            best, agreed = place, count
    return best


def _votes(seen: View, marks: NDArray[np.uint8], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many features of a view are like one of each place, `[P]`."""
    bits = 256
    own = 2 * np.unpackbits(seen.marks[: seen.number], axis=1).astype(np.float32) - 1
    others = 2 * np.unpackbits(marks.reshape(-1, 32), axis=1).astype(np.float32) - 1
    apart = ((bits - own @ others.T) / 2).reshape(seen.number, *marks.shape[:2])  # [N, P, FEATURES]
    apart[:, np.arange(marks.shape[1]) >= counts[:, None]] = bits
    two = np.partition(apart, 1, axis=2)[:, :, :2]
    return (two[..., 0] < RATIO * two[..., 1]).sum(0)
