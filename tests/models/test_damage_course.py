"""Whether a camera shows the same place, by how much it was moved, and whether damage has grown since."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tocsin.models.damage.alignment import SIZE, phase
from tocsin.models.damage.course import GRID, CourseConfig, Place, step


def place(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fine = cv2.resize(rng.normal(0, 20, (60, 100)).astype(np.float32), (260, 190), interpolation=cv2.INTER_CUBIC)
    coarse = cv2.resize(rng.normal(0, 30, (12, 20)).astype(np.float32), (260, 190), interpolation=cv2.INTER_CUBIC)
    return np.clip(120 + fine + coarse, 0, 255)


def view(seed: int, down: int = 0, right: int = 0, light: float = 1.0, noise: int = 0) -> np.ndarray:
    scene = place(seed)[50 - down : 50 - down + SIZE[0], 50 - right : 50 - right + SIZE[1]]
    return np.clip(light * scene + np.random.default_rng(noise).normal(0, 4, SIZE), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -5), (-8, 10), (0, 20)])
@pytest.mark.parametrize("light", [0.5, 1.0, 1.4])
def test_a_shift_is_found_in_other_light(down: int, right: int, light: float) -> None:
    found = phase(view(1), view(1, down, right, light, noise=9))
    assert found is not None
    assert found[0] * SIZE[0] == pytest.approx(down, abs=0.7) and found[1] * SIZE[1] == pytest.approx(right, abs=0.7)


def test_another_place_is_not_aligned_nor_is_a_far_one() -> None:
    assert all(phase(view(1), view(seed)) is None for seed in range(2, 12))
    assert phase(view(1), view(1, right=45)) is None


def damaged(width: int, right: int = 0) -> np.ndarray:
    """A strip of damage, with as many columns as `width`."""
    cells = np.zeros(GRID, np.float32)
    cells[10:20, 20 + right : 20 + right + width] = 1.0
    return cells


def course(widths: list[int], config: CourseConfig, *, right: list[int] | None = None) -> list:
    memory, found = Place.blank(), []
    for number, width in enumerate(widths):
        columns = right[number] if right else 0
        pixels = round(columns * SIZE[1] / GRID[1])
        grown, memory = step(memory, view(3, right=pixels, noise=number), damaged(width, columns), config)
        found.append(grown)
    return found


def test_growth_is_measured_from_the_first_frames_of_a_place() -> None:
    found = course([4] * 5 + [8] * 20, CourseConfig(settle=5, average=4, growth=0.01))
    assert [grown.growth is None for grown in found[:6]] == [True] * 5 + [False]
    wanted = 4 * 10 / (GRID[0] * GRID[1])
    assert found[-1].growth == pytest.approx(wanted, rel=0.08) and found[-1].growth >= found[-1].level
    assert [grown.growth >= grown.level for grown in found[5:]] == [False, False, *[True] * 18]
    assert {grown.place for grown in found} == {1}


def test_what_stays_does_not_grow_also_where_the_camera_was_knocked() -> None:
    found = course([4] * 25, CourseConfig(settle=5), right=[0] * 10 + [4] * 15)
    assert all(abs(grown.growth) < 0.002 for grown in found[5:])
    assert found[-1].moved == pytest.approx(4 / GRID[1], abs=0.005) and found[5].moved == pytest.approx(0, abs=0.005)


def test_extents_that_vary_at_first_must_grow_more() -> None:
    steady, shaky = (course(first + [6] * 15, CourseConfig(settle=8))[-1] for first in ([4] * 8, [4, 14] * 4))
    assert shaky.level > 2 * steady.level


def test_another_place_begins_anew() -> None:
    config, memory = CourseConfig(settle=3), Place.blank()
    for number in range(6):
        _, memory = step(memory, view(3, noise=number), damaged(4), config)
    grown, memory = step(memory, view(8), damaged(20), config)
    assert (grown.growth, grown.moved, grown.place) == (None, None, 2) and int(memory.seen) == 1
