"""Plants: channels that follow a few hidden causes, such as the hour, a load, switches and wear, with noise and coarse digits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tocsin.models.quality.series import Series

Floats = NDArray[np.float64]
CAUSES = ("day", "wave", "noise", "noise", "switch", "regime", "wear", "tank", "stay")
SHAPES = ("linear", "linear", "linear", "square", "exponential", "from a threshold", "saturated")
INTERVALS = (1.0, 10.0, 60.0, 300.0, 1800.0)
"""Seconds between readings."""


def plants(count: int, *, seed: int) -> list[Series]:
    """Readings of plants of all kinds: 300 to 2,500 readings of 1 to 16 channels; for training."""
    draw, found = np.random.default_rng([seed, 4]), list[Series]()
    for number in range(count):
        rows, width = int(draw.integers(300, 2500)), int(draw.choice([1, 2, 3, 5, 8, 12, 16]))
        interval = float(draw.choice(INTERVALS))
        spread = draw.uniform(0, 0.3) if draw.random() < 0.4 else 0.0
        times = np.cumsum(interval * (1 + spread * draw.random(rows)))
        found.append(Series.of(f"plant-{number}", times, plant(draw, rows, width)))
    return found


def plant(draw: np.random.Generator, rows: int, width: int) -> NDArray[np.float32]:
    """Readings `[rows, width]` of one plant."""
    causes = [_cause(draw, rows) for _ in range(int(draw.integers(1, 6)))]
    return np.stack([_channel(draw, causes) for _ in range(width)], 1).astype(np.float32)


def _channel(draw: np.random.Generator, causes: list[Floats]) -> Floats:
    """One to three causes, bent, with noise, digits and unit of their own."""
    chosen = draw.choice(len(causes), int(draw.integers(1, min(3, len(causes)) + 1)), replace=False)
    values = np.sum([draw.standard_normal() * causes[number] for number in chosen], 0)
    shape = draw.choice(SHAPES)
    values = _bent(draw, values, str(shape))
    deviation = values.std() + 1e-3
    if draw.random() < 0.8:
        noise = deviation * math.exp(draw.uniform(math.log(0.002), math.log(0.6))) * draw.standard_normal(len(values))
        # Some sensors are quiet at rest, as a light sensor at night.
        values = values + (noise if draw.random() < 0.8 else noise * (values > values.min() + 0.1 * deviation))
    if shape == "from a threshold" or draw.random() < 0.15:
        values = values.clip(min=0)
    if draw.random() < 0.2:
        values = _on_change(values, deviation * draw.uniform(0.05, 0.4))
    if draw.random() < 0.05:
        values = np.zeros_like(values)
    unit = math.exp(draw.uniform(math.log(0.01), math.log(1000)))
    offset = 0.0 if draw.random() < 0.35 else draw.standard_normal() * 10 ** draw.uniform(-0.5, 1.5)
    values = (values / deviation + offset) * unit
    if draw.random() < 0.5:
        digit = unit * 10 ** draw.uniform(-3, -0.5)
        values = np.round(values / digit) * digit
    return values


def _bent(draw: np.random.Generator, values: Floats, shape: str) -> Floats:
    if shape == "square":
        return values * np.abs(values)
    if shape == "exponential":
        return np.exp(values.clip(-4, 2.5))
    if shape == "from a threshold":
        return (values - draw.uniform(-0.5, 0.5)).clip(min=0)
    return np.tanh(1.5 * values) if shape == "saturated" else values


def _cause(draw: np.random.Generator, rows: int) -> Floats:
    """A hidden cause, about as large as 1."""
    kind, at = str(draw.choice(CAUSES)), np.arange(rows)
    if kind == "day":
        sun = np.sin(2 * np.pi * (at / _between(draw, 40, 1500) + draw.random())) + draw.uniform(-0.3, 0.3)
        clouds = _smooth(draw, rows, _between(draw, 1, 55)).clip(0, 1)
        return 2 * sun.clip(min=0) * (1 - draw.uniform(0, 0.8) * clouds)
    if kind == "wave":
        return 1.4 * np.sin(2 * np.pi * (at / _between(draw, 12, 1500) + draw.random()))
    if kind == "noise":
        return _smooth(draw, rows, _between(draw, 1, 300))
    if kind == "switch":
        switched = _steps(draw, rows, _between(draw, 3, 245), np.array([0.0, 1.0]))
        return _slow(switched, _between(draw, 1, 33)) if draw.random() < 0.6 else switched
    if kind == "regime":
        return _steps(draw, rows, _between(draw, 1, 55), draw.standard_normal(int(draw.integers(2, 7))))
    if kind == "wear":
        return 2 * float(draw.choice([-1.0, 1.0])) * (at / rows) ** draw.uniform(1, 4)
    if kind == "tank":
        full, phase = draw.uniform(0.1, 0.9), (at / _between(draw, 12, 245) + draw.random()) % 1
        return 2 * np.where(phase < full, phase / full, (1 - phase) / (1 - full))
    people = _steps(draw, rows, _between(draw, 12, 150), np.array([0.0, 0.0, 1.0, 2.0, 4.0]))
    return _slow(people, _between(draw, 7, 90))


def _between(draw: np.random.Generator, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def _slow(values: Floats, time: float) -> Floats:
    """Follow values with a delay of `time` readings."""
    keep, found, level = math.exp(-1 / time), np.empty_like(values), values[0]
    for number, value in enumerate(values):
        level = keep * level + (1 - keep) * value
        found[number] = level
    return found


def _smooth(draw: np.random.Generator, rows: int, time: float) -> Floats:
    """Noise of standard deviation 1 that is alike for `time` readings."""
    keep = math.exp(-1 / time)
    noise = draw.standard_normal(rows) * math.sqrt((1 + keep) / (1 - keep))
    return _slow(np.concatenate([draw.standard_normal(1), noise]), time)[1:]


def _steps(draw: np.random.Generator, rows: int, length: float, levels: Floats) -> Floats:
    """Levels that change at random."""
    found, at = np.empty(rows), 0
    while at < rows:
        until = at + 1 + int(draw.exponential(length))
        found[at:until] = draw.choice(levels)
        at = until
    return found


def _on_change(values: Floats, band: float) -> Floats:
    """What a sensor sends that keeps its value until it has moved by a band."""
    found = values.copy()
    for number in range(1, len(found)):
        if abs(found[number] - found[number - 1]) <= band:
            found[number] = found[number - 1]
    return found
