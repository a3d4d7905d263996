"""The eight faults of a sensor, injected into windows of real readings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.models.quality.series import Floats, Series

REASONS = ("stuck", "spike", "drift", "drop-out", "clipped", "swapped", "unit", "clock")
UNITS = (
    (1000.0, 0.0),
    (100.0, 0.0),
    (10.0, 0.0),
    (60.0, 0.0),
    (3.6, 0.0),
    (6.895, 0.0),
    (33.86, 0.0),
    (2.237, 0.0),
    (3.281, 0.0),
    (1.8, 32.0),
    (1.0, 273.15),
)
"""Factor and offset of common mistakes: milli and kilo, percent and share, minutes, m/s and km/h, psi and kPa, inHg and mbar,
mph, feet, Fahrenheit, kelvin; each also the other way round."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How large injected faults are.

    A deviation is that of the channel's own history: 1.25 times the mean distance from its median. Each range is lowest and
    highest; sizes of spikes, gaps, factors and jumps of the clock are drawn on a logarithmic scale.

    Args:
        clean: share of the windows without a fault.
        stuck: shortest stretch with one value, readings; it may last for the whole window. It differs from at least half of the
            readings that it replaces.
        spike: size of one to three single wrong readings, deviations.
        drift: how far a channel has moved at the window's end, deviations; it begins up to a window before the window.
        dropped: shortest stretch without readings; one channel, several, or whole rows.
        gap: rows that are missing where whole rows drop out.
        clipped: how far above the limit the window's highest reading was, deviations; at least a fifth of the readings are limited.
        factor: of a wrong unit, if it is none of `UNITS`, as half of them are.
        clock: how far the clock jumps, intervals, forward or back.
        least: how much a swap or a wrong unit changes the readings on average, deviations; a smaller change is no fault.
    """

    clean: float = 0.4
    stuck: int = 12
    spike: tuple[float, float] = (4.0, 20.0)
    drift: tuple[float, float] = (3.0, 10.0)
    dropped: int = 8
    gap: tuple[float, float] = (8.0, 200.0)
    clipped: tuple[float, float] = (0.5, 3.0)
    factor: tuple[float, float] = (1.5, 1000.0)
    clock: tuple[float, float] = (6.0, 300.0)
    least: float = 1.0


class Window(NamedTuple):
    """A window and the reading before it.

    Args:
        times: `[T + 1] float64`. values: `[T + 1, C] float32`.
        bad: `[C] bool`, the channels at fault; none if the clock is, or whole rows are missing.
    """

    times: NDArray[np.float64]
    values: Floats
    bad: NDArray[np.bool_]


class Place(NamedTuple):
    """Where a window lies.

    Args:
        series: that it is taken from.
        end: the reading behind the window. first: the reading before it.
        channels: `[C]`, the columns that are shown.
        centre, scale: `[C] float64`, median and deviation of the channels' history.
    """

    series: Series
    end: int
    first: int
    channels: NDArray[np.int64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def clean(self) -> Window:
        """The window as it was recorded."""
        part = slice(self.first, self.end)
        values = self.series.values[part][:, self.channels].copy()
        return Window(self.series.times[part].copy(), values, np.zeros(len(self.channels), bool))


Inject = Callable[[np.random.Generator, Faults, Place], Window | None]
"""Returns the window with a fault; None: here it would change nothing, or too little."""


def inject(draw: np.random.Generator, reason: str, sizes: Faults, place: Place) -> Window | None:
    """A window with a fault of one of `REASONS`; see `Inject`."""
    return INJECTED[reason](draw, sizes, place)


def _between(draw: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number on a logarithmic scale."""
    return math.exp(draw.uniform(math.log(ends[0]), math.log(ends[1])))


def _sign(draw: np.random.Generator) -> float:
    return float(draw.choice([-1.0, 1.0]))


