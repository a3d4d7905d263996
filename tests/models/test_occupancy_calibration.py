"""A room's threshold from a few days of truth: chosen on other days than it is judged on, and only if it helps."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.occupancy.calibration import Day, calibrate, held
from tocsin.models.occupancy.config import RELEASE


def days(count: int, *, shift: float, seed: int = 0, noise: float = 0.5) -> list[Day]:
    """Days whose probability is right in the logit but for a shift and noise; occupied from 9 to 12."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        occupied = (np.arange(1440) >= 540) & (np.arange(1440) < 720)
        logit = np.where(occupied, 2.0, -2.0) + shift + rng.normal(0, noise, 1440)
        made.append(Day(1 / (1 + np.exp(-logit)), occupied))
    return made


def test_a_room_that_reads_too_high_gets_a_higher_threshold() -> None:
    found = calibrate(days(3, shift=2.5), 0.5)
    assert found.changes and found.threshold > 0.7
    assert found.f1 > found.f1_usual + 0.2
    assert (found.days, found.occupied) == (3, pytest.approx(0.125))


def test_a_room_that_reads_right_keeps_the_models_threshold() -> None:
    found = calibrate(days(2, shift=0.0), 0.5)
    assert not found.changes and found.threshold == 0.5


def test_a_threshold_that_helps_on_its_own_day_only_is_not_taken() -> None:
    contradicting = [*days(1, shift=1.5), *days(1, shift=-1.5, seed=1)]
    assert not calibrate(contradicting, 0.5).changes


def test_two_days_are_needed_with_and_without_people() -> None:
    with pytest.raises(ValueError, match="expected the truth of 2 days at least, got 1; label more days"):
        calibrate(days(1, shift=0), 0.5)
    empty = [Day(day.probability, np.zeros(1440, bool)) for day in days(2, shift=0)]
    with pytest.raises(ValueError, match="got only empty ones; label other days, too"):
        calibrate(empty, 0.5)


def test_a_day_without_anyone_counts_by_its_false_minutes() -> None:
    working, sunday = days(2, shift=2.5), Day(np.full(1440, 0.6), np.zeros(1440, bool))
    found = calibrate([*working, sunday], 0.5)
    assert found.changes and found.threshold > 0.6


def test_a_room_stays_occupied_until_it_falls_below_the_release() -> None:
    probability = np.array([0.4, 0.5, 0.36, 0.34, 0.36, np.nan, 0.9, np.nan, 0.2])
    assert RELEASE == 0.7
    assert held(probability, 0.5).tolist() == [False, True, True, False, False, False, True, True, False]
