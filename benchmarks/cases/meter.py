"""Time and memory of one function against another, side by side."""

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
        case: operator and what it stands against.
        size: what grows, such as `4,096 tokens`.
        speed: seconds of the other over seconds of ours; above 1 we are faster.
        memory: peak bytes of ours over those of the other.
        quality: what the speed costs, in words and a figure, at the same budget.
        wanted: the figure that the project asked for, or nothing.
    """

    case: str
    size: str
    speed: float
    memory: float
    quality: str = ""
    wanted: str = ""


def compare(
    case: str, size: str, ours: Run, other: Run, *, rounds: int = 5, quality: str = "", wanted: str = ""
) -> Row:
    """Both in turn, `rounds` times after one to warm up; the median of the rounds' ratios."""
    with torch.inference_mode():
        ours(), other()
        ratios = [seconds(other) / seconds(ours) for _ in range(rounds)]
        return Row(case, size, statistics.median(ratios), peak(ours) / max(peak(other), 1), quality, wanted)


def seconds(run: Run) -> float:
    """Wall time of one call; on a GPU, until it is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else int
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def peak(run: Run) -> int:
    """The most bytes that a call holds at once beyond what was there before, by torch's own allocations."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
