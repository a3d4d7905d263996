"""A shard's counts and gauges, returned in windows of time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.tallies import Tallies, add

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WITHIN = 1.03
"""Precision of a percentile: a bucket's upper bound is at most this many times its lower one."""
_BOUNDS_MS = np.unique(
    np.concatenate([np.geomspace(0.1, 1e9, 1 + round(np.log(1e10) / np.log(_WITHIN))), np.array(BUCKETS_S) * 1000])
)
_COARSE = np.searchsorted(np.array(BUCKETS_S) * 1000, np.append(_BOUNDS_MS, np.inf))


@dataclass(frozen=True)
class Window:
    """Counts and gauges of one span of time.

    Args:
        counts: rows, steps, alerts, dead_letters, checkpoints, duplicates, ... since the previous window.
        latency_ms: from Kafka's timestamp to the end of the row's step: p50, p95, p99, within 3 %; empty without rows.
        fill: rows a step, as a share of the maximum.
        latency_buckets: rows whose latency is at most each of `BUCKETS_S` and above the previous one; last, rows above all of them.
        latency_sum_s: over all rows.
        tallies: arrays of counts, by name.
    """

    seconds: float
    counts: dict[str, int]
    latency_ms: dict[str, float]
    fill: float
    gauges: dict[str, float]
    latency_buckets: Sequence[int] = ()
    latency_sum_s: float = 0.0
    tallies: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


@dataclass
class Stats:
    """Counts and gauges of the current window. Written by the shard's thread, read by others."""

    batch: int
    gauges: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._since, self._counts = time.monotonic(), Counter[str]()
        self._tallies: Tallies = {}
        self._ages, self._age_sum, self._age_min, self._age_max = np.zeros(len(_COARSE), np.int64), 0.0, np.inf, 0.0

    def add(self, **counts: int) -> None:
        """Add to the counts."""
        with self._lock:
            self._counts.update(counts)

    def tally(self, tallies: Mapping[str, NDArray[np.int64]]) -> None:
        """Add to the arrays of counts."""
        with self._lock:
            add(self._tallies, tallies)

    def latency(self, ms: np.ndarray) -> None:
        """Add the latency of rows at the end of their step. The memory used does not depend on the number of rows."""
        if not len(ms):
            return
        found = np.bincount(np.searchsorted(_BOUNDS_MS, ms), minlength=len(_COARSE))
        with self._lock:
            self._ages += found
            self._age_sum += float(ms.sum())
            self._age_min, self._age_max = (
                min(self._age_min, float(ms.min())),
                max(self._age_max, float(ms.max())),
            )

    def window(self) -> Window:
        """Return what was counted since the last call."""
        with self._lock:
            seconds, counts, ages, sum_s = (
                time.monotonic() - self._since,
                self._counts,
                self._ages,
                self._age_sum / 1000,
            )
            tallies = self._tallies
            bounds = self._age_min, self._age_max
            self._reset()
        latency, buckets = dict[str, float](), list[int]()
        if ages.any():
            latency = {f"p{p}": _percentile(ages, p, *bounds) for p in (50, 95, 99)}
            buckets = np.bincount(_COARSE, ages, len(BUCKETS_S) + 1).astype(int).tolist()
        capacity = counts["steps"] * self.batch
        fill = counts["rows"] / capacity if capacity else 0.0
        return Window(seconds, dict(counts), latency, fill, dict(self.gauges), buckets, sum_s, tallies)


def _percentile(ages: np.ndarray, percent: float, minimum: float, maximum: float) -> float:
    """A percentile of ages that are counted in buckets of `_BOUNDS_MS` and lie between `minimum` and `maximum`."""
    cumulative, target = np.cumsum(ages), percent / 100 * ages.sum()
    place = int(np.searchsorted(cumulative, target))
    low = _BOUNDS_MS[place - 1] if place else 0.0
    high = _BOUNDS_MS[place] if place < len(_BOUNDS_MS) else maximum
    share = (target - (cumulative[place] - ages[place])) / ages[place]
    return float(np.clip(low + share * (high - low), minimum, maximum))
