"""Baselines that the network has to beat: simple models over summaries of the same window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tocsin.models.occupancy.features import CLOCK
from tocsin.models.occupancy.train import Room

Array = NDArray[np.float64]
Settings = Mapping[str, float]

SVM_MINUTES = 6_000
"""Minutes that the SVM is trained on, at most, drawn at random. Its cost grows with their square."""


def _logistic(seed: int, settings: Settings) -> ClassifierMixin:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **settings))


def _svm(seed: int, settings: Settings) -> ClassifierMixin:
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(**settings), ensemble=False))


def _boosting(seed: int, settings: Settings) -> ClassifierMixin:
    return HistGradientBoostingClassifier(random_state=seed, **settings)


_CONSTRUCTORS: Mapping[str, Callable[[int, Settings], ClassifierMixin]] = {
    "logistic regression": _logistic,
    "RBF-SVM": _svm,
    "gradient boosting": _boosting,
    "clock only": _boosting,
}
BASELINES: Mapping[str, Settings] = {
    "logistic regression": {"C": 0.01},
    "RBF-SVM": {"C": 1.0, "gamma": 0.0256},
    "gradient boosting": {
        "max_iter": 60,
        "learning_rate": 0.08,
        "max_leaf_nodes": 8,
        "min_samples_leaf": 300,
        "l2_regularization": 10,
    },
    "clock only": {"max_iter": 60, "max_leaf_nodes": 8},
}
"""Each baseline's settings, by scikit-learn's names."""


@dataclass(frozen=True)
class Baseline:
    """One of `BASELINES`, trained.

    Args:
        name: its name in `BASELINES`.
        classifier: predicts from `summaries`.
        length: rows per window.
        features: names of the rooms' features, in order.
    """

    name: str
    classifier: ClassifierMixin
    length: int
    features: Sequence[str]

    def __call__(self, rooms: Sequence[Room]) -> Array:
        """The probability `[N]` of occupancy for each window whose truth is known."""
        x, _ = summaries(rooms, self.length, self.features, clock=self.name == "clock only")
        return self.classifier.predict_proba(x)[:, 1]

    @property
    def parameters(self) -> int:
        """Number of learned values without the scaling: weights, support vectors and their weights, or leaves and two per split."""
        if self.name in ("gradient boosting", "clock only"):
            trees = [
                tree for trees in self.classifier._predictors for tree in trees
            ]  # scikit-learn has no public access to them
            leaves = sum(tree.get_n_leaf_nodes() for tree in trees)
            return int(leaves + 2 * (leaves - len(trees)))
        last = self.classifier[-1]
        if self.name == "logistic regression":
            return last.coef_.size + last.intercept_.size
        (calibrated,) = last.calibrated_classifiers_
        svm, sigmoid = calibrated.estimator, 2
        return svm.support_vectors_.size + svm.dual_coef_.size + svm.intercept_.size + sigmoid


def summaries(
    rooms: Sequence[Room], length: int, features: Sequence[str], *, clock: bool = False
) -> tuple[Array, Array]:
    """Summarise each window whose truth is known: its last row, the mean of its last 10 rows and of all. Unknown values are 0.

    Args:
        clock: use only the last row's time of day and week.

    Returns:
        `[N, 3 F]`, or `[N, 4]` with `clock`, and the truth `[N]`.
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
    name: str,
    rooms: Sequence[Room],
    length: int,
    features: Sequence[str],
    *,
    seed: int = 0,
    settings: Settings | None = None,
) -> Baseline:
    """Train one of `BASELINES` on the windows of some rooms whose truth is known.

    Args:
        settings: override the baseline's own, all or some of them.
    """
    x, y = summaries(rooms, length, features, clock=name == "clock only")
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(x))[: SVM_MINUTES if name == "RBF-SVM" else round(0.9 * len(x))]
    classifier = _CONSTRUCTORS[name](seed, {**BASELINES[name], **(settings or {})})
    return Baseline(name, classifier.fit(x[sample], y[sample] > 0.5), length, features)
