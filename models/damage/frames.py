"""Sizes of looks: a picture is scaled to the coarse look, and in a large one, patches of a finer one are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from tocsin.models.damage.trunk import CELL, MULTIPLE
from tocsin.models.vision.picture import Picture
from tocsin.operators.budget import spread

PATCH = 256
"""Pixels of a patch's side in the close look."""


@dataclass(frozen=True)
class Plan:
    """How a picture is looked at.

    Args:
        size: rows and columns of the coarse look, in pixels.
        finer: by how much the close look is finer; 1: there is none.
        corners: `[P, 2] int64`, where its patches begin, in places of the close look.
        side: of a patch, rows and columns in places of the close look.
    """

    size: tuple[int, int]
    finer: int
    corners: Tensor
    side: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places of the coarse look."""
        return self.size[0] // CELL, self.size[1] // CELL


def plan(shape: tuple[int, int], *, small: int, large: int, finest: int) -> Plan:
    """Plan the looks at a picture of `shape`, rows and columns; see `DamageConfig`."""
    rows, columns = shape
    area = min(max(rows * columns, small), large)
    scale = math.sqrt(area / (rows * columns))
    size = (_multiple(rows * scale), _multiple(columns * scale))
    finer = min(finest, int(min(rows / size[0], columns / size[1]) + 0.25))
    if finer < 2:
        return Plan(size, 1, torch.empty(0, 2, dtype=torch.int64), (0, 0))
    # Patches begin at places of the coarse look, so that both looks agree where they are.
    side = tuple(min(max(1, PATCH // CELL // finer), n // CELL) for n in size)
    corners = torch.cartesian_prod(*(spread(n // CELL, s) for n, s in zip(size, side, strict=True))).view(-1, 2)
    return Plan(size, finer, corners * finer, (side[0] * finer, side[1] * finer))


def _multiple(length: float) -> int:
    return max(2 * MULTIPLE, MULTIPLE * round(length / MULTIPLE))


def batch(pictures: list[Picture]) -> Tensor:
    """Pictures of one size as `[B, 3, H, W] uint8`, laid out as the encoder is fastest."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def thin(fine: Picture, grid: tuple[int, int]) -> Tensor:
    """How dark the lines a few pixels wide are at each place of the coarse look, `[h, w]`, about 0 to 4.

    The coarse look does not see them: only so may a crack that is thinner than one of its pixels draw a close look.
    The unit is the picture's contrast.
    """
    grey = cv2.cvtColor(fine, cv2.COLOR_RGB2GRAY)
    lines = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((5, 5), np.uint8)).astype(np.float32)
    lines /= float(grey.std()) / 2 + 8
    return torch.from_numpy(cv2.resize(lines, grid[::-1], interpolation=cv2.INTER_AREA)).clamp(max=4)
