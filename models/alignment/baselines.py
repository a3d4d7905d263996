"""Registration without a network, by OpenCV: features with RANSAC, correlation of brightness, and phase correlation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.alignment.geometry import Matrix

Grey = NDArray[np.uint8]
THRESHOLD = 3.0
"""Pixels to which matches agree with a homography."""


def sift(first: Grey, second: Grey) -> Matrix | None:
    """SIFT, ratio test, RANSAC; None: too few matches."""
    return _by_features(cv2.SIFT.create(2000), cv2.NORM_L2, first, second)


def orb(first: Grey, second: Grey) -> Matrix | None:
    """ORB, ratio test, RANSAC; None: too few matches."""
    return _by_features(cv2.ORB.create(2000), cv2.NORM_HAMMING, first, second)


def ecc(first: Grey, second: Grey) -> Matrix | None:
    """Maximise the correlation coefficient from coarse to fine: a shift, then an affine map, then a homography."""
    start = np.eye(3)
    for level, kind in ((2, cv2.MOTION_TRANSLATION), (1, cv2.MOTION_AFFINE), (0, cv2.MOTION_HOMOGRAPHY)):
        scale = 2.0**level
        small = [cv2.resize(f, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA) for f in (first, second)]
        zoom = np.diag([1 / scale, 1 / scale, 1])
        guess = (zoom @ start @ np.linalg.inv(zoom)).astype(np.float32)
        guess = guess if kind == cv2.MOTION_HOMOGRAPHY else guess[:2]
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
        try:
            _, found = cv2.findTransformECC(small[0], small[1], guess, kind, criteria, np.full_like(small[1], 255), 5)
        except cv2.error:  # it did not converge
            return None
        whole = np.vstack([found, [0, 0, 1]]) if found.shape[0] == 2 else found
        start = np.linalg.inv(zoom) @ whole @ zoom
    return np.asarray(start, float)


def phase(first: Grey, second: Grey) -> Matrix | None:
    """Phase correlation: a shift alone."""
    window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(first.astype(np.float32), second.astype(np.float32), window)
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


BASELINES: dict[str, Callable[[Grey, Grey], Matrix | None]] = {
    "SIFT + RANSAC": sift,
    "ORB + RANSAC": orb,
    "ECC": ecc,
    "phase correlation": phase,
}


def _by_features(finder: Any, norm: int, first: Grey, second: Grey) -> Matrix | None:
    (points, one), (others, other) = (finder.detectAndCompute(frame, None) for frame in (first, second))
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return None
    pairs = [p for p in cv2.BFMatcher(norm).knnMatch(one, other, k=2) if len(p) == 2]
    good = [a for a, b in pairs if a.distance < 0.8 * b.distance]
    if len(good) < 4:
        return None
    start = np.array([points[m.queryIdx].pt for m in good])
    end = np.array([others[m.trainIdx].pt for m in good])
    found, _ = cv2.findHomography(start, end, cv2.RANSAC, THRESHOLD)
    return None if found is None or not np.isfinite(found).all() else np.asarray(found, float)
