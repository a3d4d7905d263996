"""Attention to the present hands against its frame-by-frame form, and its independence of absent hands."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.hands import HandCrossAttention, hand_attention, naive_hand_attention, sine_positions

EVERY_WAY = torch.tensor([[True, True], [True, False], [False, True], [False, False]])


def inputs(batch: int, heads: int, queries: int, keys: int, dim: int, seed: int = 0) -> list[Tensor]:
    hand = (batch, heads, 2, keys, dim)
    return random((batch, heads, queries, dim), hand, hand, seed=seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(4, 2, 5, 3, 8), (4, 1, 1, 1, 1), (0, 2, 3, 3, 4), (1, 3, 7, 2, 16)])
def test_fast_equals_naive(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    present = EVERY_WAY[: sizes[0]]
    assert_same(hand_attention, naive_hand_attention, inputs(*sizes), dtype=dtype, present=present)


@given(st.lists(st.integers(0, 3), max_size=4), st.tuples(*[st.integers(1, 5)] * 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_fast_equals_naive_in_any_shape(ways: list[int], sizes: tuple[int, ...], seed: int) -> None:
    tensors = inputs(len(ways), *sizes, seed=seed)
    present = EVERY_WAY[ways]
    torch.testing.assert_close(hand_attention(*tensors, present), naive_hand_attention(*tensors, present))


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(4, 1, 2, 2, 3)]
    assert torch.autograd.gradcheck(lambda *t: hand_attention(*t, EVERY_WAY), tensors)


def test_both_hands_there_is_plain_attention_and_one_is_plain_attention_to_it() -> None:
    q, k, v = inputs(4, 2, 5, 3, 8)
    out = hand_attention(q, k, v, EVERY_WAY)
    torch.testing.assert_close(out[0], F.scaled_dot_product_attention(q[0], k[0].flatten(1, 2), v[0].flatten(1, 2)))
    for frame, hand in ((1, 0), (2, 1)):
        alone = F.scaled_dot_product_attention(q[frame], k[frame, :, hand], v[frame, :, hand])
        torch.testing.assert_close(out[frame], alone)


@pytest.mark.parametrize("content", [torch.nan, torch.inf, 1e30])
def test_what_an_absent_hand_holds_changes_nothing(content: float) -> None:
    results = []
    for value in (0.0, content):
        q, k, v = inputs(4, 2, 5, 3, 8)
        k, v = (torch.where(EVERY_WAY[:, None, :, None, None], t, value) for t in (k, v))
        leaves = [t.requires_grad_() for t in (q, k, v)]
        out = hand_attention(*leaves, EVERY_WAY)
        out.square().sum().backward()
        results.append([out, *(t.grad for t in leaves)])
    for zero, other in zip(*results, strict=True):
        assert torch.equal(zero, other) and torch.isfinite(other).all()
    assert not results[0][0][3].any() and results[0][0][:3].all()


def module(**options: float) -> HandCrossAttention:
    torch.manual_seed(0)
    options = {"dropout": 0.0} | options
    return HandCrossAttention(dim=16, heads=2, grid=(2, 3), hand_grid=(2, 2), **options).double()  # type: ignore[arg-type]


def test_a_frame_without_hands_comes_out_bit_for_bit() -> None:
    for training in (True, False):
        scene, hands = random((4, 6, 16), (4, 2, 4, 16))
        scene[3, 0, 0] = torch.nan  # arithmetic may change a NaN's bits
        out = module(dropout=0.5).train(training)(scene, hands, EVERY_WAY)
        assert torch.equal(out[3].view(torch.int64), scene[3].view(torch.int64))
        assert (out[:3] != scene[:3]).flatten(1).any(1).all() and torch.isfinite(out[:3]).all()
    scene, hands = scene.bfloat16()[3:], hands.bfloat16()[3:]
    assert torch.equal(module().bfloat16()(scene, hands, EVERY_WAY[3:]).view(torch.int16), scene.view(torch.int16))


def test_an_absent_hands_tokens_reach_neither_output_nor_gradients() -> None:
    results = []
    for content in (0.0, torch.nan):
        layer = module()
        scene, hands = random((4, 6, 16), (4, 2, 4, 16))
        out = layer(scene, torch.where(EVERY_WAY[:, :, None, None], hands, content), EVERY_WAY)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in layer.parameters())])
    for zero, nan in zip(*results, strict=True):
        assert torch.equal(zero, nan) and torch.isfinite(nan).all()


def test_a_frame_does_not_depend_on_the_others() -> None:
    layer, (scene, hands) = module(), random((4, 6, 16), (4, 2, 4, 16))
    together = layer(scene, hands, EVERY_WAY)
    for b in range(4):
        torch.testing.assert_close(layer(scene[b : b + 1], hands[b : b + 1], EVERY_WAY[b : b + 1])[0], together[b])


def test_the_block_is_attention_to_hands_then_feed_forward() -> None:
    """Compare with the docstring's formulas over naive attention."""
    layer, (scene, hands) = module(), random((4, 6, 16), (4, 2, 4, 16))
    position, hand_position = sine_positions(2, 3, 16).double(), sine_positions(2, 2, 16).double()
    for b, seen in enumerate(EVERY_WAY[:3]):
        q = layer.query(layer.before_attention(scene[b]) + position)
        k = layer.key(hands[b] + hand_position + layer.identity)
        split = [t.unflatten(-1, (2, 8)).movedim(-2, 0)[None] for t in (q, k, layer.value(hands[b]))]
        context = naive_hand_attention(*split, seen[None])[0].transpose(0, 1).flatten(1)
        x = scene[b] + layer.out(context)
        expected = x + layer.feed_forward(x)
        torch.testing.assert_close(layer(scene, hands, EVERY_WAY)[b], expected)


