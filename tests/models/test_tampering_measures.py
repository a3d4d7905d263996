"""Measures of places, and the memory of what is usual, beside plain loops over pixels and frames."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from tocsin.models.tampering import measures
from tocsin.models.tampering.measures import APPEARANCE, GRID, MOTION, PRINT, SIZE, measured
from tocsin.models.tampering.memory import CELLS, FAR, LOOKS, MOVES, UNITS, Memory, MemoryConfig, step
from tocsin.models.vision.flow import grey_frame

CONFIG = MemoryConfig()
CELL = SIZE[0] // GRID[0], SIZE[1] // GRID[1]


def picture(seed: int = 0, grain: float = 0.0) -> np.ndarray:
    """A textured picture; grain differs with every seed, texture does not."""
    rough = np.random.default_rng(99).uniform(40, 200, (23, 40, 3)).astype(np.float32)
    image = cv2.resize(rough, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    image = image + np.random.default_rng(seed).normal(0, 1, image.shape) * grain
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def cells(values: np.ndarray) -> np.ndarray:
    """The mean of each place, by a loop."""
    out = np.zeros(GRID)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            part = values[row * CELL[0] : (row + 1) * CELL[0], column * CELL[1] : (column + 1) * CELL[1]]
            out[row, column] = sum(part.ravel().tolist()) / part.size
    return out


def test_measures_of_looks_are_those_of_a_loop_over_places() -> None:
    image = picture(grain=3)
    found = dict(zip(APPEARANCE, measured(image, None).appearance, strict=True))
    shade = grey_frame(image, SIZE).astype(np.float64)
    np.testing.assert_allclose(found["light"], cells(shade) / 255, atol=1e-4)
    np.testing.assert_allclose(found["red"], cells(image[..., 0].astype(float) - image[..., 1]) / 255, atol=1e-4)
    spread = np.sqrt(np.maximum(cells(shade**2) - cells(shade) ** 2, 0))
    np.testing.assert_allclose(found["contrast"], np.log1p(spread), atol=2e-3)
    np.testing.assert_allclose(found["clipped"], cells((shade <= 6) | (shade >= 249)), atol=1e-4)
    padded, rest = np.pad(shade, 1, mode="reflect"), np.zeros(SIZE)
    for dy, line in enumerate([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]):
        for dx, weight in enumerate(line):
            rest += weight / 6 * padded[dy : dy + SIZE[0], dx : dx + SIZE[1]]
    np.testing.assert_allclose(found["noise"], np.log1p(1.2533 * cells(np.abs(rest))), atol=2e-3)


def test_grain_is_measured_as_its_deviation_and_blur_takes_detail_away() -> None:
    flat = np.full((*SIZE, 3), 120, np.uint8)
    noisy = np.clip(flat + np.random.default_rng(1).normal(0, 4, SIZE)[..., None], 0, 255).astype(np.uint8)
    noise = APPEARANCE.index("noise")
    assert np.expm1(measured(noisy, None).appearance[noise]).mean() == pytest.approx(4, rel=0.1)
    detail = APPEARANCE.index("detail")
    sharp, soft = picture(), np.asarray(cv2.GaussianBlur(picture(), (0, 0), 4), np.uint8)
    assert measured(sharp, None).appearance[detail].mean() > measured(soft, None).appearance[detail].mean() + 0.3


def test_a_frame_without_one_before_has_no_motion_and_an_equal_one_stands_still() -> None:
    image = picture(grain=2)
    assert np.isnan(measured(image, None).motion).all()
    found = dict(zip(MOTION, measured(image, grey_frame(image, SIZE)).motion, strict=True))
    assert found["change"].max() == 0 and found["equal"].min() > 0.9 and found["fixed"].min() > 0.9
    assert found["flow"].max() < 0.05
    other = dict(zip(MOTION, measured(picture(5, grain=2), grey_frame(image, SIZE)).motion, strict=True))
    assert other["equal"].max() < 0.4 and other["change"].min() > 0.3 and other["fixed"].mean() < 0.5


def test_a_moved_picture_flows_as_a_whole_and_a_moved_part_strays() -> None:
    image = picture()
    before = np.roll(image, 6, 1)
    found = dict(zip(MOTION, measured(image, grey_frame(before, SIZE)).motion, strict=True))
    inner = np.s_[2:-2, 3:-3]
    assert np.expm1(found["flow"][inner]).mean() == pytest.approx(3, rel=0.1)  # at half the size
    assert np.expm1(found["stray"][inner]).mean() < 0.3
    part = image.copy()
    part[60:120, 100:200] = before[60:120, 100:200]
    strays = dict(zip(MOTION, measured(part, grey_frame(image, SIZE)).motion, strict=True))["stray"]
    assert strays[4, 6:9].mean() > strays[:2].mean() + 0.2


def test_a_print_is_the_signed_sum_of_its_cell() -> None:
    image = picture(grain=3)
    shade, signs = grey_frame(image, SIZE).astype(np.float64), measures._pattern()
    assert {*np.unique(signs)} == {-1.0, 1.0}
    found = measured(image, None).print
    for row, column in ((0, 0), (7, 19), (PRINT[0] - 1, PRINT[1] - 1)):
        at = np.s_[10 * row : 10 * row + 10, 10 * column : 10 * column + 10]
        assert signs[at].sum() == 0
        assert found[row, column] == pytest.approx(np.clip(20 * (shade[at] * signs[at]).mean(), -127, 127), abs=0.51)


def remembered(frames: Sequence[np.ndarray], config: MemoryConfig = CONFIG) -> tuple[torch.Tensor, Memory]:
    """The features of one camera's frames."""
    memory, before, found = Memory.blank(1, config), None, []
    for image in frames:
        evidence, memory = step(memory, *(torch.from_numpy(p)[None] for p in measured(image, before)), config)
        before = grey_frame(image, SIZE)
        found.append(evidence.features[0])
    return torch.stack(found), memory


