"""Merging by matrices against its source-by-source form, and the properties of merge and restore."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.merging import MergingBlock, merge, merge_in, naive_merge, naive_restore, restore

SIZES = [(1, 1, 4), (2, 2, 3), (2, 9, 4), (3, 12, 5), (0, 5, 4), (1, 17, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("protected", [0, 1])
def test_fast_equals_naive(sizes: tuple[int, int, int], threshold: float, protected: int, dtype: torch.dtype) -> None:
    def form(kind: bool) -> object:
        def run(tokens: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
            forms = (merge, restore) if kind else (naive_merge, naive_restore)
            merged = forms[0](tokens, counts.square() + 0.5, threshold=threshold, protected=protected)
            return merged.tokens, merged.sizes.to(tokens.dtype), forms[1](merged.tokens.sin(), merged), merged.kept

        return run

    tokens, counts = random(sizes, sizes[:2])
    assert_same(form(True), form(False), [tokens, counts], dtype=dtype)  # type: ignore[arg-type]
    fast, naive = (function(tokens, threshold=threshold, protected=protected) for function in (merge, naive_merge))
    assert torch.equal(fast.kept, naive.kept)
    torch.testing.assert_close(fast.weights, naive.weights)


def test_gradients_are_those_of_finite_differences() -> None:
    tokens, counts, features = (t.requires_grad_() for t in random((2, 7, 3), (2, 7), (2, 7, 4)))

    def run(tokens: Tensor, counts: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        merged = merge(tokens, counts.square() + 0.5, threshold=0.2, protected=1, features=features)
        assert not merged.kept.all()
        return merged.tokens, merged.sizes, restore(merged.tokens, merged)

    assert torch.autograd.gradcheck(run, (tokens, counts, features))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [1.0, 1.5])
def test_from_a_threshold_of_one_on_nothing_is_merged_and_the_order_comes_back(
    threshold: float, dtype: torch.dtype
) -> None:
    (tokens,) = random((2, 11, 37))
    tokens = tokens.to(dtype).repeat_interleave(2, dim=1)  # identical neighbours: their cosine may round above 1
    merged = merge(tokens, threshold=threshold, protected=1)
    assert merged.kept.all() and (merged.sizes == 1).all() and not merged.weights.any()
    assert torch.equal(restore(merged.tokens, merged), tokens)


def test_the_round_trip_is_exact_for_all_but_the_merged() -> None:
    (base,) = random((2, 6, 8))
    tokens = base.repeat_interleave(2, dim=1).float()
    tokens[:, 7] = -tokens[:, 7]  # similar to none: kept
    tokens[:, 3] += 0.1 * tokens[:, 5]  # similar to its neighbour, not equal: merged
    sizes = torch.full((2, 12), 3.0)
    merged = merge(tokens, sizes, threshold=0.8)
    assert merged.kept.tolist() == [False, False, False, True, False, False]
    changed = merged.tokens.exp()
    back = restore(changed, merged)
    assert torch.equal(back[:, 7], changed[:, 6]) and torch.equal(back[:, ::2], changed[:, :6])
    assert torch.equal(restore(merged.tokens, merged)[:, 7], tokens[:, 7])
    assert not torch.equal(restore(merged.tokens, merged)[:, 3], tokens[:, 3])
    torch.testing.assert_close(back[:, 3], changed[:, 1])


def test_a_target_that_receives_nothing_keeps_its_bits() -> None:
    (tokens,) = random((1, 8, 5))
    tokens = tokens.float()
    tokens[0, 1] = tokens[0, 0]
    merged = merge(tokens, torch.full((1, 8), 3.0), threshold=0.999)
    assert merged.kept.tolist() == [False, True, True, True]
    assert torch.equal(merged.tokens[:, 1:4], tokens[:, 2::2]) and merged.sizes[0].tolist() == [6, 3, 3, 3, 3, 3, 3]


def test_a_source_with_a_single_match_goes_into_it() -> None:
    near, far = torch.eye(2)
    merged = merge(torch.stack((near, near, far, -far))[None], threshold=0.5)
    assert merged.kept.tolist() == [False, True]
    assert merged.weights[0].tolist() == [[1, 0], [0, 0]] and merged.sizes[0].tolist() == [2, 1, 1]


@pytest.mark.parametrize("matches", [2, 3, 7, 49])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_source_whose_matches_are_equal_goes_into_all_of_them(matches: int, dtype: torch.dtype) -> None:
    (token,) = random((1, 1, 13))
    merged = merge(token.to(dtype).expand(1, 2 * matches, 13), threshold=0.3)
    assert not merged.kept.any()
    assert merged.weights.count_nonzero() == matches**2
    torch.testing.assert_close(merged.sizes, torch.full_like(merged.sizes, 2))


def test_matches_below_the_mean_of_their_source_are_left_out() -> None:
    angles = torch.tensor([0.0, 0.0, 0.3, 9.0, 1.2, 9.0, 1.25, 9.0], dtype=torch.float64)
    tokens = torch.stack((angles.cos(), angles.sin()), dim=-1)[None]
    weights = merge(tokens, threshold=0.1).weights[0, :, 0]
    over = angles[::2].cos() - 0.1
    expected = torch.where(over >= over.mean(), over, 0)
    assert weights.count_nonzero() == 2
    torch.testing.assert_close(weights, expected / expected.sum())


@given(
    st.integers(0, 3),
    st.integers(1, 13),
    st.integers(0, 3),
    st.floats(0, 1.2),
    st.integers(0, 99),
    st.sampled_from(DTYPES),
)
@settings(max_examples=60, deadline=None)
def test_sizes_and_the_sum_of_all_tokens_are_those_of_before(
    batch: int, count: int, protected: int, threshold: float, seed: int, dtype: torch.dtype
) -> None:
    protected = min(protected, count)
    tokens, sizes = random((batch, count, 3), (batch, count), seed=seed)
    tokens, sizes = tokens.to(dtype), sizes.exp()
    merged = merge(tokens, sizes, threshold=threshold, protected=protected)
    assert merged.sizes.shape == merged.tokens.shape[:2]
    close = {"atol": 6e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(merged.sizes.sum(1).double(), sizes.sum(1), **close)
    totals = [
        (x.double() * n.double().unsqueeze(-1)).sum(1) for x, n in ((merged.tokens, merged.sizes), (tokens, sizes))
    ]
    torch.testing.assert_close(*totals, atol=20 * close["atol"], rtol=close["rtol"])
    assert torch.equal(merged.tokens[:, :protected], tokens[:, :protected])
    assert restore(merged.tokens, merged).shape == tokens.shape
    columns = merged.weights.sum(1)
    torch.testing.assert_close(columns, (~merged.kept).to(columns).expand_as(columns))


def test_the_order_among_targets_and_among_sources_does_not_matter() -> None:
    (tokens,) = random((2, 12, 3))
    places = torch.arange(12).view(6, 2)
    shuffled = torch.stack((places[[3, 0, 5, 1, 4, 2], 0], places[[1, 4, 0, 2, 5, 3], 1]), dim=1).flatten()
    before, after = (merge(x, threshold=0.6) for x in (tokens, tokens[:, shuffled]))
    assert 0 < before.kept.sum() < 6
    torch.testing.assert_close(restore(after.tokens, after), restore(before.tokens, before)[:, shuffled])
    torch.testing.assert_close(after.tokens[:, :6], before.tokens[:, :6][:, [3, 0, 5, 1, 4, 2]])


def test_a_batch_keeps_what_any_of_its_images_keeps() -> None:
    (tokens,) = random((3, 12, 3))
    alone = [merge(image[None], threshold=0.7) for image in tokens]
    merged = merge(tokens, threshold=0.7)
    assert torch.equal(merged.kept, torch.stack([m.kept for m in alone]).any(0))
    assert merged.kept.sum() > max(m.kept.sum() for m in alone)
    for weights, one in zip(merged.weights, alone, strict=True):
        torch.testing.assert_close(weights, one.weights[0] * ~merged.kept)
    assert torch.equal(merge(tokens.flip(0), threshold=0.7).tokens, merged.tokens.flip(0))


def test_protected_tokens_stay_even_if_all_tokens_are_the_same() -> None:
    merged = merge(torch.ones(2, 9, 4), threshold=0.5, protected=3)
    assert merged.tokens.shape == (2, 6, 4) and (merged.sizes[:, :3] == 1).all()
    assert (merged.sizes.sum(1) == 9).all()
    everything = merge(torch.ones(2, 3, 4), threshold=0.5, protected=3)
    assert torch.equal(restore(everything.tokens, everything), torch.ones(2, 3, 4))


def test_tokens_of_zeros_and_an_odd_one_out_leave_gradients_finite() -> None:
    tokens = torch.zeros(2, 6, 4)
    tokens[:, 0] = 1
    tokens.requires_grad_()
    merged = merge(tokens, threshold=0.0)
    (merged.tokens.sum() + restore(merged.tokens, merged).sum() + merged.sizes.sum()).backward()
    assert merged.kept.all() and torch.isfinite(tokens.grad if tokens.grad is not None else tokens * torch.nan).all()


def test_memory_layout_and_autocast_do_not_matter() -> None:
    tokens, sizes = random((2, 9, 5), (2, 9))
    tokens, sizes = tokens.float(), sizes.float().exp()
    plain = merge(tokens, sizes, threshold=0.3)
    spread = merge(strided(tokens), strided(sizes), threshold=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = merge(tokens, sizes, threshold=0.3)
        back = restore(cast.tokens, cast)
    for other in (spread, cast):
        torch.testing.assert_close(other.tokens, plain.tokens)
        torch.testing.assert_close(other.sizes, plain.sizes)
    torch.testing.assert_close(back, restore(plain.tokens, plain))


def test_features_decide_in_place_of_the_tokens() -> None:
    tokens, features = random((2, 9, 5), (2, 9, 3))
    by_features = merge(tokens, threshold=0.5, features=features)
    assert torch.equal(by_features.weights, merge(features, threshold=0.5).weights)
    assert not torch.equal(by_features.kept, merge(tokens, threshold=0.5).kept)


def block(**options: float) -> MergingBlock:
    torch.manual_seed(0)
    settings = {"dim": 12, "heads": 3, "threshold": 0.9} | options
    return MergingBlock(**settings).double()  # type: ignore[arg-type]


def test_blocks_over_duplicated_tokens_give_what_plain_blocks_give() -> None:
    """Every token but the first has a duplicate. Merging duplicates changes nothing; the second block needs the log sizes."""
    (half,) = random((2, 5, 12))
    tokens = torch.cat((half[:, :1], half[:, 1:].repeat_interleave(2, dim=1)), dim=1)
    first, second, never = block(threshold=0.9999), block(threshold=0.9999), block(threshold=1.0)
    plain = never(never(tokens).tokens)  # order: protected, targets, sources
    merged = first(tokens)
    again = second(merged.tokens, merged.sizes)
    assert merged.tokens.shape == (2, 5, 12)
    reference = plain.tokens[:, [0]], never(tokens).tokens
    torch.testing.assert_close(merged.tokens, reference[1][:, :5])
    torch.testing.assert_close(again.tokens[:, :1], reference[0])
    flat = block(threshold=0.9999, proportional=False)
    assert not torch.allclose(flat(merged.tokens, merged.sizes).tokens[:, :1], reference[0])


def test_a_block_inside_merge_in_is_itself_where_nothing_merges() -> None:
    (tokens,) = random((2, 9, 12))
    never, some = block(threshold=1.0), block(threshold=0.3)

    def plain(x: Tensor) -> Tensor:
        return x + never.mlp(never.attend(x))

    torch.testing.assert_close(merge_in(plain, tokens, threshold=1.0, protected=1), plain(tokens))
    fewer = merge_in(plain, tokens, threshold=0.1, protected=1)
    assert fewer.shape == tokens.shape and not torch.allclose(fewer, plain(tokens))
    assert torch.equal(merge_in(lambda x: x, tokens, threshold=0.1), tokens)  # unchanged tokens stay exact
    doubled = tokens.repeat_interleave(2, dim=1)
    torch.testing.assert_close(merge_in(torch.tanh, doubled, threshold=0.9999), torch.tanh(doubled))
    assert some(tokens).tokens.shape[1] < 9


def test_the_module_trains_all_its_parameters() -> None:
    module = block(threshold=0.2)
    (tokens,) = random((2, 9, 12))
    merged = module(tokens)
    module(merged.tokens, merged.sizes).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert module(tokens[:0]).tokens.shape[0] == 0


def test_errors_name_both_numbers() -> None:
    tokens, sizes = random((2, 9, 5), (2, 8))
    with pytest.raises(ValueError, match=r"sizes is \[2, 8\] with N = 8, tokens has N = 9"):
        merge(tokens, sizes, threshold=0.5)
    with pytest.raises(ValueError, match=r"threshold is -0.1, expected at least 0"):
        merge(tokens, threshold=-0.1)
    with pytest.raises(ValueError, match="protected is 10, there are 9 tokens"):
        merge(tokens, threshold=0.5, protected=10)
    with pytest.raises(ValueError, match=r"sizes is \[2, 9\] with M = 9, tokens has M = 8"):
        restore(tokens[:, :8], merge(tokens, threshold=1.0))
    with pytest.raises(ValueError, match=r"heads \(5\) must divide dim \(12\)"):
        MergingBlock(dim=12, heads=5, threshold=0.5)
    with pytest.raises(ValueError, match="11 must be 12"):
        MergingBlock(dim=12, heads=3, threshold=0.5)(torch.zeros(1, 2, 11))
