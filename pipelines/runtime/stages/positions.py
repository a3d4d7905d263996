"""Positions of rows in their key's order, as whole numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

PARTS = 1_000_000
"""Parts of a unit. A position with a fraction is stored as a whole number of parts."""


def positions(column: pa.Array) -> Tensor:
    """A column as whole numbers that can be compared."""
    if pa.types.is_floating(column.type):
        return torch.from_numpy(np.rint(column.to_numpy().astype(np.float64) * PARTS).astype(np.int64))
    return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())
