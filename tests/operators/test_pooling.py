"""Additive attention pooling against its step-by-step form, and the properties it promises."""

from __future__ import annotations

import pytest
import torch

from operators.pooling import AdditiveAttentionPool, additive_attention, naive_additive_attention


def inputs(batch: int, steps: int, dim: int, hidden: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(batch, steps, dim), (hidden, dim), (hidden,), (hidden,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("batch", "steps", "dim", "hidden"), [(1, 1, 1, 1), (3, 5, 4, 2), (2, 30, 8, 16)])
@pytest.mark.parametrize("masked", [False, True])
def test_fast_form_and_its_gradients_equal_the_step_by_step_form(
    batch: int, steps: int, dim: int, hidden: int, masked: bool
) -> None:
    mask = torch.arange(batch * steps).view(batch, steps) % 3 != 1 if masked else None
    results, gradients = [], []
    for function in (additive_attention, naive_additive_attention):
        arguments = inputs(batch, steps, dim, hidden)
        context, weights = function(*arguments, mask)
        (context.sin().sum() + weights.cos().sum()).backward()
        results.append((context, weights))
        gradients.append([a.grad for a in arguments])
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_sum_to_one_and_outputs_keep_the_dtype(dtype: torch.dtype) -> None:
    arguments = [a.detach().to(dtype) for a in inputs(4, 30, 8, 16)]
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
    states, *parameters = inputs(2, 4, 3, 2)
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


def test_errors_name_both_numbers() -> None:
    pool = AdditiveAttentionPool(dim=4, hidden=3)
    with pytest.raises(ValueError, match="width 5, the pooling layer 4"):
        pool(torch.randn(2, 6, 5))
    with pytest.raises(ValueError, match=r"mask is \[2, 5\], states need \[2, 6\]"):
        pool(torch.randn(2, 6, 4), torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="got 2: "):
        pool(torch.randn(6, 4))
