"""Pictures of places are compared as by trying every shift, and an event is known by where it lies and how it looks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.surprise.matching import NOTHING, SHARE, correlations, match, normalised, scaled, shifted

GRID = (9, 14)


def picture(seed: int, channels: int = 4, grid: tuple[int, int] = GRID) -> Tensor:
    return torch.randn(channels, *grid, generator=torch.Generator().manual_seed(seed))


def naive(one: Tensor, one_there: Tensor, other: Tensor, other_there: Tensor) -> Tensor:
    """The correlation of two pictures at each shift of the other one, `[2h, 2w]`, shift by shift."""
    h, w = one.shape[1:]
    found = torch.full((2 * h, 2 * w), NOTHING)
    for down in range(-h, h):
        for right in range(-w, w):
            moved, there = shifted(other, down, right), shifted(other_there, down, right) * one_there
            if there.sum() >= SHARE * h * w - 0.5:
                energies = (one.square() * there).sum() * (moved.square() * there).sum()
                found[down % (2 * h), right % (2 * w)] = (one * moved * there).sum() / energies.sqrt()
    return found


def test_correlations_are_those_of_every_shift_tried_by_itself() -> None:
    ones, others = torch.stack([picture(0), picture(1)]), torch.stack([picture(n) for n in (2, 3, 4)])
    there = torch.ones(2, 1, *GRID)
    there[1, :, :2] = 0
    others_there = torch.ones(3, 1, *GRID)
    others_there[0, :, :, -3:] = 0
    ones, others = ones * there, others * others_there
    found = correlations(ones, there, others, others_there)
    for s in range(2):
        for n in range(3):
            expected = naive(ones[s], there[s], others[n], others_there[n])
            torch.testing.assert_close(found[s, n], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -4), (-3, 3)])
def test_a_place_is_known_at_any_shift_and_an_event_by_where_it_lies_there(down: int, right: int) -> None:
    wide = picture(5, grid=(18, 28))
    here = wide[:, 4:13, 7:21]
    again = wide[:, 4 - down : 13 - down, 7 - right : 21 - right]
    mask = F.pad(torch.ones(2, 2), (6, 6, 3, 4))
    its = shifted(mask, -down, -right)
    views, masks = torch.stack([picture(6), shifted(again, 0, 0)]), torch.stack([mask, its])
    found = match(here, mask, torch.stack([views[0], shifted(here, -down, -right)]), masks)
    assert found.place[1] > 0.99 > 0.5 > found.place[0]
    assert found.cover[1] > 0.99 and found.look[1] > 0.99
    elsewhere = match(here, shifted(mask, 0, 5), torch.stack([views[0], shifted(here, -down, -right)]), masks)
    assert elsewhere.place[1] > 0.99 and elsewhere.cover[1] == 0


def test_something_else_at_the_same_spot_looks_different() -> None:
    here, mask = picture(7), F.pad(torch.ones(3, 3), (5, 6, 3, 3))
    other = torch.where(mask > 0, picture(8), here)
    same, changed = (match(seen, mask, here[None], mask[None]) for seen in (here, other))
    assert same.look[0] > 0.99 and changed.look[0] < 0.5 and changed.place[0] > 0.7 and changed.cover[0] > 0.99


def test_a_larger_picture_is_matched_at_its_size() -> None:
    coarse = F.interpolate(picture(9, grid=(5, 7))[None], (18, 32), mode="bicubic")
    nearer, there = scaled(coarse, 1.25)
    assert there.all() and nearer.shape == coarse.shape
    mask = torch.zeros(18, 32)
    found = match(nearer[0], mask, coarse, mask[None])
    assert found.place[0] > match(nearer[0], mask, coarse, mask[None], scales=(1.0,)).place[0]
    assert found.place[0] > 0.9


def test_what_a_camera_always_sees_is_no_likeness() -> None:
    usual = 5 * picture(10)
    one, other = normalised(usual + picture(11), usual), normalised(usual + picture(12), usual)
    mask = torch.zeros(GRID)
    assert match(one, mask, other[None], mask[None], scales=(1.0,)).place[0] < 0.6
    assert one.mean((-2, -1)).abs().max() < 1e-5
