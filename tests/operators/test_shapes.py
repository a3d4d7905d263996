"""Errors of shape, dtype and device name both sides."""

from __future__ import annotations

import pytest
import torch

from tocsin.operators.shapes import match


def test_sizes_come_back_by_name() -> None:
    assert match(q=(torch.zeros(2, 3), "B T"), k=(torch.zeros(2, 0), "B S")) == {"B": 2, "T": 3, "S": 0}


@pytest.mark.parametrize(
    ("q", "k", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"k is \[2, 4\] with T = 4, q has T = 3"),
        (torch.zeros(2, 3), torch.zeros(2), r"k must be \[B, T\], 2 dimensions; got 1: \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 3).bfloat16(), "k is bfloat16, q is float32; cast one of them"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), "k is on meta, q on cpu; move one of them"),
    ],
)
def test_what_differs_is_named(q: torch.Tensor, k: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        match(q=(q, "B T"), k=(k, "B T"))


def test_a_number_is_a_size_to_be_met() -> None:
    with pytest.raises(ValueError, match=r"x is \[2, 5\], expected \[B, 4\]: 5 must be 4"):
        match(x=(torch.zeros(2, 5), "B 4"))


def test_masks_and_autocast_may_differ_in_dtype() -> None:
    x = torch.zeros(2, 3)
    match(x=(x, "B T"), mask=(x.bool(), "B T"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match(x=(x, "B T"), y=(x.bfloat16(), "B T"))
