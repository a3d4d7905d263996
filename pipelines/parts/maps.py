"""Maps of frames as columns of the table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def nested(maps: NDArray[np.float32]) -> pa.ListArray:
    """Maps `[B, h, w]` as a column of lists of rows."""
    count, h, w = maps.shape
    rows = pa.array(np.arange(0, maps.size + 1, w, dtype=np.int32))
    frames = pa.array(np.arange(0, count * h + 1, h, dtype=np.int32))
    return pa.ListArray.from_arrays(frames, pa.ListArray.from_arrays(rows, pa.array(maps.ravel())))
