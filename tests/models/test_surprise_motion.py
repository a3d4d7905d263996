"""Known camera motion is recovered: shifts, zooms and rolls of a picture, without objects that move by themselves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tocsin.models.surprise.motion import ACTION, SIZE, ego_motion, grey, still
from tocsin.models.vision.flow import refined

HEIGHT, WIDTH = SIZE


def ground(seed: int = 0) -> np.ndarray:
    """A texture larger than a frame."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((HEIGHT // k, WIDTH // k)), (4 * WIDTH, 4 * HEIGHT)) for k in (1, 2, 4, 8)]
    return (sum(layers) / len(layers) * 255).astype(np.uint8)


def view(shift: tuple[float, float] = (0, 0), zoom: float = 1.0, roll: float = 0.0) -> np.ndarray:
    """The view of a camera over the texture's middle. `shift` moves the picture right and down, in pixels."""
    c, s = np.cos(roll), np.sin(roll)
    turn = np.array([[c, -s], [s, c]]) / zoom
    middle = np.array([2 * WIDTH, 2 * HEIGHT])
    to = middle - turn @ (np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2]) + shift)
    matrix = np.hstack([turn, to[:, None]])
    return cv2.warpAffine(ground(), matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def motion(after: np.ndarray, before: np.ndarray | None = None):
    pair = [view() if before is None else before, after]
    return ego_motion(*(torch.from_numpy(np.ascontiguousarray(frame))[None] for frame in pair))


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -2), (-5.5, 4), (12, 0)])
def test_a_shift_is_found_to_a_fifth_of_a_pixel(shift: tuple[float, float]) -> None:
    action = dict(zip(ACTION, motion(view(shift)).action[0].tolist(), strict=True))
    # A place's previous position lies opposite to the picture's motion.
    assert (action["shift_x"] * WIDTH, action["shift_y"] * WIDTH) == pytest.approx((-shift[0], -shift[1]), abs=0.2)
    assert (action["zoom"], action["roll"]) == pytest.approx((0, 0), abs=0.004)
    assert action["flow"] * WIDTH == pytest.approx(float(np.hypot(*shift)), abs=0.4)


def test_zoom_and_roll_are_told_apart() -> None:
    near = dict(zip(ACTION, motion(view(zoom=1.05)).action[0].tolist(), strict=True))
    assert near["zoom"] == pytest.approx(-np.log(1.05), abs=0.005) and abs(near["roll"]) < 0.005
    assert near["divergence"] < -0.05 and abs(near["curl"]) < 0.02
    rolled = dict(zip(ACTION, motion(view(roll=0.05)).action[0].tolist(), strict=True))
    assert abs(rolled["roll"]) == pytest.approx(0.05, abs=0.005) and abs(rolled["zoom"]) < 0.005
    assert abs(rolled["curl"]) > 0.05 and abs(rolled["divergence"]) < 0.02


def test_the_warp_takes_the_frame_before_to_this_one() -> None:
    before, after = view(), view((6, -3), zoom=1.03)
    found = motion(after, before)
    grid = F.affine_grid(found.warp, [1, 1, HEIGHT, WIDTH], align_corners=False)
    moved = F.grid_sample(torch.from_numpy(before)[None, None].float(), grid, align_corners=False)[0, 0]
    inside = (slice(10, -10), slice(10, -10))
    error = (moved - torch.from_numpy(after).float()).abs()[inside].mean()
    unmoved = (torch.from_numpy(before).float() - torch.from_numpy(after).float()).abs()[inside].mean()
    assert error < 0.3 * unmoved


def test_what_moves_by_itself_is_not_taken_for_the_cameras_motion() -> None:
    before, after = view(), view((4, 0))
    fish = ground(9)[:20, :40]
    before[30:50, 20:60], after[30:50, 32:72] = fish, fish
    action = dict(zip(ACTION, motion(after, before).action[0].tolist(), strict=True))
    assert action["shift_x"] * WIDTH == pytest.approx(-4, abs=0.4)


@pytest.mark.parametrize("light", [0, 25])
def test_a_pattern_that_repeats_does_not_pull_the_motion_aside(light: int) -> None:
    """Tiles of ten pixels under weak light, a shift of half a tile's joint, and a lamp that moves."""
    rng, (y, x) = np.random.default_rng(2), np.mgrid[:HEIGHT, :WIDTH]
    lamp = light * np.exp(-((x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2) / 900)

    def tiles(shift: float) -> np.ndarray:
        joints = np.maximum(np.cos(2 * np.pi * (x - shift) / 10), np.cos(2 * np.pi * y / 10)) ** 9
        return np.clip(90 + 12 * joints + rng.normal(0, 2, SIZE), 0, 255)

    before, after = tiles(0), tiles(1.3) + lamp
    action = dict(zip(ACTION, motion(after.astype(np.uint8), before.astype(np.uint8)).action[0].tolist(), strict=True))
    assert (action["shift_x"] * WIDTH, action["shift_y"] * WIDTH) == pytest.approx((-1.3, 0), abs=0.1)


def test_a_fit_that_leads_away_is_refused() -> None:
    first = np.eye(2, 3)
    first[0, 2] = 40.0
    assert np.array_equal(refined(view(), ground(5)[:HEIGHT, :WIDTH], first, steps=30), first)


def test_frames_without_any_texture_have_no_motion() -> None:
    flat = np.full(SIZE, 90, np.uint8)
    found = motion(flat, flat)
    assert torch.isfinite(found.warp).all() and torch.isfinite(found.action).all()
    assert torch.allclose(found.warp, still(1).warp, atol=0.02)


def test_pairs_are_judged_by_themselves_and_none_is_none() -> None:
    frames = torch.from_numpy(np.stack([view(), view((3, 0)), view((3, 5))]))
    whole = ego_motion(frames[:-1], frames[1:])
    for n in range(2):
        one = ego_motion(frames[n : n + 1], frames[n + 1 : n + 2])
        assert torch.equal(one.warp[0], whole.warp[n]) and torch.equal(one.action[0], whole.action[n])
    empty = ego_motion(frames[:0], frames[:0])
    assert empty.warp.shape == (0, 2, 3) and empty.action.shape == (0, len(ACTION))


def test_grey_is_brightness_averaged() -> None:
    pixels = torch.zeros(2, 3, 2 * HEIGHT, 2 * WIDTH, dtype=torch.uint8)
    pixels[1, :, ::2] = 200
    assert grey(pixels).shape == (2, *SIZE)
    assert set(grey(pixels)[1].flatten().tolist()) == {100}
    assert grey(pixels[:0]).shape == (0, *SIZE)
