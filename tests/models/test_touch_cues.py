"""Cues of a painted hand that moves over a textured table, empty or with a thing in it, while the camera stands or pans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.reaching import HEIGHT, PALM, WIDTH, hand, painted
from tocsin.models.touch.cues import Cues, cues


def pair(step: tuple[int, int], *, pan: int = 0, thing: bool = False) -> tuple[Tensor, Tensor]:
    """Two frames `[1, 2, H, W]`, and the right hand's joints in both, `[1, 2, 2, 21, 2]`, of a hand that moves by a step."""
    before, after = hand(240, 200), hand(240 + step[0], 200 + step[1])
    frames = np.stack([painted(before, thing=thing), painted(after, pan=pan, thing=thing)])
    joints = np.full((1, 2, 2, 21, 2), np.nan)
    joints[0, :, 1] = np.stack([before, after]) / [WIDTH, HEIGHT]
    return torch.from_numpy(frames)[None], torch.from_numpy(joints).float()


def right(pairs: Tensor, joints: Tensor) -> Cues:
    found = cues(pairs, joints)
    assert found.shape == (1, 2, len(Cues._fields)) and not found[0, 0].any()  # no left hand
    return Cues(*found[0, 1].tolist())


@pytest.mark.parametrize("pan", [0, 5])
def test_what_an_empty_hand_moves_over_stands_still(pan: int) -> None:
    c = right(*pair((8 + pan, 0), pan=pan))
    assert c.seen == c.known == 1 and c.still > 0.8 and c.along < 0.1
    assert c.speed == pytest.approx(8, abs=0.7) and c.size == pytest.approx(PALM, rel=0.15)


@pytest.mark.parametrize("pan", [0, 5])
def test_what_a_hand_holds_moves_with_it(pan: int) -> None:
    c = right(*pair((8 + pan, 0), pan=pan, thing=True))
    assert c.known == 1 and c.along > 0.4 and c.still - c.along < 0.2


def test_of_a_hand_that_hardly_moves_over_the_scene_the_surroundings_are_not_judged() -> None:
    for step, pan in (((0, 0), 0), ((1, 0), 0), ((6, 0), 6)):
        c = right(*pair(step, pan=pan))
        assert c.seen == 1 and c.speed < 1.5 and c.known == c.along == c.still == 0


def test_without_the_previous_joints_the_pictures_tell_the_speed() -> None:
    pairs, joints = pair((4, 0))
    joints[:, 0] = torch.nan
    c = right(pairs, joints)
    assert c.seen == c.known == 1 and c.speed == pytest.approx(4, abs=1.5) and c.still > 0.8


def test_a_plain_table_says_nothing_about_what_moves() -> None:
    pairs, joints = pair((8, 0))
    c = right(torch.full_like(pairs, 128), joints)
    assert c.seen == 1 and c.speed == pytest.approx(8, abs=0.7) and c.known == 0


def test_without_hands_there_are_no_cues_and_each_hand_has_its_own() -> None:
    pairs, joints = pair((8, 0))
    assert not cues(pairs, torch.full_like(joints, torch.nan)).any()
    both = cues(torch.cat([pairs, pairs]), torch.cat([joints, joints.flip(2)]))
    assert torch.equal(both[0], both[1].flip(0)) and both[0, 1].any()
