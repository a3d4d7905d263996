"""The RUL networks: shapes, masks, gradients, and their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tocsin.models.rul.config import NetworkSize, RulConfig
from tocsin.models.rul.data import Lives
from tocsin.models.rul.network import (
    FusionNetwork,
    Inputs,
    RecurrentNetwork,
    asymmetric_loss,
    build,
    level_and_slope,
    rul_loss,
)
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.train import Recipe, epochs


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


KINDS = ("fading", "recurrent", "fusion")
SIZE = NetworkSize(hidden=(8, 6), conv=(4, 6), lstm=4, attention=3, head=(7, 4))


def config(kind: str, **more: Any) -> RulConfig:
    return RulConfig(key="unit", order="cycle", features=("a", "b", "c"), model=kind, network=SIZE, **more)


def inputs(kind: str, rows: Sequence[int] = (30, 12, 1)) -> Inputs:
    """Random steps of lives with so many rows."""
    shape = (len(rows), len(config(kind).steps), 3)
    steps = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(shape[1]).flip(0) < torch.tensor(rows).unsqueeze(1)
    if kind == "fading":
        mask = torch.ones_like(mask)
    return Inputs(
        steps * mask.unsqueeze(-1),
        mask,
        torch.zeros_like(mask, dtype=torch.int64),
        torch.randn(len(rows), 3),
        torch.zeros(len(rows), 0, 3),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_predicts_a_rul_and_an_interval_around_it_and_learns_in_every_part(kind: str) -> None:
    network = build(config(kind)).eval()
    shares = network(inputs(kind))
    assert shares.shape == (3, 3)
    assert shares.isfinite().all()
    assert (shares[:, 1:] >= 0).all()
    every = network.both(inputs(kind)) if isinstance(network, FusionNetwork) else (shares,)
    torch.cat(every, dim=1).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["recurrent", "fusion"])
def test_the_rows_that_a_short_life_lacks_only_count_as_missing(kind: str) -> None:
    network, given = build(config(kind)).eval(), inputs(kind, (12,))
    level = level_and_slope(given)
    torch.testing.assert_close(level[0, :3], given.steps[0, -12:].mean(0))
    flat = given._replace(steps=given.mask.unsqueeze(-1) * torch.ones(1, 30, 3))
    torch.testing.assert_close(level_and_slope(flat), torch.tensor([[1.0, 1, 1, 0, 0, 0]]), atol=1e-6, rtol=0)
    assert network(given).isfinite().all()


def test_the_attention_of_the_recurrent_network_sums_to_one_over_the_rows_that_are_there() -> None:
    network = build(config("recurrent")).eval()
    assert isinstance(network, RecurrentNetwork)
    given = inputs("recurrent")
    _, attention = network.attend(given)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))
    assert (attention[~given.mask] == 0).all()


def test_the_interval_does_not_change_what_the_prediction_learns() -> None:
    network = build(config("fading")).eval()
    network(inputs("fading"))[:, 1:].sum().backward()
    learned = [name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert learned and all("spread" in name for name in learned)


def test_the_loss_of_the_interval_is_least_at_the_quantiles() -> None:
    target = torch.linspace(0, 100, 1001)
    shares = torch.stack([torch.full((1001,), 0.4), torch.zeros(1001), torch.zeros(1001)], dim=1)

    def loss(below: float, above: float) -> float:
        given = torch.stack([shares[:, 0], torch.full((1001,), below / 125), torch.full((1001,), above / 125)], dim=1)
        return float(rul_loss(given, target, cap=125, asymmetry=0, coverage=0.9))

    best = loss(45, 45)  # the 5 % and 95 % of 0..100, around 50
    assert all(loss(45 + d, 45) > best and loss(45, 45 + d) > best for d in (-5, 5))


@pytest.mark.slow
def test_the_fusion_network_learns_where_trends_go() -> None:
    """Lives whose sensors rise at a pace of their own: their change within ten rows can be read from the window."""
    generator = torch.Generator().manual_seed(0)
    pace = torch.rand(20, 1, 3, generator=generator) / 10
    rows = (
        (torch.arange(60.0)[:, None] * pace + 0.1 * torch.randn(20, 60, 3, generator=generator)).flatten(0, 1).double()
    )
    engine, age = torch.arange(20).repeat_interleave(60), torch.arange(60.0).repeat(20).double()
    left = 59 - age.float()
    slots = torch.zeros(len(rows), 0, 3)
    known = Lives(rows, age, left, left, engine, slots, tuple(map(str, range(20))))
    fusion = config("fusion")
    samples = Samples(known, fusion, Scaling.fit(known, settings=0, regimes=1))
    index = torch.arange(len(known))
    ahead, is_known = samples.later(index, FusionNetwork.AHEAD)
    assert is_known.view(20, 60).sum(1).tolist() == [50] * 20  # a life's last ten rows have none
    at = samples.at(index)
    change = (FusionNetwork.decomposed(ahead).trend - FusionNetwork.decomposed(at).trend)[:, -1]

    def error(network: FusionNetwork) -> float:
        with torch.inference_mode():
            return float((network.eval().both(at)[1] - change)[is_known].square().mean())

    torch.manual_seed(0)
    recipe = Recipe(epochs=20, batch=64, learning_rate=4e-3, steps=1)
    networks = [network for network, _ in epochs(samples, index, fusion, recipe)]
    network, trivial = networks[-1], float((change - change[is_known].mean(0))[is_known].square().mean())
    assert isinstance(network, FusionNetwork)
    assert error(network) < 0.5 * trivial


def test_rows_without_rows_ahead_do_not_count_in_the_trajectorys_loss() -> None:
    now, later, predicted = inputs("fusion"), inputs("fusion", (30, 30, 30)), torch.zeros(3, 3)
    some = torch.tensor([True, False, False])
    loss = FusionNetwork.trajectory_loss(predicted, now, later, some)
    first = FusionNetwork.trajectory_loss(
        predicted[:1], Inputs(*(t[:1] for t in now)), Inputs(*(t[:1] for t in later)), some[:1]
    )
    torch.testing.assert_close(loss, first)
    assert FusionNetwork.trajectory_loss(predicted, now, later, torch.zeros(3, dtype=torch.bool)) == 0
