"""What the network has to be better than: simple models over summaries of the same window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from models.occupancy.features import CLOCK
from models.occupancy.train import Room

Array = NDArray[np.float64]

MOST = 6_000
"""Minutes that the SVM, whose cost grows with their square, is trained on; drawn at random."""

BASELINES: Mapping[str, Callable[[int], ClassifierMixin]] = {
    "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
    "RBF-SVM": lambda seed: make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(C=1.0), ensemble=False)),
    "gradient boosting": lambda seed: HistGradientBoostingClassifier(
        max_iter=60,
        learning_rate=0.08,
        max_leaf_nodes=8,
        min_samples_leaf=300,
        l2_regularization=10,
        random_state=seed,
    ),
    "clock only": lambda seed: HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed),
}


def summaries(
    rooms: Sequence[Room], length: int, features: Sequence[str], *, clock: bool = False
) -> tuple[Array, Array]:
    """Of each window whose truth is known: the last row, and the means of its last 10 rows and of all; 0 where nothing is known.

    Args:
        clock: the last row's time of day and week alone.

    Returns:
        `[N, 3 F]` or, of the clock, `[N, 4]`, and the truth `[N]`.
    """
    inputs, truth = [], []
    for room in rooms:
        ends = room.known(length)
        rows = np.nan_to_num(room.features.double().numpy())
        sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, 0)])
        end = ends.numpy()
        if clock:
            inputs.append(rows[end][:, [features.index(name) for name in CLOCK]])
        else:
            means = [(sums[end + 1] - sums[end + 1 - n]) / n for n in (10, length)]
            inputs.append(np.concatenate([rows[end], *means], 1))
        truth.append(room.occupied[ends].double().numpy())
    return np.concatenate(inputs), np.concatenate(truth)


def fit_baseline(
    name: str, rooms: Sequence[Room], length: int, features: Sequence[str], *, seed: int = 0
) -> Callable[[Sequence[Room]], Array]:
    """Train one of `BASELINES`; what comes back gives the probability `[N]` of each window of other rooms whose truth is known."""
    clock = name == "clock only"
    x, y = summaries(rooms, length, features, clock=clock)
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(x))[: MOST if name == "RBF-SVM" else round(0.9 * len(x))]
    model = BASELINES[name](seed).fit(x[some], y[some] > 0.5)
    return lambda others: model.predict_proba(summaries(others, length, features, clock=clock)[0])[:, 1]
