"""What a shard counts while it works, handed out by windows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True)
class Window:
    """Counts and gauges of one span of time.

    Args:
        counts: rows, steps, alerts, dead_letters, checkpoints, duplicates, ... since the window before.
        latency_ms: from Kafka's timestamp to the end of the row's step: p50, p95, p99; empty without rows.
        occupancy: rows a step, as a share of the most that a step takes.
        latency_buckets: rows whose latency is at most each of `BUCKETS_S` and above the one before, then those above all.
        latency_sum_s: over all rows.
    """

    seconds: float
    counts: dict[str, int]
    latency_ms: dict[str, float]
    occupancy: float
    gauges: dict[str, float]
    latency_buckets: Sequence[int] = ()
    latency_sum_s: float = 0.0


@dataclass
class Stats:
    """Written by the shard's thread, read by others."""

    batch: int
    gauges: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._since, self._counts, self._latencies = time.monotonic(), Counter[str](), list[np.ndarray]()

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            self._counts.update(counts)

    def latency(self, ms: np.ndarray) -> None:
        """Note the age of rows at the end of their step."""
        with self._lock:
            self._latencies.append(ms)

    def window(self) -> Window:
        """What came since the last call."""
        with self._lock:
            seconds, counts, parts = time.monotonic() - self._since, self._counts, self._latencies
            self._reset()
        latency, buckets, sum_s = dict[str, float](), list[int](), 0.0
        if parts and len(ms := np.concatenate(parts)):
            latency = dict(zip(("p50", "p95", "p99"), np.percentile(ms, [50, 95, 99]).tolist(), strict=True))
            places = np.searchsorted(np.array(BUCKETS_S) * 1000, ms)
            buckets, sum_s = np.bincount(places, minlength=len(BUCKETS_S) + 1).tolist(), float(ms.sum()) / 1000
        full = counts["steps"] * self.batch
        occupancy = counts["rows"] / full if full else 0.0
        return Window(seconds, dict(counts), latency, occupancy, dict(self.gauges), buckets, sum_s)
