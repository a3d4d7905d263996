"""Robust losses against their formulas number by number, at their limits, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tocsin.models.wrong_labels.losses import (
    FLOOR,
    cross_entropy,
    generalised_cross_entropy,
    symmetric_cross_entropy,
    two_classes,
    two_targets,
)

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "generalised": lambda log_p, target: generalised_cross_entropy(log_p, target, 0.7),
    "symmetric": lambda log_p, target: symmetric_cross_entropy(log_p, target, 0.5, 1.0),
}


def samples(classes: int, *, soft: bool) -> tuple[Tensor, Tensor]:
    """Logits and targets `[6, classes]`."""
    generator = torch.Generator().manual_seed(classes)
    logits, target = torch.randn(2, 6, classes, generator=generator, dtype=torch.float64)
    return 3 * logits, target.softmax(1) if soft else torch.eye(classes, dtype=torch.float64)[target.argmax(1)]


def naive_generalised(p: list[float], target: list[float], q: float) -> float:
    return sum(t * (1 - x**q) / q for x, t in zip(p, target, strict=True))


def naive_symmetric(p: list[float], target: list[float], alpha: float, beta: float) -> float:
    forward = -sum(t * math.log(x) for x, t in zip(p, target, strict=True))
    reverse = -sum(x * (max(math.log(t), FLOOR) if t else FLOOR) for x, t in zip(p, target, strict=True))
    return alpha * forward + beta * reverse


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_their_formulas(classes: int, soft: bool) -> None:
    logits, target = samples(classes, soft=soft)
    rows = list(zip(logits.softmax(1).tolist(), target.tolist(), strict=True))
    got = generalised_cross_entropy(logits.log_softmax(1), target, 0.7)
    assert got.tolist() == pytest.approx([naive_generalised(p, t, 0.7) for p, t in rows])
    got = symmetric_cross_entropy(logits.log_softmax(1), target, 0.5, 2.0)
    assert got.tolist() == pytest.approx([naive_symmetric(p, t, 0.5, 2.0) for p, t in rows])


def test_q_of_0_is_cross_entropy_and_of_1_the_absolute_error() -> None:
    logits, target = samples(4, soft=False)
    log_p = logits.log_softmax(1)
    plain = torch.nn.functional.cross_entropy(logits, target.argmax(1), reduction="none")
    torch.testing.assert_close(generalised_cross_entropy(log_p, target, 0.0), plain)
    torch.testing.assert_close(generalised_cross_entropy(log_p, target, 1e-6), plain, rtol=1e-4, atol=1e-6)
    error = (log_p.exp() - target).abs().sum(1) / 2
    torch.testing.assert_close(generalised_cross_entropy(log_p, target, 1.0), error)
    torch.testing.assert_close(symmetric_cross_entropy(log_p, target, 1.0, 0.0), plain)
    torch.testing.assert_close(symmetric_cross_entropy(log_p, target, 0.0, 1.0), -FLOOR * error)
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a q from 0 to 1"):
            generalised_cross_entropy(log_p, target, q)


@given(st.floats(-30, 30), st.floats(0, 1))
def test_two_classes_are_a_logit_and_its_label(logit: float, label: float) -> None:
    log_p, target = two_classes(torch.tensor(logit, dtype=torch.float64)), two_targets(torch.tensor(label).double())
    assert log_p.exp().sum().item() == pytest.approx(1)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logit).double(), target[1])
    assert cross_entropy(log_p, target).item() == pytest.approx(plain.item())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_those_of_finite_differences(name: str, soft: bool) -> None:
    logits, target = samples(3, soft=soft)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x.log_softmax(1), target), logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](two_classes(x), two_targets(target)), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_a_label_that_is_denied_for_sure_has_a_finite_loss_and_gradient(name: str) -> None:
    logits = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    loss = LOSSES[name](logits.log_softmax(1), torch.tensor([[1.0, 0.0, 0.0]]))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
    if name == "generalised":
        assert loss.item() == pytest.approx(1 / 0.7) and logits.grad.abs().max() < 1e-6