def _stuck(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, c = place.clean, int(draw.integers(len(place.channels)))
    rows = len(window.values)
    onset = int(draw.integers(1 - rows, rows - sizes.stuck))
    held = place.series.values[place.first + onset, place.channels[c]]
    start, end = max(onset, 0), rows
    if draw.random() < 0.25 and start + sizes.stuck < rows:
        end = start + int(draw.integers(sizes.stuck, rows - start))
    part = window.values[start:end, c]
    if np.isnan(held) or np.mean(part != held) < 0.5:
        return None
    part[:] = held
    window.bad[c] = True
    return window


def _spike(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, c = place.clean, int(draw.integers(len(place.channels)))
    at = draw.choice(np.arange(2, len(window.values) - 1), int(draw.integers(1, 4)), replace=False)
    scale = place.scale[c] or max(abs(place.centre[c]) * 0.05, 1e-3)
    window.values[at, c] += scale * _between(draw, sizes.spike) * _sign(draw)
    window.bad[c] = True
    return None if np.isnan(window.values[at, c]).any() else window


def _drift(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, c = place.clean, int(draw.integers(len(place.channels)))
    if not place.scale[c]:
        return None
    rows = len(window.values)
    onset = int(draw.integers(1 - rows, rows // 2))
    share = np.clip(np.arange(rows) - onset, 0, None) / (rows - onset)
    window.values[:, c] += (place.scale[c] * draw.uniform(*sizes.drift) * _sign(draw) * share).astype(np.float32)
    window.bad[c] = True
    return window


def _dropped(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, width = place.clean, len(place.channels)
    rows = len(window.values)
    if draw.random() < 0.3:
        return _skipped(draw, sizes, place)
    count = 1 if draw.random() < 0.6 else int(draw.integers(1, width + 1))
    which = draw.choice(width, count, replace=False)
    if np.isnan(window.values[:, which]).mean() > 0.3:
        return None
    onset, length = int(draw.integers(-rows // 2, rows - sizes.dropped)), int(draw.integers(sizes.dropped, rows))
    at = np.arange(rows)
    lost = (at >= max(onset, 1)) & (at < (onset + length if onset >= 0 else rows))
    gone = (draw.random((rows, count)) < draw.uniform(0.6, 1)) & lost[:, None]
    if gone.sum(0).min() < 0.75 * sizes.dropped:
        return None
    for column, channel in enumerate(which):
        window.values[gone[:, column], channel] = np.nan
    window.bad[which] = True
    return window


def _skipped(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    """Whole rows are missing: the window's first ones are from before the gap."""
    rows = place.end - place.first
    missing, until = int(_between(draw, sizes.gap)), int(draw.integers(2, rows - 1))
    if place.first - missing < 1:
        return None
    before = np.arange(place.first - missing, place.first - missing + until)
    index = np.concatenate([before, np.arange(place.first + until, place.end)])
    values = place.series.values[index][:, place.channels].copy()
    return Window(place.series.times[index].copy(), values, np.zeros(len(place.channels), bool))


def _clipped(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, c = place.clean, int(draw.integers(len(place.channels)))
    if not place.scale[c] or np.isnan(window.values[:, c]).all():
        return None
    rows, sign = len(window.values), _sign(draw)
    values = window.values[:, c] * sign
    limit = np.nanmax(values) - place.scale[c] * draw.uniform(*sizes.clipped)
    start = max(int(draw.integers(1 - rows, rows // 2)), 0)
    if np.mean(values[start:] > limit) < 0.2:
        return None
    values[start:] = np.minimum(values[start:], limit)
    window.values[:, c] = values * sign
    window.bad[c] = True
    return window


def _swapped(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, width = place.clean, len(place.channels)
    if width < 2:
        return None
    pair = draw.choice(width, 2, replace=False)
    start = max(int(draw.integers(1 - len(window.values), len(window.values) // 2)), 0)
    part = window.values[start:, pair]
    away = np.abs(part[:, 0] - part[:, 1])
    if np.isnan(away).all() or np.nanmean(away) < sizes.least * max(place.scale[pair].min(), 1e-9):
        return None
    window.values[start:, pair] = part[:, ::-1]
    window.bad[pair] = True
    return window


def _unit(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window, c = place.clean, int(draw.integers(len(place.channels)))
    start = max(int(draw.integers(1 - len(window.values), len(window.values) // 2)), 0)
    factor, offset = (
        UNITS[int(draw.integers(len(UNITS)))] if draw.random() < 0.5 else (_between(draw, sizes.factor), 0.0)
    )
    part = window.values[start:, c]
    new = part * factor + offset if draw.random() < 0.5 else (part - offset) / factor
    away = np.abs(new - part)
    if np.isnan(away).all() or np.nanmean(away) < sizes.least * max(place.scale[c], 1e-9):
        return None
    window.values[start:, c] = new
    window.bad[c] = True
    return window


def _clock(draw: np.random.Generator, sizes: Faults, place: Place) -> Window | None:
    window = place.clean
    interval = float(np.median(np.diff(place.series.times[max(0, place.first - 256) : place.end])))
    window.times[int(draw.integers(2, len(window.times) - 1)) :] += interval * _between(draw, sizes.clock) * _sign(draw)
    return window


INJECTED: dict[str, Inject] = dict(
    zip(REASONS, (_stuck, _spike, _drift, _dropped, _clipped, _swapped, _unit, _clock), strict=True)
)
