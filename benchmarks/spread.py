"""Mean and spread of a figure over seeds, formatted for tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float], digits: int) -> str:
    """Format values as `0.52 ± 0.03`: mean and population standard deviation, or only the value if there is one."""
    more = f" ± {np.std(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"
