"""The teacher reads the straight line through a window and learns from few assets."""

from __future__ import annotations

import pytest
import torch

from tocsin.models.rul.data import Windows
from tocsin.models.rul.network import level_and_slope
from tocsin.models.rul.teacher import Teacher


def test_level_and_slope_are_those_of_the_line_through_the_window() -> None:
    steps = torch.linspace(-1, 1, 30)
    window = torch.stack([4 + 2 * steps, -1 - 3 * steps, 5 + 0 * steps], dim=1)[None]
    torch.testing.assert_close(level_and_slope(window), torch.tensor([[4.0, -1, 5, 2, -3, 0]]))
    bent = window + (steps.square() - steps.square().mean())[None, :, None]  # adds no linear part
    torch.testing.assert_close(level_and_slope(bent), level_and_slope(window), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_teacher_learns_a_wear_signal_and_is_frozen_afterwards() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    life = torch.arange(400.0)
    rows = torch.stack([(life / 200 - 1) * 1.7, torch.randn(400)], dim=1)
    rul = 399 - life
    cut = Windows(rows=rows, ends=torch.arange(9, 400), rul=rul[9:], engine=torch.zeros(391).long(), length=10)
    teacher = Teacher(channels=2, cap=300, members=2).fit(cut, asymmetry=0.5)
    told = teacher(cut.batch(torch.arange(391)))
    assert not told.requires_grad
    assert ((told >= 0) & (told <= 300)).all()
    assert (told[:50] - told[-50:]).min() > 150
