"""Token aggregation against its token-by-token form, and the properties of aggregates and of attention to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.aggregation import SelectiveAttention, aggregate, naive_aggregate


def narrow(function: Any) -> Any:
    """The same function with masses in the tokens' dtype, as the comparison requires."""

    def run(x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        tokens, masses, _ = function(x, **options)
        return tokens, masses.to(x.dtype)

    return run


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "count"),
    [((1, 1, 4), 1), ((2, 7, 3), 1), ((2, 12, 5), 3), ((2, 6, 4), 6), ((0, 5, 4), 2), ((1, 19, 3), 2)],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hard": True},
        {"temperature": 0.5, "neighbours": 2, "oversample": 2},
        {"restore_norm": False, "neighbours": 99},
    ],
)
def test_fast_equals_naive(sizes: tuple[int, ...], count: int, options: dict[str, Any], dtype: torch.dtype) -> None:
    (x,) = random(sizes)
    # A small temperature magnifies a cosine's rounding error in a soft share.
    options = {"temperature": 0.2} | options
    assert_same(narrow(aggregate), narrow(naive_aggregate), [x], dtype=dtype, count=count, **options)
    assert torch.equal(aggregate(x, count, **options)[2], naive_aggregate(x, count, **options)[2])


@pytest.mark.parametrize("options", [{"temperature": 0.3}, {"hard": True}])
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    (x,) = random((2, 7, 3))
    assert torch.autograd.gradcheck(lambda x: aggregate(x, 3, **options)[:2], x.requires_grad_())


def plain_attention(layer: SelectiveAttention, x: Tensor) -> Tensor:
    q, k, v = (p(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for p in (layer.query, layer.key, layer.value))
    return layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def layer(**options: Any) -> SelectiveAttention:
    torch.manual_seed(0)
    return SelectiveAttention(dim=12, heads=3, **options).double()


def test_as_many_aggregates_as_tokens_are_full_attention() -> None:
    (x,) = random((2, 9, 12))
    x[:, 4] = x[:, 2]  # an equal token
    x[:, 7] = 2 * x[:, 5]  # the same direction only
    _, masses, centres = aggregate(x, 9, hard=True)
    assert (masses == 1).all() and torch.equal(centres, torch.arange(9).expand(2, 9))
    exact = layer(share=1, hard=True, restore_norm=False)
    torch.testing.assert_close(exact(x), plain_attention(exact, x))
    halved = layer(share=1, hard=True, restore_norm=False, query_dim=6)
    torch.testing.assert_close(halved(x), plain_attention(halved, x))
    assert not torch.allclose(layer(share=0.3, hard=True, restore_norm=False)(x), plain_attention(exact, x))


def test_with_a_temperature_towards_zero_or_equal_norms_it_is_full_attention_too() -> None:
    (x,) = random((2, 9, 12))
    soft = layer(share=1, temperature=1e-4, restore_norm=False)
    torch.testing.assert_close(soft(x), plain_attention(soft, x))
    normed, restoring = F.layer_norm(x, (12,), eps=0), layer(share=1, hard=True)
    torch.testing.assert_close(restoring(normed), plain_attention(restoring, normed))
    assert not torch.allclose(restoring(x), plain_attention(restoring, x))


def test_groups_of_equal_tokens_lose_nothing() -> None:
    (kinds,) = random((2, 3, 12))
    x = kinds[:, torch.tensor([0, 0, 1, 2, 2, 2, 2, 0, 2, 2])]
    few = layer(share=0.3, hard=True, restore_norm=False)
    torch.testing.assert_close(few(x), plain_attention(few, x))
    alike = layer(share=0.3, hard=True, restore_norm=False, proportional=False)
    assert not torch.allclose(alike(x), plain_attention(alike, x))


def test_each_group_of_like_tokens_has_one_centre_and_the_mean_of_its_tokens() -> None:
    angles = torch.tensor([0.0, 0.02, 2.0, 2.01, 0.01, 4.0, 2.02, 0.03, 4.02, 4.03, 2.04], dtype=torch.float64)
    x = torch.stack((angles.cos(), angles.sin()), dim=-1)[None]
    groups = [(angles > 2 * g - 0.5) & (angles < 2 * g + 0.5) for g in range(3)]
    tokens, masses, centres = aggregate(x, 3, neighbours=2, hard=True, restore_norm=False)
    order = sorted(range(3), key=lambda k: angles[centres[0, k]].item())
    for group, k in zip(groups, order, strict=True):
        assert group[centres[0, k]] and masses[0, k] == group.sum()
        torch.testing.assert_close(tokens[0, k], x[0, group].mean(0))


def test_equals_are_decided_by_position() -> None:
    _, masses, centres = aggregate(torch.ones(2, 40, 5), 3)
    assert centres.tolist() == [[1, 5, 8]] * 2  # the first three of twelve evenly spaced candidates
    torch.testing.assert_close(masses, torch.full_like(masses, 40 / 3))
    (x,) = random((1, 40, 3))
    again = [aggregate(x, 5) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True))


