"""A patch budget: the blend equals its naive form for any count, a budget of everything is the full pass; context; errors."""

from __future__ import annotations

import pytest
import torch

from tests.operators.compare import DTYPES, assert_same, random
from tocsin.operators.budget import PatchContext, blend, least_sure, naive_refine, refine, spread

CORNERS = torch.tensor([[0, 0], [0, 3], [2, 0], [2, 3], [1, 2]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 9])
def test_it_equals_its_naive_form(count: int, dtype: torch.dtype) -> None:
    coarse, looks = random((2, 5, 7), (5, 2, 3, 4))
    confidence = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.1])
    assert_same(
        lambda coarse, looks: refine(coarse, confidence, CORNERS, lambda n: looks[n], count=count),
        lambda coarse, looks: naive_refine(coarse, confidence, CORNERS, lambda n: looks[n], count=count),
        [coarse, looks],
        dtype=dtype,
    )


def test_a_budget_of_everything_is_the_full_pass_and_only_the_chosen_patches_are_looked_at() -> None:
    coarse, looks = random((2, 5, 7), (5, 2, 3, 4))
    seen = []

    def look(numbers: torch.Tensor) -> torch.Tensor:
        seen.append(numbers.tolist())
        return looks[numbers]

    confidence = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.1])
    torch.testing.assert_close(refine(coarse, confidence, CORNERS, look, count=5), blend(coarse, looks, CORNERS))
    refine(coarse, confidence, CORNERS, look, count=3)
    assert torch.equal(refine(coarse, confidence, CORNERS, look, count=0), coarse)
    assert seen == [[0, 1, 2, 3, 4], [0, 1, 4]]


def test_a_close_look_outweighs_the_coarse_one_most_in_its_middle() -> None:
    out = blend(torch.zeros(1, 5, 5), torch.ones(1, 1, 5, 5), torch.tensor([[0, 0]]), weight=0.1)[0]
    assert out[2, 2] == pytest.approx(1 / 1.1) and out[2, 2] > out[2, 0] > out[0, 0] > 0


def test_of_equally_sure_patches_the_first_are_taken() -> None:
    assert least_sure(torch.tensor([0.2, 0.1, 0.2, 0.2]), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("length", "size", "expected"), [(8, 4, [0, 4]), (9, 4, [0, 2, 5]), (4, 4, [0]), (5, 1, list(range(5)))]
)
def test_pieces_cover_a_length(length: int, size: int, expected: list[int]) -> None:
    begins = spread(length, size).tolist()
    assert begins == expected
    assert {at for begin in begins for at in range(begin, begin + size)} == set(range(length))


def test_context_begins_as_the_identity_and_each_patch_is_looked_at_alone() -> None:
    torch.manual_seed(0)
    module, looks, context = PatchContext(channels=8, heads=2), torch.randn(3, 8, 4, 5), torch.randn(6, 8)
    torch.testing.assert_close(module(looks, context), looks)
    torch.nn.init.normal_(module.out.weight)
    out = module(looks, context)
    assert not torch.allclose(out, looks)
    torch.testing.assert_close(out[1:2], module(looks[1:2], context))
    torch.testing.assert_close(module(looks, context.flip(0)), out)  # the order of patches does not matter
    out.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_wrong_shapes_are_named() -> None:
    coarse, looks = random((2, 5, 7), (5, 2, 3, 4))
    with pytest.raises(ValueError, match=r"count: expected 0 or more patches, got -1"):
        least_sure(torch.zeros(3), -1)
    with pytest.raises(ValueError, match=r"corners: expected patches of 3 x 4 within 5 x 7, got"):
        blend(coarse, looks, CORNERS + 1)
    with pytest.raises(ValueError, match=r"size: expected 1 to 3, the length, got 4"):
        spread(3, 4)
    with pytest.raises(ValueError, match=r"heads \(3\) must divide channels \(8\)"):
        PatchContext(channels=8, heads=3)
