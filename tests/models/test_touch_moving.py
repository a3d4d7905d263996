"""What moves by itself is told from what the camera does, and told of a place and of a hand's crop in units of theirs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.touch.hands import cut
from models.touch.moving import CHANNELS, moving

HEIGHT, WIDTH = 144, 256
THING = (slice(40, 90), slice(100, 160))


def texture(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((size[0] // k, size[1] // k)), size[::-1]) for k in (2, 4, 8)]
    return (sum(layers) / len(layers) * 255).astype(np.uint8)


def frame(camera: tuple[int, int] = (0, 0), thing: tuple[int, int] = (0, 0), light: int = 0) -> np.ndarray:
    """A textured ground of which the camera sees a part, and a thing on it; both moved by pixels to the right and down."""
    ground = texture(0, (HEIGHT + 40, WIDTH + 40))
    picture = ground[20 - camera[1] : 20 - camera[1] + HEIGHT, 20 - camera[0] : 20 - camera[0] + WIDTH].copy()
    rows, columns = THING
    down, right = camera[1] + thing[1], camera[0] + thing[0]
    patch = texture(1, (rows.stop - rows.start, columns.stop - columns.start))
    picture[rows.start + down : rows.stop + down, columns.start + right : columns.stop + right] = patch + light
    return picture


def seen(after: np.ndarray) -> Tensor:
    return moving(torch.from_numpy(np.stack([frame(), after]))[None])[0]


@pytest.mark.parametrize("camera", [(0, 0), (4, -3)])
@pytest.mark.parametrize("thing", [(0, 0), (3, 2), (-4, 0)])
def test_a_thing_moves_by_what_it_does_beyond_the_camera(camera: tuple[int, int], thing: tuple[int, int]) -> None:
    moved = seen(frame(camera, thing))
    inside = moved[:2, 55 + camera[1] : 75 + camera[1], 115 + camera[0] : 145 + camera[0]]
    assert inside.flatten(1).median(1).values.tolist() == pytest.approx(thing, abs=0.3)
    assert moved[:2, 110:135, 20:80].flatten(1).median(1).values.tolist() == pytest.approx((0, 0), abs=0.3)


def test_what_becomes_darker_is_told_and_what_stays_is_zero() -> None:
    assert seen(frame()).abs().max() < 1e-6
    assert seen(np.maximum(frame(), 16) - 16)[2].median() == pytest.approx(-0.5, abs=0.01)


def test_each_pair_is_as_alone_and_no_pairs_are_no_motion() -> None:
    pairs = torch.from_numpy(np.stack([[frame(), frame((2, 1), (1, 1))], [frame(), frame((0, 3))]]))
    both = moving(pairs)
    assert all(torch.equal(moving(pairs[n : n + 1])[0], both[n]) for n in range(2))
    assert moving(pairs[:0]).shape == (0, CHANNELS, HEIGHT, WIDTH)


def test_a_hands_square_of_any_channels_is_cut_where_its_crop_is() -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    box = torch.tensor([[[0.25, 0.25, 0.5, 0.75], [0.5, 0.5, 0.6, 0.6]]])
    square = cut(torch.stack([x, y, x])[None], box, size=10, enlarge=1.0)
    assert square.shape == (1, 2, 3, 10, 10)
    # The left hand's square has its middle at (15, 10) and sides of 10.
    assert torch.allclose(square[0, 0, 0, 0], torch.arange(10.0) + 10, atol=1e-4)
    assert torch.allclose(square[0, 0, 1, :, 0], torch.arange(10.0) + 5, atol=1e-4)
