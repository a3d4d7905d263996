"""The RUL network's shapes and the asymmetric loss."""

from __future__ import annotations

import math

import pytest
import torch

from tocsin.models.rul.config import NetworkSize
from tocsin.models.rul.network import RulNetwork, asymmetric_loss


@pytest.mark.parametrize(("error", "expected"), [(-20.0, 3.66), (20.0, 6.39), (0.0, 0.0)])
def test_loss_has_the_published_values(error: float, expected: float) -> None:
    loss = asymmetric_loss(torch.tensor([50.0 + error]), torch.tensor([50.0]))
    assert loss.item() == pytest.approx(expected, abs=0.005)


def test_loss_is_the_exponential_up_to_its_tangent_and_smooth_there() -> None:
    late = torch.tensor([39.9, 40.1], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([asymmetric_loss(e[None], torch.zeros(1, dtype=torch.float64)) for e in late])
    assert losses[0].item() == pytest.approx(math.expm1(3.99))
    assert (losses[1] - losses[0]).item() == pytest.approx(0.02 * math.exp(4), rel=1e-2)
    losses.sum().backward()
    assert late.grad is not None
    assert late.grad[0].item() == pytest.approx(late.grad[1].item(), rel=1e-2)


@pytest.mark.parametrize("error", [-1e6, 1e6])
def test_loss_and_gradient_stay_finite_and_alive_for_absurd_errors(error: float) -> None:
    predicted = torch.tensor([error], requires_grad=True)
    loss = asymmetric_loss(predicted, torch.zeros(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert predicted.grad is not None
    assert predicted.grad.sign().item() == math.copysign(1, error)


def test_network_returns_rul_and_attention_that_sums_to_one() -> None:
    size = NetworkSize(conv=(4, 6), lstm=5, attention=3, head=(7, 4))
    network = RulNetwork(channels=9, cap=125, size=size).eval()
    rul, attention = network(torch.randn(3, 30, 9))
    assert rul.shape == (3,)
    assert attention.shape == (3, 30)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    (rul.sum() + attention.square().sum()).backward()
    assert all(p.grad is not None for p in network.parameters())