def test_aggregates_are_as_long_as_the_longest_token_of_their_image() -> None:
    (x,) = random((3, 20, 4))
    longest = x.norm(dim=-1).amax(1, keepdim=True)
    tokens, _, centres = aggregate(x, 4)
    torch.testing.assert_close(tokens.norm(dim=-1), longest.expand(3, 4))
    means, _, same = aggregate(x, 4, restore_norm=False)
    assert torch.equal(centres, same) and (means.norm(dim=-1) < longest).all()
    torch.testing.assert_close(F.normalize(means, dim=-1), F.normalize(tokens, dim=-1))


@given(
    st.integers(0, 3),
    st.integers(1, 25),
    st.integers(1, 25),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from(DTYPES),
)
@settings(max_examples=60, deadline=None)
def test_every_token_counts_once(batch: int, n: int, count: int, hard: bool, seed: int, dtype: torch.dtype) -> None:
    count = min(count, n)
    (x,) = random((batch, n, 3), seed=seed)
    tokens, masses, centres = aggregate(x.to(dtype), count, hard=hard, restore_norm=False)
    assert tokens.shape == (batch, count, 3) and tokens.dtype == dtype and centres.shape == (batch, count)
    assert (centres.diff(dim=1) > 0).all() and (masses > 0).all()
    torch.testing.assert_close(masses.sum(1), torch.full_like(masses[:, 0], n))
    total = (tokens.double() * masses.double().unsqueeze(-1)).sum(1)
    loose = 0.02 * n if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(total, x.to(dtype).double().sum(1), atol=loose, rtol=loose)


def test_the_images_of_a_batch_are_apart() -> None:
    (x,) = random((3, 30, 4))
    together = aggregate(x, 4)
    for b in range(3):
        for one, all_of_them in zip(aggregate(x[b : b + 1], 4), together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[b])


@pytest.mark.parametrize("hard", [True, False])
def test_tokens_of_zeros_leave_gradients_finite(hard: bool) -> None:
    for few in (0, 2):
        x = torch.zeros(2, 9, 4)
        x[:, :few] = 1
        x.requires_grad_()
        tokens, masses, _ = aggregate(x, 3, hard=hard)
        assert torch.isfinite(tokens).all()
        (tokens.sum() + masses.sum()).backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_memory_layout_and_autocast_do_not_matter() -> None:
    (x,) = random((2, 20, 6))
    x = x.float()
    plain = aggregate(x, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = aggregate(x, 4)
    for other in (aggregate(strided(x), 4), cast):
        for one, another in zip(other, plain, strict=True):
            torch.testing.assert_close(one, another)


def test_the_module_trains_all_its_parameters() -> None:
    module = layer(share=0.3)
    (x,) = random((2, 10, 12))
    module(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert module(x[:0]).shape == (0, 10, 12) and module(x[:, :1]).shape == (2, 1, 12)


def test_errors_name_both_numbers() -> None:
    (x,) = random((2, 9, 12))
    with pytest.raises(ValueError, match="count is 10, there are 9 tokens"):
        aggregate(x, 10)
    with pytest.raises(ValueError, match="count is 0, there are 9 tokens"):
        aggregate(x, 0)
    with pytest.raises(ValueError, match=r"oversample \(0\) and neighbours \(8\) must be at least 1"):
        aggregate(x, 3, oversample=0)
    with pytest.raises(ValueError, match=r"x must be \[B, N, C\], 3 dimensions; got 2"):
        aggregate(x[0], 3)
    with pytest.raises(ValueError, match=r"heads \(5\) must divide dim \(12\)"):
        SelectiveAttention(dim=12, heads=5)
    with pytest.raises(ValueError, match=r"heads \(4\) must divide query_dim \(6\)"):
        SelectiveAttention(dim=12, heads=4, query_dim=6)
    with pytest.raises(ValueError, match=r"share is 1.5, expected more than 0 and at most 1"):
        SelectiveAttention(dim=12, heads=4, share=1.5)
    with pytest.raises(ValueError, match="11 must be 12"):
        layer()(torch.zeros(1, 2, 11))
