"""What moves by itself: how places of the picture have moved and changed beyond what the camera's own motion explains.

A hand that reaches, stops and takes a thing along shows so whatever hand, thing and table look like.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.vision import flow

EVERY = 16
"""Of the flow one vector in so many pixels each way is looked at for the camera's motion."""
CHANNELS = 3
"""Right and down, pixels a frame, and brighter, in units of `SHADE`."""
SHADE = 32.0


def moving(pairs: Tensor) -> Tensor:
    """What has changed from one grey frame to the next, beyond the camera's motion.

    Args:
        pairs: `[B, 2, H, W] uint8`, the frame before and the frame.

    Returns:
        `[B, CHANNELS, H, W] float32`.
    """
    if not len(pairs):
        return torch.empty(0, CHANNELS, *pairs.shape[2:])
    return torch.from_numpy(np.stack([_beyond(before, after) for before, after in pairs.numpy()]))


def _beyond(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    height, width = after.shape
    moved, camera = flow.between(before, after, EVERY)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    (a, b, c), (d, e, f) = camera.astype(np.float32)
    still = cv2.warpAffine(
        before, camera, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    changed = (after.astype(np.float32) - still) / SHADE
    return np.stack([a * x + b * y + c - x - moved[..., 0], d * x + e * y + f - y - moved[..., 1], changed])
