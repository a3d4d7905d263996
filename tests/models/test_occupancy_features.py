"""A room's air in its own units: offsets cancel, the room's own history sets the scale, and unknown values stay unknown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tocsin.models.occupancy.features import COLUMNS, FEATURES, OFFICE, PRIOR, Clock, advance, memory

CO2 = ("level", "log_level", "slope", "roughness", "past")


def air(minutes: int, seed: int = 0, **given: Tensor) -> dict[str, Tensor]:
    """`[minutes]` of each column: CO2 that wanders above 420 ppm, the rest constant."""
    rng = np.random.default_rng(seed)
    co2 = torch.from_numpy(420 + np.abs(np.cumsum(rng.normal(0, 5, minutes))))
    made = {"co2": co2, "co2_mean": co2, "co2_slope": torch.zeros(minutes, dtype=torch.float64)}
    rest = {"temperature": 21.0, "humidity": 45.0, "ventilation": 0.2}
    return made | {n: torch.full((minutes,), x, dtype=torch.float64) for n, x in rest.items()} | given


def clock(minutes: Tensor) -> Clock:
    """The clock of minutes counted from midnight of a Monday."""
    day = (minutes // 1440).long()
    return Clock(minutes % 1440 / 60, day % 7, day)


def lived(rooms: list[dict[str, Tensor]], times: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Advance rooms together. Returns their features `[T, B, F]` and their final state."""
    count = len(rooms[0]["co2"])
    times = torch.arange(count, dtype=torch.float64) if times is None else times
    known = {n: torch.full((len(rooms), *shape), fill, dtype=torch.float64) for n, (shape, fill) in memory().items()}
    seen = []
    for i, time in enumerate(times):
        now = {n: torch.stack([room[n][i] for room in rooms]) for n in COLUMNS}
        at = time.repeat(len(rooms))
        features, known = advance(known, at, now, clock(at))
        seen.append(features)
    return torch.stack(seen), known


def columns(features: Tensor, names: tuple[str, ...]) -> Tensor:
    return features[..., [FEATURES.index(n) for n in names]]


def test_a_sensor_that_says_too_much_by_a_constant_changes_nothing() -> None:
    true = air(300)
    off = true | {n: true[n] + 130 for n in ("co2", "co2_mean")}
    features, _ = lived([true, off])
    torch.testing.assert_close(features[:, 0], features[:, 1], atol=1e-4, rtol=1e-4, equal_nan=True)
    assert columns(features, CO2[:1]).max() > 0.2


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
    assert PRIOR == 150
    # 1,700 minutes of its own weigh against 1,200 of the prior: between 150 and 69.
    assert 69 < known["usual"].item() < 125


def test_the_unit_is_settled_once_a_day() -> None:
    times = torch.arange(8.5 * 60, 9.5 * 60, dtype=torch.float64)
    rooms = [air(len(times), co2_mean=torch.full((len(times),), 420.0, dtype=torch.float64))]
    _, known = lived(rooms, times)
    assert known["usual"].item() == pytest.approx(PRIOR, rel=0.1)
    assert known["levels"].sum().item() == pytest.approx(1200 + 60, rel=0.01)


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
    torch.testing.assert_close(columns(short[2], CO2[3:]), columns(long[2], CO2[3:]))