def test_which_hand_it_is_and_where_its_tokens_are_matters() -> None:
    layer, (scene, hands) = module(), random((1, 6, 16), (1, 2, 4, 16))
    both = torch.ones(1, 2, dtype=torch.bool)
    out = layer(scene, hands, both)
    assert not torch.allclose(layer(scene, hands.flip(1), both), out)
    assert not torch.allclose(layer(scene, hands.flip(2), both), out)
    with torch.no_grad():
        layer.identity[1] = layer.identity[0]
    torch.testing.assert_close(layer(scene, hands.flip(1), both), layer(scene, hands, both))


def test_positions_tell_all_places_of_a_grid_apart() -> None:
    positions = sine_positions(3, 5, 16)
    assert positions.shape == (15, 16)
    assert torch.cdist(positions, positions).fill_diagonal_(9).min() > 0.1
    grid = positions.unflatten(0, (3, 5))
    assert (grid[:, :, :8] == grid[:, :1, :8]).all() and (grid[:, :, 8:] == grid[:1, :, 8:]).all()


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(4, 2, 5, 3, 8)
    torch.testing.assert_close(hand_attention(*map(strided, tensors), EVERY_WAY), hand_attention(*tensors, EVERY_WAY))


def test_autocast_computes_in_bfloat16_and_keeps_what_it_leaves() -> None:
    layer, (scene, hands) = module().float(), random((4, 6, 16), (4, 2, 4, 16))
    scene, hands = scene.float(), hands.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(scene, hands, EVERY_WAY)
    assert torch.equal(out[3], scene[3]) and out.dtype == torch.float32
    torch.testing.assert_close(out, layer(scene, hands, EVERY_WAY), atol=0.05, rtol=0.05)


def test_the_module_trains_all_its_parameters_and_takes_empty_batches_and_none_with_hands() -> None:
    layer, (scene, hands) = module(), random((4, 6, 16), (4, 2, 4, 16))
    layer(scene, hands, EVERY_WAY).square().sum().backward()
    # A key's bias shifts all logits of a query equally, which softmax ignores.
    blind = {"key.bias"}
    assert all(p.grad is not None and (n in blind or p.grad.any()) for n, p in layer.named_parameters())
    assert layer(scene[:0], hands[:0], EVERY_WAY[:0]).shape == (0, 6, 16)
    layer.zero_grad()
    none = layer(scene[3:], hands[3:], EVERY_WAY[3:])
    (none.sum() + 0 * layer.out.weight.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


def test_errors_name_both_numbers() -> None:
    q, k, v = inputs(4, 2, 5, 3, 8)
    with pytest.raises(ValueError, match=r"k is \[4, 2, 1, 3, 8\], expected \[B, H, 2, S, D\]: 1 must be 2"):
        hand_attention(q, k[:, :, :1], v, EVERY_WAY)
    with pytest.raises(ValueError, match=r"present is \[3, 2\] with B = 3, q has B = 4"):
        hand_attention(q, k, v, EVERY_WAY[:3])
    with pytest.raises(ValueError, match=r"present is torch.int64, expected torch.bool"):
        hand_attention(q, k, v, EVERY_WAY.long())
    with pytest.raises(ValueError, match=r"heads \(3\) must divide dim \(16\)"):
        HandCrossAttention(dim=16, heads=3)
    with pytest.raises(ValueError, match=r"dim \(18\) must be a multiple of 4"):
        HandCrossAttention(dim=18, heads=3)
    with pytest.raises(ValueError, match="5 must be 6"):
        module()(*random((4, 5, 16), (4, 2, 4, 16)), EVERY_WAY)
