"""Plans of halls: what they hold, and which are refused; rays through walls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tocsin.models.field.hall import COLUMNS, ROWS, Hall, read
from tocsin.models.field.rays import crossed, crossings

L_SHAPE = [[0, 0], [10, 0], [10, 4], [6, 4], [6, 8], [0, 8]]
PLAN: dict[str, Any] = {
    "kind": "temperature",
    "outline": L_SHAPE,
    "walls": [[6, 0, 6, 3, 0.3]],
    "sensors": {"a": [1, 1], "b": [9, 1], "corner": [10, 4]},
    "above": 40,
}


def test_a_hall_knows_its_walls_its_floor_and_what_is_inside() -> None:
    hall = Hall.of("press", PLAN)
    assert hall.area == 64 and hall.size.tolist() == [10, 8]
    assert hall.segments.shape == (7, 4) and hall.outer.tolist() == [True] * 6 + [False]
    assert hall.blocking.tolist() == [1.5] * 6 + [0.3]
    inside = hall.holds(np.array([[1.0, 1.0], [9.0, 6.0], [5.9, 7.9], [6.0, 8.0], [11.0, 1.0]]))
    assert inside.tolist() == [True, False, True, True, False]
    cells = hall.cells
    assert cells.shape == (ROWS * COLUMNS, 2)
    assert np.allclose(cells[0], [10 / COLUMNS / 2, 8 / ROWS / 2]) and np.allclose(
        cells[1] - cells[0], [10 / COLUMNS, 0]
    )
    assert hall.holds(cells).mean() == pytest.approx(64 / 80, abs=0.02)


def test_a_plan_is_read_as_it_is_written(tmp_path: Path) -> None:
    hall = Hall.of("press", PLAN)
    again = Hall.of("press", hall.plan())
    assert again.plan() == hall.plan() and again.above == 40 and again.below is None
    (tmp_path / "halls.toml").write_text(
        '[press]\nkind = "signal"\noutline = [[0, 0], [4, 0], [4, 3], [0, 3]]\n[press.sensors]\na = [1, 1]\n'
    )
    (press,) = read(tmp_path / "halls.toml").values()
    assert (press.name, press.kind, press.blocks, press.sensors) == ("press", "signal", 15.0, {"a": (1.0, 1.0)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "humidity"}, "hall press, kind: expected one of signal, temperature, got 'humidity'"),
        ({"outline": [[0, 0], [1, 0]]}, "outline: expected the x, y of three corners at least, got"),
        ({"outline": [[0, 0], [1, 0], [2, 0]]}, "outline: expected the x, y of three corners at least, got"),
        ({"outline": [[0, 0], [1, 0], [2]]}, "outline: expected rows of 2 finite numbers, got"),
        ({"walls": [[0, 0, 1, 1]]}, "walls: expected rows of 5 finite numbers, got"),
        ({"walls": [[0, 0, 1, float("nan"), 1]]}, "walls: expected rows of 5 finite numbers, got"),
        ({"walls": [[0, 0, 1, 1, -2]]}, "expected walls that block 0 or more, got -2"),
        ({"walls": [[0, 0, 1, 1, 1]] * 60}, "expected at most 64 walls with the outline's, got 66"),
        ({"sensors": {"a": [9, 6]}}, r"sensor a: expected a place within the outline, got \[9.0, 6.0\]"),
        ({"sensors": [[1, 1]]}, r"sensors: expected a name and x, y for each, got \[\[1, 1\]\]"),
        ({"blocks": "much"}, r"blocks: expected rows of 1 finite numbers, got \[\['much'\]\]"),
        ({"sensors": {"a": 3}}, "sensor a: expected rows of 2 finite numbers, got"),
        ({"height": 3}, "expected some of kind, outline, blocks, walls, sensors, above, below, got height"),
    ],
)
def test_a_wrong_plan_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Hall.of("press", PLAN | change)


def test_a_file_without_halls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"halls\.toml: expected the halls' plans"):
        read(tmp_path / "halls.toml")
    (tmp_path / "halls.toml").write_text("press = 3")
    with pytest.raises(ValueError, match=r"halls\.toml: hall press: expected a table, got 3"):
        read(tmp_path / "halls.toml")
    (tmp_path / "halls.toml").write_text("[press]\nkind = ")
    with pytest.raises(ValueError, match=r"halls\.toml: expected TOML, got"):
        read(tmp_path / "halls.toml")


def test_a_ray_crosses_the_walls_between_its_ends() -> None:
    walls = np.array([[5.0, -1, 5, 1], [5, 2, 5, 4], [0, 5, 9, 5]])
    start, end = np.array([0.0, 0.0]), np.array([10.0, 0.0])
    assert crossed(start, end, walls).tolist() == [True, False, False]
    assert crossed(start, np.array([4.0, 0.0]), walls).tolist() == [False, False, False]
    assert crossed(start, np.array([10.0, 6.0]), walls).tolist() == [False, True, True]


def test_soft_crossings_are_the_plain_ones_away_from_edges() -> None:
    draw = np.random.default_rng(0)
    start, end, walls = draw.uniform(0, 10, (40, 2)), draw.uniform(0, 10, (30, 2)), draw.uniform(0, 10, (7, 4))
    expected = crossed(start[:, None], end[None], walls)
    args = [torch.from_numpy(each)[None] for each in (start, end, walls)]
    got = crossings(*args, edge=1e-6)[0].numpy()
    assert (np.abs(got - expected) < 1e-3).all() and expected.any() and not expected.all()
    soft = crossings(*args)[0].numpy()
    assert ((soft >= 0) & (soft <= 1)).all() and np.abs(soft - expected).mean() < 0.02


def test_a_crossing_fades_as_a_place_passes_a_wall_and_padding_is_crossed_by_none() -> None:
    along = torch.linspace(4.7, 5.3, 61, dtype=torch.float64)
    places = torch.stack([along, torch.zeros_like(along)], dim=-1)[None]
    walls = torch.tensor([[[5.0, -1, 5, 1], [0, 0, 0, 0]]], dtype=torch.float64)
    found = crossings(torch.zeros(1, 1, 2, dtype=torch.float64), places, walls)[0, 0]
    assert (found[:, 1] == 0).all()
    assert found[0, 0] == 0 and found[-1, 0] == 1
    steps = found[1:, 0] - found[:-1, 0]
    assert (steps >= 0).all() and float(steps.max()) < 0.1
