"""Object motion is separated from camera motion, in the whole frame and in a square around each hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tocsin.models.touch.hands import crops
from tocsin.models.touch.moving import CHANNELS, Moving, moving

HEIGHT, WIDTH = 288, 512
SCENE, SIDE = (144, 256), 90
THING = (slice(80, 180), slice(200, 320))
BOX = [200 / WIDTH, 70 / HEIGHT, 320 / WIDTH, 190 / HEIGHT]
"""The left hand's box. The square of 180 pixels around it, x 170 to 350 and y 40 to 220, contains the thing."""
NAN = float("nan")


def texture(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((size[0] // k, size[1] // k)), size[::-1]) for k in (4, 8, 16)]
    return (sum(layers) / len(layers) * 255).astype(np.uint8)


def frame(camera: tuple[int, int] = (0, 0), thing: tuple[int, int] = (0, 0), light: int = 0) -> np.ndarray:
    """A camera's view of a textured ground with a thing on it. `camera` and `thing` move right and down, in pixels."""
    ground = texture(0, (HEIGHT + 40, WIDTH + 40))
    picture = ground[20 - camera[1] : 20 - camera[1] + HEIGHT, 20 - camera[0] : 20 - camera[0] + WIDTH].copy()
    rows, columns = THING
    down, right = camera[1] + thing[1], camera[0] + thing[0]
    patch = texture(1, (rows.stop - rows.start, columns.stop - columns.start))
    picture[rows.start + down : rows.stop + down, columns.start + right : columns.stop + right] = patch + light
    return picture


def seen(*afters: np.ndarray, boxes: object = (BOX, [NAN] * 4)) -> Moving:
    pairs = torch.from_numpy(np.stack([np.stack([frame(), after]) for after in afters]))
    where = torch.tensor(boxes).expand(len(afters), 2, 4)
    return moving(pairs, where, size=SCENE, side=SIDE, enlarge=1.5)


def middle(part: torch.Tensor) -> list[float]:
    """The median motion to the right and down."""
    return part[:2].flatten(1).median(1).values.tolist()


@pytest.mark.parametrize("camera", [(0, 0), (8, -6)])
@pytest.mark.parametrize("thing", [(0, 0), (6, 4), (-8, 0)])
def test_a_thing_moves_by_what_it_does_beyond_the_camera(camera: tuple[int, int], thing: tuple[int, int]) -> None:
    told = seen(frame(camera, thing))
    assert told.scene.shape == (1, CHANNELS, *SCENE)
    right, down = camera[0] // 2, camera[1] // 2
    scale = SIDE / 180
    for moved, inside, ground, halved in (
        (told.scene[0], np.s_[:, 55 + down : 75 + down, 115 + right : 145 + right], np.s_[:, 110:135, 20:80], 0.5),
        # The thing is at (30, 40) to (150, 140) of the square. It stays over the tested region as the camera moves.
        (told.hands[0, 0], np.s_[:, 35:55, 30:60], np.s_[:, 82:, 5:80], scale),
    ):
        assert middle(moved[inside]) == pytest.approx([halved * by for by in thing], abs=0.3)
        assert middle(moved[ground]) == pytest.approx((0, 0), abs=0.3)


def test_a_hands_square_is_where_its_crop_is_at_the_frames_own_resolution() -> None:
    light = frame()
    light[100:110, 260:290] = 255  # at (90, 60) to (120, 70) of the square, which is halved
    light[100:110, 20:60] = 255  # outside the square
    changed = seen(light).hands[0, 0, 2] > 0.5
    places = changed.nonzero()
    assert places.amin(0).tolist() == pytest.approx([30, 45], abs=1)
    assert places.amax(0).tolist() == pytest.approx([34, 59], abs=1)
    picture = torch.from_numpy(light)[None, None].expand(1, 3, -1, -1)
    cut = crops(picture, torch.tensor([[BOX, [NAN] * 4]]), size=SIDE, enlarge=1.5)[0, 0, 0]
    assert ((cut == 255) == changed).float().mean() > 0.99


def test_what_becomes_darker_is_told_and_what_stays_is_zero() -> None:
    still, dark = seen(frame()), seen(np.maximum(frame(), 16) - 16)
    assert still.scene.abs().max() < 1e-6 and still.hands.abs().max() < 1e-6
    assert dark.scene[0, 2].median() == pytest.approx(-0.5, abs=0.01)
    assert dark.hands[0, 0, 2].median() == pytest.approx(-0.5, abs=0.01)


def test_each_pair_is_as_alone_nothing_is_told_of_an_absent_hand_and_no_pairs_are_no_motion() -> None:
    afters = frame((2, 1), (4, 2)), frame((0, 6))
    both = seen(*afters)
    for n, after in enumerate(afters):
        for part, alone in zip(both, seen(after), strict=True):
            assert torch.equal(part[n], alone[0])
    assert not both.hands[:, 1].any() and both.hands[:, 0].any()
    none = moving(
        torch.empty(0, 2, HEIGHT, WIDTH, dtype=torch.uint8), torch.empty(0, 2, 4), size=SCENE, side=SIDE, enlarge=1
    )
    assert [part.shape for part in none] == [(0, CHANNELS, *SCENE), (0, 2, CHANNELS, SIDE, SIDE)]
