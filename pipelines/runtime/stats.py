"""What a shard counts while it works, handed out by windows."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Window:
    """Counts and gauges of one span of time.

    Args:
        counts: rows, steps, alerts, dead_letters, checkpoints, duplicates, ... since the window before.
        latency_ms: from Kafka's timestamp to the end of the row's step: p50, p95, p99; empty without rows.
        occupancy: rows a step, as a share of the most that a step takes.
    """

    seconds: float
    counts: dict[str, int]
    latency_ms: dict[str, float]
    occupancy: float
    gauges: dict[str, float]


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
        latency = {}
        if parts:
            p50, p95, p99 = np.percentile(np.concatenate(parts), [50, 95, 99])
            latency = {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
        full = counts["steps"] * self.batch
        return Window(seconds, dict(counts), latency, counts["rows"] / full if full else 0.0, dict(self.gauges))
