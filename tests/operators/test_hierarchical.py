"""Hierarchical attention against its step-by-step form, its causality, its kernel and its stream."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators import hierarchical
from tocsin.operators.hierarchical import (
    HierarchicalAttention,
    Hierarchy,
    downsample,
    hierarchical_attention,
    naive_hierarchical_attention,
)


def inputs(batch: int, heads: int, tokens: int, dim: int, levels: int, rows: int | None = None) -> list[torch.Tensor]:
    """Queries of each level, keys of each level, values, weights."""
    rows = tokens if rows is None else rows
    queries = [(batch, heads, -(-rows // 2**level), dim) for level in range(levels)]
    keys = [(batch, heads, -(-tokens // 2**level), dim) for level in range(levels)]
    *tensors, weights = random(*queries, *keys, (batch, heads, tokens, dim), (heads, levels))
    return [*tensors, weights.softmax(-1)]


def flat(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same function, with its lists flattened into arguments."""

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        levels = (len(tensors) - 2) // 2
        return function(tensors[:levels], tensors[levels:-2], *tensors[-2:])

    return call


fast, naive = flat(hierarchical_attention), flat(naive_hierarchical_attention)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (2, 3, 5, 8), (0, 2, 6, 4), (2, 2, 17, 4), (1, 1, 24, 16), (1, 2, 0, 4)]
)
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_fast_equals_naive(sizes: tuple[int, ...], levels: int, dtype: torch.dtype) -> None:
    assert_same(fast, naive, inputs(*sizes, levels), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 5, 8), (2, 2, 17, 4)])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_form_for_a_gpu_equals_naive(sizes: tuple[int, ...], levels: int, dtype: torch.dtype) -> None:
    assert_same(flat(hierarchical._concatenated), naive, inputs(*sizes, levels), dtype=dtype)


@pytest.mark.parametrize("tokens", [63, 64, 130, 201])
def test_several_blocks_of_rows_and_heads_equal_naive(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(1, 3, tokens, 4, 3)
    expected = naive(*tensors)
    torch.testing.assert_close(fast(*tensors), expected)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1e-9)  # limits a block to the scores of one head
    torch.testing.assert_close(fast(*tensors), expected)
    assert_same(fast, naive, tensors, dtype=torch.float32)


@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 90), levels=st.integers(1, 5), back=st.integers(0, 20))
def test_any_length_and_any_latest_rows(tokens: int, levels: int, back: int) -> None:
    start = min(back, (tokens - 1) >> (levels - 1)) << (levels - 1)
    tensors = inputs(1, 2, tokens, 3, levels, rows=tokens - start)
    torch.testing.assert_close(fast(*tensors), naive(*tensors))
    torch.testing.assert_close(flat(hierarchical._concatenated)(*tensors), naive(*tensors))


@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_gradients_are_those_of_finite_differences(tokens: int) -> None:
    tensors = [t.requires_grad_() for t in inputs(1, 2, tokens, 2, 3)]
    assert torch.autograd.gradcheck(fast, tensors)


def test_one_level_is_plain_attention() -> None:
    q, k, v, weights = inputs(2, 3, 70, 8, 1)
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(hierarchical_attention([q], [k], v, weights), plain)


def test_a_one_hot_weight_leaves_the_scores_of_its_level() -> None:
    *tensors, weights = inputs(2, 3, 13, 8, 3)
    v = tensors[-1]
    for level in range(3):
        q, k = (tensors[at].repeat_interleave(2**level, dim=2)[:, :, :13] for at in (level, 3 + level))
        alone = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(fast(*tensors, F.one_hot(torch.tensor([level] * 3), 3).to(v)), alone)
        assert not torch.allclose(fast(*tensors, weights), alone)


def test_each_head_has_weights_of_its_own() -> None:
    *tensors, weights = inputs(2, 3, 9, 4, 2)
    whole = fast(*tensors, weights)
    for head in range(3):
        alone = fast(*(t[:, head : head + 1] for t in tensors), weights[head : head + 1])
        torch.testing.assert_close(whole[:, head : head + 1], alone)


