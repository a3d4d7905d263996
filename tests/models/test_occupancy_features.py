"""A room's air in its own units: offsets cancel, the room's own history sets the scale, and unknown values stay unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.occupancy.features import COLUMNS, FEATURES, LEVELS, OFFICE, RATES, Clock, advance, memory, rhythm


def air(minutes: int, seed: int = 0, **given: Tensor) -> dict[str, Tensor]:
    """`[minutes]` of each column: CO2 that wanders above 420 ppm, the rest constant."""
    rng = np.random.default_rng(seed)
    co2 = torch.from_numpy(420 + np.abs(np.cumsum(rng.normal(0, 5, minutes))))
    made = {"co2": co2, "co2_mean": co2, "co2_slope": torch.zeros(minutes, dtype=torch.float64)}
    rest = {"temperature": 21.0, "humidity": 45.0, "ventilation": 0.2}
    return made | {n: torch.full((minutes,), x, dtype=torch.float64) for n, x in rest.items()} | given


def clock(minutes: NDArray[np.float64]) -> Clock:
    """The clock of minutes counted from midnight of a Monday."""
    day = (minutes // 1440).astype(np.int64)
    return Clock(minutes % 1440 / 60, day % 7, day)


def lived(rooms: list[dict[str, Tensor]], times: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Advance rooms together. Returns their features `[T, B, F]` and their final state."""
    count = len(rooms[0]["co2"])
    times = torch.arange(count, dtype=torch.float64) if times is None else times
    known = {n: np.full((len(rooms), *shape), fill) for n, (shape, fill) in memory().items()}
    now = {n: torch.stack([room[n] for room in rooms], 1).numpy() for n in COLUMNS}
    seen = []
    for i, time in enumerate(times.tolist()):
        at = np.full(len(rooms), time)
        features, known = advance(known, at, {n: column[i] for n, column in now.items()}, clock(at))
        seen.append(features)
    return torch.from_numpy(np.stack(seen)), {n: torch.from_numpy(value) for n, value in known.items()}


def columns(features: Tensor, names: tuple[str, ...]) -> Tensor:
    return features[..., [FEATURES.index(n) for n in names]]


def test_a_sensor_that_says_too_much_by_a_constant_changes_nothing() -> None:
    true = air(300)
    off = true | {n: true[n] + 130 for n in ("co2", "co2_mean")}
    features, _ = lived([true, off])
    torch.testing.assert_close(features[:, 0], features[:, 1], atol=1e-4, rtol=1e-4, equal_nan=True)
    assert columns(features, ("level",)).max() > 0.2


def test_rooms_together_are_as_each_alone() -> None:
    rooms = [air(100, seed) for seed in range(3)]
    together, known = lived(rooms)
    for i, room in enumerate(rooms):
        alone, own = lived([room])
        torch.testing.assert_close(together[:, i], alone[:, 0], rtol=1e-6, atol=1e-9, equal_nan=True)
        for name, value in own.items():
            torch.testing.assert_close(known[name][i : i + 1], value, equal_nan=True)


