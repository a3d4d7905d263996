"""The area under the ROC curve."""

from __future__ import annotations

import math

import numpy as np

from tocsin.models.ranking import auroc


def test_equal_scores_count_half() -> None:
    truth = np.array([False, False, True, True])
    assert auroc(np.array([0.1, 0.2, 0.3, 0.4]), truth) == 1
    assert auroc(np.array([0.4, 0.3, 0.2, 0.1]), truth) == 0
    assert auroc(np.array([1.0, 1.0, 1.0, 1.0]), truth) == 0.5
    assert auroc(np.array([0.0, 1.0, 1.0, 2.0]), truth) == 0.875


def test_it_has_no_value_without_both_kinds_or_with_a_score_that_is_not_finite() -> None:
    assert math.isnan(auroc(np.ones(2), np.array([True, True])))
    assert math.isnan(auroc(np.ones(2), np.array([False, False])))
    assert math.isnan(auroc(np.array([math.nan, 1.0]), np.array([False, True])))
