"""A shard's statistics: they take the same memory however many rows come between two windows."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from tocsin.pipelines.runtime.telemetry.stats import Stats

DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "exponential": lambda rng: rng.exponential(800, 20_000),
    "an outage": lambda rng: np.concatenate([rng.uniform(4, 9, 10_000), rng.uniform(1e6, 5e6, 2_000)]),
    "all alike": lambda rng: np.full(1000, 17.0),
    "one": lambda rng: np.array([12.5]),
    "none": lambda rng: np.zeros(500),
    "years": lambda rng: rng.uniform(1e11, 2e11, 1000),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_percentiles_are_right_to_a_few_per_cent(draw: str) -> None:
    stats, ms = Stats(batch=10), DRAWS[draw](np.random.default_rng(1))
    for part in np.array_split(ms, 7):
        stats.latency(part)
    window = stats.window()
    for percent in (50, 95, 99):
        true = [np.percentile(ms, percent + off) for off in (-0.5, 0.5)]
        wide = 1.6 if draw == "years" else 1.04  # beyond 11 days one bucket holds all
        assert true[0] / wide - 0.1 <= window.latency_ms[f"p{percent}"] <= true[1] * wide + 0.1
    assert window.latency_sum_s == pytest.approx(ms.sum() / 1000)
    assert sum(window.latency_buckets) == len(ms)


def test_rows_that_nobody_asks_about_take_no_room() -> None:
    def room() -> int:
        held = {name: value for name, value in vars(stats).items() if name != "_lock"}
        return len(pickle.dumps(held))

    stats, rng = Stats(batch=10), np.random.default_rng(1)
    stats.latency(rng.exponential(800, 1000))
    before = room()
    for _ in range(200):
        stats.latency(rng.exponential(800, 1000))
    assert room() <= before + 100
