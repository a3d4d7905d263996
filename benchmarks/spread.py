"""Mean and spread of a figure over seeds, as tables have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float], digits: int) -> str:
    """`0.52 ± 0.03`, the standard deviation of these very values; of one value, that value."""
    more = f" ± {np.std(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"
