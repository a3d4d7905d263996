"""Crops of hands against a loop over pixels, and boxes of hands from a fake detector."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.touch.hands import (
    AT_ONCE,
    JOINTS,
    UNSEEN,
    FoundHand,
    HandDetector,
    crops,
    jittered,
    present,
    sided,
)

NAN = float("nan")
NOWHERE = [NAN] * 4


def picture(frames: int = 1, height: int = 12, width: int = 20) -> Tensor:
    return torch.randint(0, 256, (frames, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def naive(pixels: NDArray[np.uint8], box: NDArray[np.float64], size: int, enlarge: float) -> NDArray[np.float64]:
    """One crop of `[3, H, W]`. Each pixel is interpolated between four pixels of the frame, which is black outside."""
    _, height, width = pixels.shape
    x0, y0, x1, y1 = box * (width, height, width, height)
    side = max(max(x1 - x0, y1 - y0) * enlarge, 2)
    made = np.zeros((3, size, size))
    for row in range(size):
        for column in range(size):
            y = (y0 + y1) / 2 + side * ((row + 0.5) / size - 0.5) - 0.5
            x = (x0 + x1) / 2 + side * ((column + 0.5) / size - 0.5) - 0.5
            for j in (int(np.floor(y)), int(np.floor(y)) + 1):
                for i in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= j < height and 0 <= i < width:
                        made[:, row, column] += (1 - abs(y - j)) * (1 - abs(x - i)) * pixels[:, j, i]
    return made


@pytest.mark.parametrize(("size", "enlarge"), [(5, 1.0), (8, 1.5), (3, 2.0)])
def test_crops_are_what_a_loop_over_their_pixels_gives(size: int, enlarge: float) -> None:
    frames = 2 * AT_ONCE + 1  # two full chunks and one frame more
    pixels, generator = picture(frames), torch.Generator().manual_seed(1)
    boxes = torch.rand(frames, 2, 2, 2, generator=generator).sort(2).values.flatten(2)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes[1, 1] = torch.tensor([0.5, 0.5, 0.501, 0.501])  # less than a pixel
    made = crops(pixels, boxes, size=size, enlarge=enlarge)
    assert made.dtype == torch.uint8 and made.shape == (frames, 2, 3, size, size)
    for frame in range(frames):
        for hand in range(2):
            wanted = naive(pixels[frame].numpy(), boxes[frame, hand].double().numpy(), size, enlarge)
            assert np.abs(made[frame, hand].numpy() - wanted).max() < 0.51


def test_a_crop_is_black_where_it_leaves_the_frame() -> None:
    white = torch.full((1, 3, 40, 80), 255, dtype=torch.uint8)
    corner = torch.tensor([[[0.0, 0.0, 0.1, 0.2], [0.9, 0.8, 1.0, 1.0]]])  # each box has 8 x 8 pixels
    left, right = crops(white, corner, size=16, enlarge=2.0)[0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:, 4:] = True
    assert (left[:, inside] == 255).all() and (left[:, ~inside] == 0).all()
    assert torch.equal(right, left.flip(1, 2))


def test_an_absent_hand_leaves_the_others_crop_alone_and_no_frames_are_no_crops() -> None:
    pixels, there = picture(2), [0.1, 0.2, 0.4, 0.6]
    made = crops(pixels, torch.tensor([[NOWHERE, there], [there, NOWHERE]]), size=6, enlarge=1.5)
    both = crops(pixels, torch.tensor([[there, there], [there, there]]), size=6, enlarge=1.5)
    assert torch.equal(made[0, 1], both[0, 1]) and torch.equal(made[1, 0], both[1, 0])
    assert crops(pixels[:0], torch.empty(0, 2, 4), size=6, enlarge=1.5).shape == (0, 2, 3, 6, 6)


def test_a_hand_is_there_if_its_whole_box_is() -> None:
    boxes = torch.tensor([[NOWHERE, [0.0, 0.0, 1.0, 1.0]], [[0.1, 0.2, NAN, 0.4], NOWHERE]])
    assert present(boxes).tolist() == [[False, True], [False, False]]


def test_shaken_boxes_are_a_little_off_and_now_and_then_gone() -> None:
    true = np.array([[0.2, 0.3, 0.4, 0.7], [0.9, 0.5, 1.0, 0.6]], np.float32)
    draw = np.random.default_rng(0)
    found = np.stack([jittered(true, draw) for _ in range(4000)])
    assert found.dtype == np.float32
    assert np.isnan(found).any(2).mean(0) == pytest.approx(UNSEEN, abs=0.01)
    assert (np.isnan(found).any(2) == np.isnan(found).all(2)).all()
    sizes, centres = found[:, 0, 2:] - found[:, 0, :2], (found[:, 0, 2:] + found[:, 0, :2]) / 2
    assert np.nanmin(sizes / (0.2, 0.4)) > 0.89 and np.nanmax(sizes / (0.2, 0.4)) < 1.13
    assert np.nanstd(centres, 0) == pytest.approx(0.03 * np.array([0.2, 0.4]), rel=0.1)
    assert np.nanmax(found) == 1.0  # the right hand's box is clipped at the edge
    again = np.random.default_rng(0)
    assert np.array_equal(found[:20], np.stack([jittered(true, again) for _ in range(20)]), equal_nan=True)


def test_no_detector_finds_hands_that_are_not_there_or_outside_the_frame() -> None:
    draw = np.random.default_rng(0)
    out = np.array([NOWHERE, [1.2, 0.1, 1.4, 0.3]], np.float32)
    assert all(np.isnan(jittered(out, draw)).all() for _ in range(20))


def made_up(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, float, list[tuple[float, float]]]) -> list[Any]:
    """Install a fake MediaPipe that finds these hands (side, score, landmarks) in each frame. Returns a list of its inputs."""
    asked: list[Any] = []

    def detect(image: SimpleNamespace) -> SimpleNamespace:
        asked.append(image.data)
        sides = [[SimpleNamespace(category_name=side, score=score)] for side, score, _ in found]
        points = [[SimpleNamespace(x=x, y=y) for x, y in marks] for *_, marks in found]
        return SimpleNamespace(handedness=sides, hand_landmarks=points)

    landmarker = SimpleNamespace(detect=detect, close=lambda: None)
    vision = SimpleNamespace(
        HandLandmarkerOptions=SimpleNamespace,
        HandLandmarker=SimpleNamespace(create_from_options=lambda options: landmarker),
    )
    package, python = ModuleType("mediapipe"), ModuleType("mediapipe.tasks.python")
    vars(package).update(Image=SimpleNamespace, ImageFormat=SimpleNamespace(SRGB="srgb"))
    vars(python).update(BaseOptions=SimpleNamespace, vision=vision)
    names = {"mediapipe": package, "mediapipe.tasks": ModuleType("mediapipe.tasks"), "mediapipe.tasks.python": python}
    for name, module in names.items():
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_the_detector_gives_each_frames_hands_with_their_joints_the_surest_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file := tmp_path / "hand_landmarker.task").touch()
    sure, unsure = [(0.1, 0.5), (0.3, 0.2), (0.2, 0.9)], [(0.6, 0.6), (0.8, 0.7)]
    asked, pixels = made_up(monkeypatch, ("Left", 0.4, unsure), ("Right", 0.9, sure)), picture(2)
    found = HandDetector(file)(pixels)
    assert [[(hand.right, hand.score) for hand in hands] for hands in found] == [[(True, 0.9), (False, 0.4)]] * 2
    assert np.allclose(found[1][0].joints, sure) and np.allclose(found[0][1].joints, unsure)
    assert [image.shape for image in asked] == [(12, 20, 3)] * 2
    assert np.array_equal(asked[1], pixels[1].permute(1, 2, 0).numpy())


def at(x: float, y: float, size: float = 0.1) -> NDArray[np.float32]:
    """The joints of a hand of this size around a place, in a square frame."""
    joints = np.full((JOINTS, 2), (x, y), np.float32)
    joints[0] += (0, size / 2)
    joints[5:] -= (0, size / 2)
    return joints


FAR_AWAY, SQUARE = np.zeros((2, JOINTS, 2), np.float32), (1.0, 1.0)


def places(sides: NDArray[np.float32]) -> list[float | None]:
    """The horizontal place of the left and the right hand, to one digit."""
    return [None if np.isnan(side).any() else round(float(side[0, 0]), 1) for side in sides]


def test_new_hands_are_on_the_side_that_they_look_like_and_two_of_a_side_take_both() -> None:
    left, right = FoundHand(False, 0.9, at(0.2, 0.5)), FoundHand(True, 0.8, at(0.7, 0.5))
    never = (-1, -1)
    assert places(sided([left, right], FAR_AWAY, never, SQUARE)) == [0.2, 0.7]
    assert places(sided([right], FAR_AWAY, never, SQUARE)) == [None, 0.7]
    assert places(sided([right, left._replace(right=True)], FAR_AWAY, never, SQUARE)) == [0.2, 0.7]
    assert places(sided([], FAR_AWAY, never, SQUARE)) == [None, None]


def test_a_hand_found_twice_counts_once_and_the_likelier_place_holds() -> None:
    twice = [FoundHand(True, 0.9, at(0.5, 0.5)), FoundHand(False, 0.6, at(0.53, 0.5))]
    assert places(sided(twice, FAR_AWAY, (-1, -1), SQUARE)) == [None, 0.5]


def test_a_hand_stays_on_its_side_whatever_it_looks_like_until_it_is_lost_or_elsewhere() -> None:
    last = np.stack([at(0.9, 0.9), at(0.5, 0.5)])
    mistaken = FoundHand(False, 0.9, at(0.6, 0.5))  # one size of the hand away from where the right one was
    assert places(sided([mistaken], last, (-1, 0), SQUARE)) == [None, 0.6]
    assert places(sided([mistaken], last, (-1, -1), SQUARE)) == [0.6, None]
    leap = mistaken._replace(joints=at(0.7, 0.5))  # two sizes away: possible after a few frames only
    assert places(sided([leap], last, (-1, 0), SQUARE)) == [0.7, None]
    assert places(sided([leap], last, (-1, 2), SQUARE)) == [None, 0.7]


def test_two_hands_that_cross_keep_the_nearer_places() -> None:
    last = np.stack([at(0.4, 0.5), at(0.6, 0.5)])
    found = [FoundHand(True, 0.9, at(0.42, 0.5)), FoundHand(False, 0.8, at(0.56, 0.5))]
    assert np.allclose(sided(found, last, (0, 0), SQUARE)[:, 0, 0], [0.42, 0.56])


def test_a_detector_without_its_file_or_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    with pytest.raises(ValueError, match=r"expected MediaPipe's hand_landmarker.task at /nowhere.task, got no file"):
        HandDetector("/nowhere.task")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ValueError, match=r"expected the package mediapipe, got none; pip install 'tocsin\[hands\]'"):
        HandDetector("/nowhere.task")
