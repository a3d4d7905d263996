"""Large frames of walls with little damage at known places, as a drone or a camera on a mast takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tocsin.models.damage.network import CLASSES
from tocsin.models.damage.simulation.camera import taken
from tocsin.models.damage.simulation.flaws import FLAWS, distraction
from tocsin.models.damage.simulation.walls import mosaic, wall

REAL = 0.6
"""Share of frames over real textures, where there are any."""


def frame(
    rng: np.random.Generator,
    real: Sequence[NDArray[np.uint8]] = (),
    size: tuple[int, int] = (1080, 1920),
    share: float = 0.7,
) -> tuple[NDArray[np.uint8], int, NDArray[np.float32]]:
    """A picture `[H, W, 3]`, its class, and the damaged share of each pixel.

    Args:
        real: pictures of intact walls.
        share: of frames with damage.
    """
    over_real = len(real) > 0 and rng.random() < REAL
    image = mosaic(rng, real[int(rng.integers(len(real)))], size) if over_real else wall(rng, size)
    for _ in range(int(rng.integers(0, 3))):
        image = distraction(rng, image)
    kind, mask = 0, np.zeros(size, np.float32)
    while rng.random() < share and not kind:
        number = int(rng.choice([1, 2, 3], p=[0.6, 0.2, 0.2]))
        hurt, mask = FLAWS[CLASSES[number]](rng, image, float(np.exp(rng.normal(0.1, 0.35))))
        if (mask > 0.3).sum() >= 60:
            image, kind = hurt, number
    if not kind:
        mask = np.zeros(size, np.float32)
    return taken(rng, image, strength=0.7), kind, mask
