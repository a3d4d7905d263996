"""What the model is compared with: visual odometry by ORB and RANSAC, and the two-view estimate by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.models.pose.motion import guessed, measured

Array = NDArray[np.float64]
Grey = NDArray[np.uint8]

POINTS = 1000
"""Features of a frame, at most."""
TOLERANCE = 1.0
"""Pixels by which a feature may miss its epipolar line; on validation films better than 0.25."""


class Followed(NamedTuple):
    """Steps from each frame to the frame before, of F frames but the first.

    Args:
        turn: `[F - 1, 3, 3]`; shift: `[F - 1, 3]`, of any length.
    """

    turn: Array
    shift: Array


def orb(frames: Iterable[Grey], lens: Array, *, tolerance: float = TOLERANCE) -> Followed:
    """Odometry from frame to frame: ORB features, the essential matrix (RANSAC), and where that fails, the step before again."""
    import cv2

    finder = cv2.ORB.create(POINTS, fastThreshold=7, edgeThreshold=15)
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    guesses, before = [], None
    for frame in frames:
        keys, marks = finder.detectAndCompute(frame, None)
        now = np.array([key.pt for key in keys], np.float32).reshape(-1, 2), marks
        if before is not None:
            guess = np.zeros(7)
            if min(len(now[0]), len(before[0])) >= 8:
                pairs = matcher.match(now[1], before[1])
                one, other = ([getattr(p, side) for p in pairs] for side in ("queryIdx", "trainIdx"))
                if len(pairs) >= 8:
                    guess = guessed(now[0][one], before[0][other], lens, tolerance=tolerance)
            guesses.append(guess)
        before = now
    return _steps(guesses)


def flowed(frames: Iterable[Grey], lens: Array) -> Followed:
    """Odometry by the two-view estimate that the model refines: dense flow in place of features."""
    guesses, before = [], None
    for frame in frames:
        if before is not None:
            guesses.append(measured(before, frame, lens)[2])
        before = frame
    return _steps(guesses)


def _steps(guesses: list[Array]) -> Followed:
    """Estimates as of `guessed` as steps; one that is missing is that before."""
    import cv2

    turns, shifts, last = [], [], (np.eye(3), np.array([0.0, 0.0, 1.0]))
    for guess in guesses:
        if guess[6]:
            last = np.asarray(cv2.Rodrigues(guess[:3])[0]), guess[3:6]
        turns.append(last[0])
        shifts.append(last[1])
    return Followed(np.stack(turns), np.stack(shifts))