def test_what_is_usual_is_the_plain_mean_at_first_and_then_follows_far_frames_slowly() -> None:
    config = MemoryConfig(settles=10, usual=30, prints=24)
    frames = [picture(seed, grain=3) for seed in range(16)]
    features, memory = remembered(frames, config)
    light = np.stack([measured(image, None).appearance[0] for image in frames])
    mean, square, floor = np.zeros(GRID), np.zeros(GRID), (0.15 * UNITS[0]) ** 2
    for count, values in enumerate(light):
        deviation, off = np.sqrt(square + floor), values - mean
        if count >= config.lately:
            now = (off / deviation).clip(-FAR, FAR) / 2
            np.testing.assert_allclose(features[count, 0, 1], now, atol=1e-3)
        taken = off if count < 10 else off.clip(-2 * deviation, 2 * deviation)
        part = max(1 / (count + 1), 1 / 30)
        mean, square = mean + part * taken, square + part * (taken**2 - square)
    np.testing.assert_allclose(memory.mean[0, 0], mean, atol=1e-5)
    np.testing.assert_allclose(memory.mean[0, 0], light.mean(0), atol=0.02)
    _, after = remembered([*frames, np.zeros((*SIZE, 3), np.uint8)], config)
    assert float((after.mean[0, 0] - memory.mean[0, 0]).abs().max()) < 0.05


def test_a_replay_is_known_by_its_grain_and_a_camera_at_rest_is_none() -> None:
    config = MemoryConfig(prints=64)
    seen = [picture(seed, grain=3) for seed in range(50)]
    at = len(LOOKS) + MOVES.index("replayed")
    still, _ = remembered([*seen, *[picture(seed, grain=3) for seed in range(100, 104)]], config)
    replay, _ = remembered([*seen, *seen[10:14]], config)
    unit = UNITS[at]
    assert float((still[50:, at, 0] * unit).max()) < 0.35 < 0.8 < float((replay[50:, at, 0] * unit).min())
    playing = len(LOOKS) + MOVES.index("replaying")
    assert (replay[50:, playing, 0, 0, 0].diff() > 0).all()


def test_two_cameras_together_are_as_each_alone() -> None:
    config = MemoryConfig(prints=40)
    films = [[picture(seed, grain=2) for seed in range(30)], [255 - picture(seed, grain=5) for seed in range(40, 70)]]
    alone = [remembered(film, config)[0] for film in films]
    memory, before = Memory.blank(2, config), [None, None]
    for number, pair in enumerate(zip(*films, strict=True)):
        found = [measured(image, past) for image, past in zip(pair, before, strict=True)]
        before = [grey_frame(image, SIZE) for image in pair]
        parts = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
        evidence, memory = step(memory, *parts, config)
        for camera in (0, 1):
            torch.testing.assert_close(evidence.features[camera], alone[camera][number], atol=1e-4, rtol=1e-4)
    assert memory.prints.shape == (2, 40, CELLS) and memory.seen.tolist() == [30, 30]
