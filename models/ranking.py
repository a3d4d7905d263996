"""How well scores rank what is true above what is not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def auroc(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """The share of pairs of a true and an untrue row in which the true one scores higher; equal scores count half.

    Args:
        scores, truth: `[N]`.

    Returns:
        NaN without both kinds of rows, and where a score is not finite.
    """
    from sklearn.metrics import roc_auc_score  # a second to import

    if truth.all() or not truth.any() or not np.isfinite(scores).all():
        return math.nan
    return float(roc_auc_score(truth, scores))
