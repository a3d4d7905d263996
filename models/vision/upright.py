"""Tells an upright picture from one that is upside down, by a linear head over the tokens of a frozen encoder.

What is up shows in many ways: light from above, a floor that is near below and far above, arms that enter from below. The head
weighs what the encoder sees in the upper third, the middle and the lower third of the picture, less the same of the picture turned
by half. So a turned picture has the opposite sign, and one without an up, such as of a floor from above, is near 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from tocsin.models import files
from tocsin.models.vision.encoder import Encoder, load

SIZE = (144, 256)
"""Rows and columns of the pictures that it sees."""
LAYER = "stride32"
WEIGHTS = Path(__file__).parent / "weights" / "upright.safetensors"
"""The shipped head; `tocsin.models.vision.upright_train` writes it."""


class Upright:
    """How upright a picture is.

    Args:
        weight: `[3 D]`, of the encoder's tokens in the upper third, the middle and the lower third.
        encoder: of pictures of `SIZE`.
    """

    def __init__(self, weight: Tensor, encoder: Encoder) -> None:
        self._weight, self._encoder = weight, encoder

    def __call__(self, picture: NDArray[np.uint8]) -> float:
        """Positive for an upright picture `[*SIZE, 3]` RGB, negative for one upside down; 1 is common in training."""
        return float(difference(picture, self._encoder) @ self._weight)


def load_upright(device: str = "auto") -> Upright:
    """Load the shipped head.

    Raises:
        ValueError: it was trained on another encoder than the one found here.
    """
    encoder = load(size=SIZE, device=device, layer=LAYER)
    (name, weight), *_ = files.read_weights(WEIGHTS).items()
    if name != encoder.version:
        raise ValueError(
            f"{WEIGHTS}: expected a head for encoder {encoder.version}, got one for {name}; train it again"
        )
    return Upright(weight, encoder)


def store(weight: Tensor, encoder: Encoder, file: Path) -> None:
    """Write a head, under the name of its encoder's version."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write({file: save({encoder.version: weight})})


def difference(picture: NDArray[np.uint8], encoder: Encoder) -> Tensor:
    """What the encoder sees in the thirds of a picture, less the same of the picture turned by half, `[3 D]`.

    Both run alone: in a larger batch they would be rounded otherwise, and the split of a stream into steps would make a difference.
    """
    both = np.stack([picture, picture[::-1, ::-1]])
    rows = encoder(torch.from_numpy(both).permute(0, 3, 1, 2)).tokens.unflatten(1, encoder.grid).mean(2)  # [2, h, D]
    third = max(1, encoder.grid[0] // 3)
    parts = rows[:, :third].mean(1), rows[:, third:-third].mean(1), rows[:, -third:].mean(1)
    upright, turned = torch.cat(parts, 1)
    return upright - turned
