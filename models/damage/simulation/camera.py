"""What a camera makes of a wall: light, colour, blur, grain and compression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.simulation.walls import Canvas


def taken(rng: np.random.Generator, wall: Canvas, *, strength: float = 1.0) -> NDArray[np.uint8]:
    """A picture of a wall `[H, W, 3]` by some camera in some light.

    Args:
        strength: of everything that is done to it; 0: nothing but rounding.
    """
    s, image = strength, np.asarray(wall, np.float64)
    if s and rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    mean = image.mean()
    image = (image - mean) * np.exp(rng.normal(0, 0.25 * s)) + mean * np.exp(rng.normal(0, 0.25 * s))
    image = image * np.exp(rng.normal(0, 0.06 * s, 3)) * np.clip(1, 45 / max(mean, 1), 190 / max(mean, 1))
    image = 255 * np.clip(image / 255, 0, 1) ** np.exp(rng.normal(0, 0.2 * s))
    if s and rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4 * s))
    image = image + rng.normal(0, rng.uniform(0, 7 * s), image.shape) if s else image
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if not s:
        return picture
    import simplejpeg

    file = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=int(rng.integers(45, 97)))
    return np.asarray(simplejpeg.decode_jpeg(file, "RGB"), np.uint8)