def test_the_unit_of_co2_becomes_what_the_room_itself_reaches_in_office_hours() -> None:
    minutes = 40 * 1440
    times = torch.arange(0, minutes, 10, dtype=torch.float64)  # every ten minutes, for speed
    rng = np.random.default_rng(1)
    office = (times % 1440 >= OFFICE[0] * 60) & (times % 1440 < OFFICE[1] * 60) & ((times // 1440) % 7 < 5)
    above = torch.from_numpy(rng.exponential(30, len(times))) * office  # 90 % of values are below 69 ppm
    _, known = lived([air(len(times), co2_mean=420 + above)], times)
    assert LEVELS.prior == 150
    # 1,700 minutes of its own weigh against 600 of the prior: between 150 and 69.
    assert 69 < known["usual"].item() < 110


def test_the_unit_is_settled_once_a_day() -> None:
    times = torch.arange(8.5 * 60, 9.5 * 60, dtype=torch.float64)
    rooms = [air(len(times), co2_mean=torch.full((len(times),), 420.0, dtype=torch.float64))]
    _, known = lived(rooms, times)
    assert known["usual"].item() == pytest.approx(LEVELS.prior, rel=0.1)
    assert known["levels"].sum().item() == pytest.approx(LEVELS.weight + 60, rel=0.01)


@pytest.mark.parametrize(("missing", "unknown"), [("temperature", {"warming", "damping"}), ("humidity", {"damping"}),
                                                  ("ventilation", {"ventilation", "opening"})])  # fmt: skip
def test_a_missing_sensor_leaves_its_own_features_unknown_and_no_others(missing: str, unknown: set[str]) -> None:
    features, _ = lived([air(30) | {missing: torch.full((30,), math.nan, dtype=torch.float64)}])
    nothing = {name for i, name in enumerate(FEATURES) if bool(features[5:, 0, i].isnan().all())}
    assert nothing == unknown
    assert not features[5:, 0, [FEATURES.index(n) for n in FEATURES if n not in unknown]].isnan().any()


def test_a_co2_sensor_that_says_nothing_possible_is_not_believed() -> None:
    room = air(60)
    broken = torch.cat([room["co2"][:30], torch.full((30,), 3.0, dtype=torch.float64)])
    features, known = lived([room | {"co2": broken, "co2_mean": broken}])
    assert columns(features[30:, 0], ("level",)).isnan().all()
    assert known["floor"].item() > 400
    assert columns(features[30:, 0], ("past",)).isfinite().all()


def test_a_co2_that_stays_to_the_digit_is_counted_in_minutes() -> None:
    room = air(40)
    for name in ("co2", "co2_mean"):
        room[name][10:] = 555.0
    _, known = lived([room])
    assert known["still"].item() == 29
    room["co2_mean"][39] = 556.0
    assert lived([room])[1]["still"].item() == 0


def test_a_gap_moves_averages_on_by_its_length_but_never_by_more_than_an_hour() -> None:
    room = air(3)
    short, _ = lived([room], torch.tensor([0.0, 1.0, 61.0], dtype=torch.float64))
    long, _ = lived([room], torch.tensor([0.0, 1.0, 1441.0], dtype=torch.float64))
    torch.testing.assert_close(columns(short[2], ("roughness", "past")), columns(long[2], ("roughness", "past")))


RATE = 1.5  # air changes an hour of the simulated room
STEP = 5  # minutes between its rows


def lecture(
    days: int, *, begin: float = 9, end: float = 12, rate: float = RATE, height: float = 500
) -> tuple[dict[str, Tensor], Tensor]:
    """A room whose people come at `begin` and leave at `end` of each workday, by the mass balance: its air and the times."""
    times = torch.arange(0, days * 1440, dtype=torch.float64)
    hours, workday = times % 1440 / 60, times // 1440 % 7 < 5
    people = workday & (hours >= begin) & (hours < end)
    level, levels = 0.0, []
    for present in people.tolist():
        level += rate / 60 * ((height if present else 0.0) - level)
        levels.append(420 + level)
    co2 = torch.tensor(levels, dtype=torch.float64)
    slope = (co2 - co2.roll(10)) / 600
    slope[:10] = 0
    return air(len(times[::STEP]), co2=co2[::STEP], co2_mean=co2[::STEP], co2_slope=slope[::STEP]), times[::STEP]


def attended(days: int, **given: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The features `[T, F]` and the state of a room after days of lectures."""
    room, times = lecture(days, **given)
    features, known = lived([room], times)
    return features[:, 0], known


def row(day: int, hour: float) -> int:
    """The index of a room's row at an hour of a day."""
    return round((day * 24 + hour) * 60) // STEP


def centre(known: dict[str, Tensor]) -> float:
    return float(rhythm({name: value.numpy() for name, value in known.items()})[0])


@pytest.fixture(scope="module")
def week() -> tuple[Tensor, dict[str, Tensor]]:
    return attended(7)


def test_the_ventilation_rate_is_that_of_the_decays(week: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert RATES.prior == pytest.approx(1.2) != RATE
    assert week[1]["rate"].item() == pytest.approx(RATE, rel=0.15)


def test_co2_that_merely_decays_has_no_source(week: tuple[Tensor, dict[str, Tensor]]) -> None:
    during, after = week[0][row(4, 11)], week[0][row(4, 12.42)]
    assert columns(during, ("source",)).item() > 0.8
    assert columns(after, ("level",)).item() > 0.4, "the air is still used up"
    assert abs(columns(after, ("source",)).item()) < 0.15


def test_the_unit_of_co2_doubles_at_most_in_a_day() -> None:
    _, first = attended(1, begin=8, end=18, height=3000)
    assert first["usual"].item() == pytest.approx(LEVELS.prior, rel=0.1)
    _, second = attended(2, begin=8, end=18, height=3000)
    assert second["usual"].item() == pytest.approx(2 * first["usual"].item(), rel=0.01)


def test_a_day_without_a_rise_shows_it(week: tuple[Tensor, dict[str, Tensor]]) -> None:
    peaks = columns(week[0], ("peak_source", "peak_level"))
    assert bool((peaks[row(4, 12)] > 0.5).all()) and bool((peaks[row(5, 12)] < 0.2).all())
    assert bool((peaks[row(5, 3)] == 0).all()), "the night belongs to no day"


def test_the_habit_of_an_hour_is_how_much_the_room_was_used_then(week: tuple[Tensor, dict[str, Tensor]]) -> None:
    habit = columns(week[0], ("habit",))
    assert habit[row(4, 10)].item() > 0.6 > 0.2 > habit[row(4, 15)].item()


@pytest.mark.parametrize("moved", [0, -8])
def test_a_day_in_another_time_zone_has_its_centre_at_night(moved: int) -> None:
    _, known = attended(4, begin=10 + moved, end=16 + moved)
    assert centre(known) == pytest.approx(13 + moved, abs=1)


def test_a_rhythm_is_unknown_at_first_and_in_an_empty_room() -> None:
    assert math.isnan(centre(attended(2)[1])) and math.isnan(centre(attended(4, height=0)[1]))


def test_rare_readings_have_a_source_too() -> None:
    """A reading each 15 minutes has no slope over ten: the lag of a slow mean stands in for it."""
    room, times = lecture(3)
    held = torch.arange(len(times)) // 3 * 3
    rare = room | {"co2": room["co2"][held], "co2_slope": torch.full_like(times, math.nan)}
    rare["co2_mean"] = torch.where(torch.arange(len(times)) % 3 == 0, room["co2"], math.nan)
    source = columns(lived([rare], times)[0][:, 0], ("source",))[:, 0]
    assert source[row(2, 11)].item() > 0.5 and source[row(2, 16)].abs().item() < 0.2
