"""Camera effects: exposure drift, vignetting, motion blur and noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

MARGIN = 48


class Sensor:
    """A camera's sensor and shutter.

    Args:
        rng: random generator.
        count: frames.
        rate: frames per second.
        size: rows and columns.
        grain: bounds of the noise, levels.
        drift: bounds of the slow changes of exposure, as a share.
        shutter: bounds of the share of a frame's time that the shutter is open.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        count: int,
        rate: float,
        size: tuple[int, int],
        grain: tuple[float, float],
        drift: tuple[float, float],
        shutter: tuple[float, float],
    ) -> None:
        seconds = np.arange(count) / rate
        self.shutter = rng.uniform(*shutter)
        self._gain = np.ones(count)
        for period in (rng.uniform(2, 6), rng.uniform(7, 20)):
            self._gain += rng.uniform(*drift) * np.sin(2 * np.pi * (seconds / period + rng.random()))
        self._tint = rng.uniform(0.93, 1.07, 3)
        rows, columns = size
        noise = rng.normal(0, rng.uniform(*grain), (rows + MARGIN, columns + MARGIN, 3))
        noise = cv2.GaussianBlur(noise, (3, 3), 0.5) * 1.6
        self._brighter, self._darker = (np.clip(np.rint(sign * noise), 0, 255).astype(np.uint8) for sign in (1, -1))
        self._offsets = rng.integers(0, MARGIN, (count, 2))
        down, right = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
        dark = 1 - rng.uniform(0.05, 0.25) * (down**2 + right**2) / 2
        self._lens = np.repeat(np.rint(255 * dark)[..., None], 3, 2).astype(np.uint8)

    def sensed(self, picture: Frame, frame: int) -> Frame:
        """A picture `[H, W, 3]` as the sensor records it."""
        levels = np.arange(256)[:, None] * (self._gain[frame] * self._tint)
        curve = np.where(levels > 215, 215 + 40 * np.tanh((levels - 215) / 60), levels)
        table = np.clip(np.rint(curve), 0, 255).astype(np.uint8)[None]
        picture = cv2.LUT(cv2.multiply(picture, self._lens, scale=1 / 255), table)
        top, left = self._offsets[frame]
        span = np.s_[top : top + picture.shape[0], left : left + picture.shape[1]]
        return cv2.subtract(cv2.add(picture, self._brighter[span]), self._darker[span])

    def smeared(self, picture: Frame, motion: Array) -> Frame:
        """Blur a picture, or a piece of one, that moves by `motion` `[2]` pixels (right, down) per frame."""
        distance = self.shutter * float(np.hypot(*motion))
        if distance < 1.0:
            return picture
        reach = min(int(np.ceil(distance / 2)), 20)
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        half = motion / np.hypot(*motion) * min(distance / 2, 20)
        ends = np.rint((np.array([reach - half, reach + half])) * 16).astype(int)
        cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0, 1, cv2.LINE_8, 4)
        return cv2.filter2D(picture, -1, kernel / kernel.sum())
