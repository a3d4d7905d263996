"""Metrics of occupancy predictions: accuracy, precision, recall, F1, AUROC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score


def metrics(
    occupied: NDArray[np.bool_], predicted: NDArray[np.bool_], probability: NDArray[np.floating] | None = None
) -> dict[str, float]:
    """Compare predictions `[N]` with the truth.

    Args:
        occupied: the truth.
        predicted: the predictions.
        probability: from which the predictions were made; for `auroc`.

    Returns:
        `accuracy`, `precision`, `recall`, `f1`; `auroc` (nan without both classes or finite probabilities); `majority`, the
        accuracy of always predicting the more frequent class; `occupied`, the share of occupied rows.
    """
    share = float(occupied.mean()) if len(occupied) else float("nan")
    both = probability is not None and 0 < share < 1 and bool(np.isfinite(probability).all())
    return {
        "accuracy": float(accuracy_score(occupied, predicted)),
        "precision": float(precision_score(occupied, predicted, zero_division=0)),
        "recall": float(recall_score(occupied, predicted, zero_division=0)),
        "f1": float(f1_score(occupied, predicted, zero_division=0)),
        "auroc": float(roc_auc_score(occupied, probability)) if both else float("nan"),
        "majority": max(share, 1 - share),
        "occupied": share,
    }