def test_equal_projections_give_a_positive_kernel() -> None:
    """If queries = keys, each level's scores are positive semi-definite. Up-sampling and convex sums keep them so."""
    tokens, levels = 13, 3
    features = [t[0, 0] for t in random(*[(1, 1, -(-tokens // 2**level), 4) for level in range(levels)])]
    kernel = scores(features, features, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), tokens)
    assert torch.linalg.eigvalsh(kernel).min() >= -1e-6
    mixed = scores(features, features, torch.tensor([1.5, 0.3, -0.8], dtype=torch.float64), tokens)
    assert torch.linalg.eigvalsh(mixed).min() < -1e-6, "not convex"


def scores(queries: list[torch.Tensor], keys: list[torch.Tensor], weights: torch.Tensor, tokens: int) -> torch.Tensor:
    """Scores `[T, T]`, recovered through the operator: with one-hot values, the last row gives its logits up to a constant.

    A zero token in front fixes the constant: its score with every query is 0.
    """
    wide = [F.pad(t, (0, 0, 1, 0)) for t in keys]
    rows = []
    for i in range(tokens):
        length = 2 ** (len(keys) - 1) * (len(keys[-1]) + 1)
        q = [t[i >> level].expand(1, 1, length >> level, -1) for level, t in enumerate(queries)]
        k = [F.pad(t, (0, 0, 2 ** (len(keys) - 1 - n) - 1, 0)) for n, t in enumerate(wide)]
        k = [F.pad(t, (0, 0, 0, (length >> n) - len(t)))[None, None] for n, t in enumerate(k)]
        values = torch.eye(length, dtype=torch.float64)[None, None]
        pad = length - queries[0].shape[1]
        q = [F.pad(t, (0, pad)) for t in q]
        k = [F.pad(t, (0, pad)) for t in k]
        log = hierarchical_attention(q, k, values, weights[None])[0, 0, -1].log()
        first = 2 ** (len(keys) - 1)
        rows.append((log - log[0])[first : first + tokens])
    return torch.stack(rows)


def test_no_token_sees_a_later_one() -> None:
    torch.manual_seed(0)
    for tokens in (7, 8, 13):
        layer = HierarchicalAttention(dim=8, heads=2, levels=4, taps=3).double()
        x = torch.randn(2, tokens, 8, dtype=torch.float64)
        for t in range(tokens - 1):
            changed = x.clone()
            changed[:, t + 1 :] += 5
            torch.testing.assert_close(layer(changed)[:, : t + 1], layer(x)[:, : t + 1], rtol=0, atol=1e-12)
            assert not torch.allclose(layer(changed)[:, t + 1], layer(x)[:, t + 1])


def test_a_coarse_token_is_the_sum_over_the_tokens_up_to_it() -> None:
    x, taps = random((2, 9, 4), (3, 4))
    got = downsample(x, taps)
    assert got.shape == (2, 5, 4)
    for m in range(5):
        expected = sum(taps[r] * x[:, 2 * m - r] for r in range(3) if 2 * m - r >= 0)
        torch.testing.assert_close(got[:, m], expected)
    torch.testing.assert_close(downsample(x, taps[:1]), x[:, ::2] * taps[0])
    assert downsample(x[:, :0], taps).shape == (2, 0, 4)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 17), max_size=6), levels=st.integers(1, 4), taps=st.integers(1, 4))
def test_a_stream_fed_in_any_split_equals_the_whole(cuts: list[int], levels: int, taps: int) -> None:
    torch.manual_seed(0)
    layer = HierarchicalAttention(dim=4, heads=2, levels=levels, taps=taps).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 17, 4, dtype=torch.float64)
    edges = [0, *sorted(cuts), 17]
    state: Hierarchy | None = None
    parts = []
    for a, z in pairwise(edges):
        out, state = layer.step(x[:, a:z], state)
        parts.append(out)
    assert state is not None
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x))
    assert [k.shape[2] for k in state.keys] == [-(-17 // 2**level) for level in range(levels)]
    assert all(q.shape[2] < 2**levels for q in state.queries) and all(p.shape[1] == taps - 1 for p in state.past)


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(2, 3, 11, 8, 3)
    torch.testing.assert_close(fast(*map(strided, tensors)), fast(*tensors))


def test_large_scores_stay_finite() -> None:
    tensors = [t.float().requires_grad_() for t in inputs(1, 2, 9, 4, 3)]
    out = fast(*(t * 1e3 for t in tensors[:-1]), tensors[-1])
    out.sum().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(t.grad).all() for t in tensors if t.grad is not None)


def test_the_module_trains_all_its_parameters() -> None:
    torch.manual_seed(0)
    layer = HierarchicalAttention(dim=12, heads=3, levels=3, taps=2)
    x = torch.randn(2, 9, 12)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert layer(x[:0]).shape == (0, 9, 12) and layer(x[:, :1]).shape == (2, 1, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), atol=5e-2, rtol=5e-2)


def test_a_fresh_module_of_one_level_is_plain_attention() -> None:
    torch.manual_seed(0)
    layer = HierarchicalAttention(dim=12, heads=3, levels=1)
    x = torch.randn(2, 9, 12)
    q, k, v = (
        t.unflatten(-1, (3, -1)).transpose(1, 2) for t in (*layer.project[0](x).chunk(2, dim=-1), layer.value(x))
    )
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(layer(x), layer.out(plain.transpose(1, 2).flatten(2)))


def test_errors_name_both_numbers() -> None:
    def call(**changed: Any) -> None:
        *tensors, v, weights = inputs(2, 3, 9, 8, 3)
        named: dict[str, Any] = {"queries": tensors[:3], "keys": tensors[3:], "v": v, "weights": weights}
        hierarchical_attention(**{name: changed[name](t) if name in changed else t for name, t in named.items()})

    call()
    with pytest.raises(ValueError, match="2 levels of queries, 3 of keys and 3 weights"):
        call(queries=lambda q: q[:2])
    with pytest.raises(ValueError, match=r"keys\[1\] is \[2, 3, 4, 8\], expected \[B, H, 5, D\]: 4 must be 5"):
        call(keys=lambda k: [k[0], k[1][:, :, :4], k[2]])
    with pytest.raises(ValueError, match=r"v is \[2, 3, 9, 8\] with H = 3, weights has H = 2"):
        call(weights=lambda w: w[:2])
    with pytest.raises(ValueError, match="7 queries of 9 tokens begin at 2, which must be a multiple of 4"):
        call(queries=lambda q: [q[0][:, :, 2:], *q[1:]])
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(64\)"):
        HierarchicalAttention(dim=64, heads=3)
    with pytest.raises(ValueError, match=r"levels \(0\) and taps \(2\) must be at least 1"):
        HierarchicalAttention(dim=6, heads=3, levels=0)
    with pytest.raises(ValueError, match="11 must be 12"):
        HierarchicalAttention(dim=12, heads=3)(torch.zeros(1, 2, 11))
    layer = HierarchicalAttention(dim=12, heads=3)
    with pytest.raises(ValueError, match=r"state is .* with B = 2, x has B = 1"):
        layer.step(torch.zeros(1, 2, 12), layer.step(torch.zeros(2, 2, 12))[1])
