"""Additive attention pooling against its step-by-step form, and the properties it promises."""

from __future__ import annotations

import pytest
import torch

from tests.operators.compare import DTYPES, assert_same, random, strided
from tocsin.operators.pooling import AdditiveAttentionPool, additive_attention, naive_additive_attention

SIZES = [(1, 1, 1, 1), (3, 5, 4, 2), (2, 30, 8, 16)]


def inputs(batch: int, steps: int, dim: int, hidden: int) -> list[torch.Tensor]:
    return random((batch, steps, dim), (hidden, dim), (hidden,), (hidden,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_fast_equals_naive(sizes: tuple[int, ...], masked: bool, dtype: torch.dtype) -> None:
    batch, steps, _, _ = sizes
    mask = torch.arange(batch * steps).view(batch, steps) % 3 != 1 if masked else None
    assert_same(additive_attention, naive_additive_attention, inputs(*sizes), dtype=dtype, mask=mask)


def test_gradients_are_those_of_finite_differences() -> None:
    tensors = [t.requires_grad_() for t in inputs(2, 4, 3, 2)]
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    assert torch.autograd.gradcheck(lambda *t: additive_attention(*t, mask), tensors)


def test_memory_layout_does_not_matter() -> None:
    tensors = inputs(3, 5, 4, 2)
    torch.testing.assert_close(additive_attention(*map(strided, tensors)), additive_attention(*tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_sum_to_one_and_outputs_keep_the_dtype(dtype: torch.dtype) -> None:
    arguments = [a.to(dtype) for a in inputs(4, 30, 8, 16)]
    context, weights = additive_attention(*arguments)
    assert context.dtype == weights.dtype == dtype
    torch.testing.assert_close(weights.float().sum(1), torch.ones(4), atol=2e-2, rtol=0)


def test_reordering_the_steps_reorders_the_weights_and_keeps_the_context() -> None:
    states, *parameters = inputs(2, 6, 4, 3)
    order = torch.randperm(6)
    context, weights = additive_attention(states, *parameters)
    moved_context, moved_weights = additive_attention(states[:, order], *parameters)
    torch.testing.assert_close(moved_context, context)
    torch.testing.assert_close(moved_weights, weights[:, order])


def test_masked_steps_do_not_matter_and_a_row_without_steps_is_zero() -> None:
    states, *parameters = (t.requires_grad_() for t in inputs(2, 4, 3, 2))
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    context, weights = additive_attention(states, *parameters, mask)
    short_context, short_weights = additive_attention(states[:1, :2], *parameters)
    torch.testing.assert_close((context[:1], weights[:1, :2]), (short_context, short_weights))
    assert not context[1].any()
    assert not weights[1].any()
    context.sum().backward()
    assert all(torch.isfinite(a.grad).all() for a in (states, *parameters) if a.grad is not None)
    assert not states.grad[1].any()  # type: ignore[index]


def test_the_module_trains_its_parameters() -> None:
    pool = AdditiveAttentionPool(dim=4, hidden=3)
    context, weights = pool(torch.randn(2, 5, 4))
    assert context.shape == (2, 4)
    assert weights.shape == (2, 5)
    context.sum().backward()
    assert all(p.grad is not None for p in pool.parameters())


def test_an_empty_batch_has_an_empty_result() -> None:
    context, weights = AdditiveAttentionPool(dim=4, hidden=3)(torch.zeros(0, 5, 4))
    assert context.shape == (0, 4) and weights.shape == (0, 5)


def test_errors_name_both_numbers() -> None:
    pool = AdditiveAttentionPool(dim=4, hidden=3)
    with pytest.raises(ValueError, match=r"weight is \[3, 4\] with D = 4, states has D = 5"):
        pool(torch.randn(2, 6, 5))
    with pytest.raises(ValueError, match=r"mask is \[2, 5\] with T = 5, states has T = 6"):
        pool(torch.randn(2, 6, 4), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"states must be \[B, T, D\], 3 dimensions; got 2: \[6, 4\]"):
        pool(torch.randn(6, 4))
