"""Cases: windows of readings, clean or with an injected fault, and what is remembered of their key's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.faults import REASONS, Place, Window, inject
from tocsin.models.quality.features import History
from tocsin.models.quality.series import SHORTEST, Floats, Series

SPANS = (32, 64, 128, 256, 1024, 4096)
"""Readings of a key's history, at most, from which its memory is taken; one is drawn for each case."""
WIDTHS = (1, 2, 3, 4, 5, 6, 8, 8, 12)
"""Channels that a case shows; one is drawn for each batch."""
WIDEST = 24
"""Channels that a case shows at most."""
TRIES, MISSES = 40, 25
"""Attempts to find a place where a fault changes something, and faults in a row without one after which a batch is given up."""


@dataclass(frozen=True)
class Cases:
    """A batch of cases with the same number of channels.

    Attributes:
        times: `[B, T + 1] float64`. windows: `[B, T + 1, C] float32`; the first row comes before the window.
        history: what is remembered.
        reason: `[B] int64`, 0: clean; else the place in `REASONS` plus 1.
        bad: `[B, C] bool`, the channels at fault.
    """

    times: Tensor
    windows: Tensor
    history: History
    reason: Tensor
    bad: Tensor

    def __len__(self) -> int:
        return len(self.reason)


class _Case(NamedTuple):
    window: Window
    memory: Floats
    limits: Floats
    seen: int
    reason: int


def drawn(
    draw: np.random.Generator,
    series: Sequence[Series],
    config: QualityConfig,
    *,
    count: int,
    width: int | None = None,
    part: tuple[float, float] = (0.0, 1.0),
    reason: str | None = None,
) -> Cases:
    """Draw cases from series with the same channels; a longer series is drawn more often, by the root of its length.

    Args:
        width: channels that are shown; None: all, at most `WIDEST`.
        part: of each series, in which the windows end; their history comes before them.
        reason: the only fault, without clean windows. None: all, and the config's share of clean windows.

    Raises:
        ValueError: no place was found, since the series are too short, or nothing in them changes.
    """
    weights = np.sqrt([len(each) for each in series])
    weights /= weights.sum()
    cases, misses = list[_Case](), 0
    while len(cases) < count and misses < MISSES:
        kind = reason
        if reason is None and draw.random() >= config.faults.clean:
            kind = REASONS[int(draw.integers(len(REASONS)))]
        misses += 1
        for _ in range(TRIES):
            chosen = series[int(draw.choice(len(series), p=weights))]
            case = _case(draw, chosen, config, kind, min(width or WIDEST, chosen.values.shape[1]), part)
            if case is not None:
                cases.append(case)
                misses = 0
                break
    if len(cases) < count:
        raise ValueError(
            f"expected series of at least {SHORTEST} readings with channels that change, found places for {len(cases)} of {count} "
            "windows; add readings"
        )
    return Cases(
        torch.from_numpy(np.stack([case.window.times - case.window.times[-1] for case in cases])),
        torch.from_numpy(np.stack([case.window.values for case in cases])),
        History(
            torch.from_numpy(np.stack([case.memory for case in cases])),
            torch.from_numpy(np.stack([case.limits for case in cases])),
            torch.tensor([case.seen for case in cases]),
        ),
        torch.tensor([case.reason for case in cases]),
        torch.from_numpy(np.stack([case.window.bad for case in cases])),
    )


def _case(
    draw: np.random.Generator,
    series: Series,
    config: QualityConfig,
    reason: str | None,
    width: int,
    part: tuple[float, float],
) -> _Case | None:
    """One case; None: there is no clean window at the place that was drawn, or the fault would change nothing there."""
    rows = config.window + 1
    low, high = max(2 * rows, int(part[0] * len(series))), int(part[1] * len(series))
    if high < low:
        return None
    end = int(draw.integers(low, high + 1))
    first = end - rows
    if series.begin(first) != series.begin(end - 1):
        return None
    channels = np.sort(draw.choice(series.values.shape[1], width, replace=False))
    # A fault may begin a window earlier; what is remembered ends before it.
    until = max(first - config.window * int(draw.integers(2)), config.window // 2 + 1)
    memory, limits, seen = _remembered(draw, series, until, channels, config.memory)
    values = memory[:, :width].astype(float)
    known = ~np.isnan(values)
    if not known.any(0).all():
        return None
    centre = np.nanmedian(values, 0)
    place = Place(series, end, first, channels, centre, 1.25 * np.nanmean(np.abs(values - centre), 0))
    window = place.clean if reason is None else inject(draw, reason, config.faults, place)
    if window is None:
        return None
    return _Case(window, memory, limits, seen, 0 if reason is None else REASONS.index(reason) + 1)


def _remembered(
    draw: np.random.Generator, series: Series, until: int, channels: NDArray[np.int64], size: int
) -> tuple[Floats, Floats, int]:
    """A memory of readings before `until`: itself, the limits of the channels, and how many readings there were."""
    first = max(1, until - int(draw.choice(SPANS)))
    at = np.sort(draw.choice(np.arange(first, until), min(size, until - first), replace=False))
    memory = np.full((size, 2 * len(channels) + 1), np.nan, np.float32)
    now, before = series.values[at][:, channels], series.values[at - 1][:, channels]
    memory[: len(at)] = np.concatenate([now, before, np.diff(series.times)[at - 1, None]], 1)
    past = series.values[first:until][:, channels]
    low, high = np.fmin.reduce(past, 0), np.fmax.reduce(past, 0)
    return memory, np.stack([low, high]).astype(np.float32), until - first
