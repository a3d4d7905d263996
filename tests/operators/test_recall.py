"""Recall attention equals its naive form; a channel does not recall itself; what is unknown says nothing."""

from __future__ import annotations

import pytest
import torch

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.recall import FAR, naive_recall_attention, recall_attention

SHAPES = [((1, 1, 1), (1, 1, 1)), ((2, 3, 4), (2, 5, 4)), ((1, 4, 1), (1, 3, 1)), ((3, 2, 6), (3, 7, 6))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("shapes", SHAPES)
def test_it_equals_its_naive_form(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], share: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    tensors = random(*shapes)
    known = [torch.rand(shape) >= share for shape in shapes]

    def fast(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _finite(recall_attention(q, k, *known))

    def naive(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _finite(naive_recall_attention(q, k, *known))

    assert_same(fast, naive, tensors, dtype=dtype)


def _finite(found: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest finite number differs by dtype."""
    return found[0], found[1].clamp(min=-1000)


def test_a_row_that_is_remembered_itself_is_left_out() -> None:
    (k,) = random((2, 6, 3))
    known, own = torch.ones(2, 6, 3, dtype=torch.bool), torch.tensor([4, 0])
    q = k[:, own]
    found = recall_attention(q, k, known[:, own], known, own=own)
    torch.testing.assert_close(found, naive_recall_attention(q, k, known[:, own], known, own=own))
    others = torch.tensor([0, 1, 2, 3, 5])
    alone = recall_attention(q[:, :1], k[:, others], known[:, :1], known[:, others])
    torch.testing.assert_close([found[0][:, :1], found[1][:, :1]], list(alone))


def test_a_channel_is_recalled_from_the_others_whatever_it_says_itself() -> None:
    t = torch.linspace(0, 6, 40, dtype=torch.float64)
    k = torch.stack([3 * t.sin(), 3 * t.cos(), 3 * t.sin(), 3 * t.cos()], -1)[None]
    q = k[:, 7:8].clone()
    known = [torch.ones_like(x, dtype=torch.bool) for x in (q, k)]
    right = recall_attention(q, k, *known, temperature=0.01)[0]
    torch.testing.assert_close(right, q, atol=0.2, rtol=0)
    q[..., 2] = 1e6
    wrong = recall_attention(q, k, *known, temperature=0.01)[0]
    assert torch.equal(wrong[..., 2], right[..., 2])
    # The wrong channel is as far from all rows: it does not move what is recalled of the others.
    torch.testing.assert_close(wrong[..., [1, 3]], right[..., [1, 3]], atol=0.3, rtol=0)


def test_an_unknown_value_changes_nothing_even_if_it_is_nan_and_blank_memories_give_zeros() -> None:
    q, k = random((2, 3, 4), (2, 5, 4))
    q_known, k_known = torch.ones(2, 3, 4, dtype=torch.bool), torch.ones(2, 5, 4, dtype=torch.bool)
    q_known[0, 1, 2] = k_known[1, 3, 0] = False
    k_known[1, :, 3] = False
    first = recall_attention(q, k, q_known, k_known)
    q[~q_known], k[~k_known] = torch.nan, torch.nan
    second = recall_attention(strided(q), strided(k), q_known, k_known)
    torch.testing.assert_close(first, second)
    assert not first[0][1, :, 3].any()
    assert (first[1][1, :, 3] == torch.finfo(torch.float64).min).all()
    assert first[0].isfinite().all() and FAR > 0


@pytest.mark.parametrize(
    ("k", "temperature", "own", "reason"),
    [
        (torch.zeros(1, 2, 4), 0.5, None, "k is"),
        (torch.zeros(1, 2, 3), 0.0, None, "temperature: expected more than 0, got 0"),
        (torch.zeros(1, 2, 3), 0.5, torch.zeros(3, dtype=torch.int64), "own is"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    k: torch.Tensor, temperature: float, own: torch.Tensor | None, reason: str
) -> None:
    q = torch.zeros(1, 2, 3)
    known = [torch.ones_like(x, dtype=torch.bool) for x in (q, k)]
    with pytest.raises(ValueError, match=reason):
        recall_attention(q, k, *known, temperature=temperature, own=own)
