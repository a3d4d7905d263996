"""The confidence of alignments, fitted on pairs whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tocsin.models.alignment.evaluate import RIGHT, Case, Grey
from tocsin.models.alignment.geometry import distance
from tocsin.models.alignment.model import AlignmentModel

CALM = 1e-2
"""Weight of the squared weights, against pairs that a line separates."""


def trusted(model: AlignmentModel, cases: Iterable[Case], strangers: Iterable[tuple[Grey, Grey]]) -> AlignmentModel:
    """The model with a confidence that says how often such alignments are right.

    Args:
        cases: pairs with their truth; strangers: frames that cannot be aligned.

    Returns:
        The model as it is if it finds nothing in any of them, as after few training steps.
    """
    known, right, ratios = list[tuple[float, ...]](), list[bool](), list[float]()
    for case in cases:
        if (seen := model.evidence(case.first, case.second)) is not None:
            evidence, homography = seen
            known.append(evidence)
            off = distance(homography, case.homography, model.size)
            right.append(off <= RIGHT)
            ratios += [off / math.exp(evidence[0])] if off <= RIGHT else []
    for first, second in strangers:
        if (seen := model.evidence(first, second)) is not None:
            known.append(seen[0])
            right.append(False)
    if not known:
        return model
    weights = logistic(np.array(known), np.array(right, float))
    trust = (float(weights[0]), float(weights[1]), float(weights[2]), float(weights[3]))
    return model.trusting(trust, float(np.median(ratios)) if ratios else model.config.spread)


def logistic(known: NDArray[np.float64], right: NDArray[np.float64], *, steps: int = 50) -> NDArray[np.float64]:
    """The weights `[K]` of a logistic function of `known` `[N, K]` that is most likely to give `right` `[N]`; Newton's steps."""
    weights = np.zeros(known.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(known @ weights, -30, 30)))
        slope = known.T @ (right - chance) - CALM * weights
        bend = (known * (chance * (1 - chance))[:, None]).T @ known + CALM * np.eye(len(weights))
        weights = weights + np.linalg.solve(bend, slope)
        if np.abs(slope).max() < 1e-6:
            break
    return weights
