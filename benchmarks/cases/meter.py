"""Time and memory of one function against another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        case: operator and what it is compared with.
        size: the varied size, such as `4,096 tokens`.
        speed: seconds of the other over seconds of ours; above 1 we are faster.
        memory: peak bytes of ours over those of the other.
        quality: cost of the speed in quality at the same budget, in words and a figure.
        target: the project's, or empty.
    """

    case: str
    size: str
    speed: float
    memory: float
    quality: str = ""
    target: str = ""


def compare(
    case: str, size: str, ours: Run, other: Run, *, rounds: int = 5, quality: str = "", target: str = ""
) -> Row:
    """Run both in turn, `rounds` times after a warm-up, and report the median of the rounds' ratios."""
    with torch.inference_mode():
        ours(), other()
        ratios = [seconds(other) / seconds(ours) for _ in range(rounds)]
        return Row(case, size, statistics.median(ratios), peak(ours) / max(peak(other), 1), quality, target)


def seconds(run: Run) -> float:
    """Return the wall time of one call; on a GPU, until its work is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else int
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def peak(run: Run) -> int:
    """Return the peak bytes that a call allocates through torch, beyond those allocated before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    allocated = highest = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            highest = max(highest, allocated)
    return highest
