"""Counts of a room's past: quantiles of what was counted, weighed against a prior and forgotten with time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tocsin.models.occupancy.histogram import Histogram

LEVELS = Histogram(low=5, high=2000, bins=64, share=0.9, half_life=1e6, prior=150.0, weight=100.0)


def counted(values: np.ndarray, histogram: Histogram = LEVELS) -> NDArray[np.float64]:
    counts = np.zeros((1, histogram.size))
    for value in values:
        counts = histogram.add(counts, np.array([value]), np.array([True]))
    return counts


def test_without_counts_the_quantile_is_the_priors() -> None:
    empty = np.zeros((2, LEVELS.size))
    assert LEVELS.quantile(empty).tolist() == pytest.approx([150, 150], rel=0.02)


def test_the_quantile_is_that_of_what_was_counted() -> None:
    values = np.random.default_rng(0).exponential(400, 3000)
    expected = np.quantile(values, 0.9)
    assert LEVELS.quantile(counted(values)).item() == pytest.approx(expected, rel=0.05)


def test_what_is_not_counted_leaves_the_counts_as_they_are() -> None:
    before = counted(np.array([10.0, 300.0]))
    after = LEVELS.add(before, np.array([900.0]), np.array([False]))
    np.testing.assert_array_equal(after, before)


def test_old_counts_fade() -> None:
    quick = Histogram(low=5, high=2000, bins=64, share=0.5, half_life=50, prior=150.0, weight=10.0)
    counts = counted(np.concatenate([np.full(500, 1000.0), np.full(300, 20.0)]), quick)
    assert quick.quantile(counts).item() == pytest.approx(20, rel=0.1)


def test_values_beyond_the_edges_count_in_the_outer_bins() -> None:
    assert LEVELS.quantile(counted(np.full(5000, 1e9))).item() == pytest.approx(2000)
    assert LEVELS.quantile(counted(np.full(5000, 0.0))).item() <= 5
