"""The split of labels: known mixtures are found again, plans have their marginals, and wrong labels are told from right ones."""

from __future__ import annotations

import math

import pytest
import torch

from tocsin.models.wrong_labels.split import by_mixture, by_transport, mixture, sinkhorn


def normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_known_mixture_is_found_again(share: float) -> None:
    low = round(5000 * share)
    values = torch.cat([0.2 + 0.1 * normal(low, 0), 2.0 + 0.4 * normal(5000 - low, 1)])
    found = mixture(values)
    assert found.share.tolist() == pytest.approx([share, 1 - share], abs=0.01)
    assert found.mean.tolist() == pytest.approx([0.2, 2.0], abs=0.03)
    assert found.deviation.tolist() == pytest.approx([0.1, 0.4], abs=0.02)
    assert all(torch.equal(one, other) for one, other in zip(found, mixture(values), strict=True))
    right = by_mixture(values) > 0.5
    assert right[:low].float().mean() > 0.99 and right[low:].float().mean() < 0.01


def test_the_probability_never_rises_with_the_loss_though_one_group_is_wider() -> None:
    values = torch.cat(
        [1.0 + 0.05 * normal(500, 0), 1.5 + 0.5 * normal(500, 1)]
    )  # the wide one reaches below the narrow one
    found = mixture(values)
    grid = torch.linspace(-3, 5, 400, dtype=torch.float64)
    chance = found.lower(grid)
    assert (chance.diff() <= 1e-12).all() and chance.min() >= 0 and chance.max() <= 1
    assert chance[0] == chance.max() and found.deviation[1] > 3 * found.deviation[0]


def test_degenerate_losses_are_split_into_nothing() -> None:
    assert by_mixture(torch.full((7,), 0.3)).tolist() == pytest.approx([1.0] * 7)
    assert by_mixture(torch.tensor([0.3])).tolist() == [1.0]
    two = by_mixture(torch.tensor([0.0] * 30 + [1.0] * 30))
    assert two[:30].min() > 0.99 and two[30:].max() < 0.01
    for bad in (torch.empty(0), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="expected finite values"):
            mixture(bad)


def test_a_plan_has_its_marginals_and_no_blur_makes_it_the_cheapest() -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(40, 4, generator=generator, dtype=torch.float64)
    rows = torch.rand(40, generator=generator, dtype=torch.float64).softmax(0)
    columns = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    plan = sinkhorn(cost, rows, columns, blur=0.2, rounds=500)
    torch.testing.assert_close(plan.sum(1), rows, rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.sum(0), columns, rtol=0, atol=1e-9)
    assert (plan > 0).all()
    # Two rows, two columns: whatever moves across costs 1, so nothing does.
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    sharp = sinkhorn(torch.eye(2).double(), half, half, blur=0.01)
    torch.testing.assert_close(sharp, torch.tensor([[0.0, 0.5], [0.5, 0.0]]).double(), atol=1e-9, rtol=0)
    # The scaling of the definition, without logarithms.
    kernel, left, right = (-cost / 0.2).exp(), torch.ones(40).double(), torch.ones(4).double()
    for _ in range(500):
        left = rows / (kernel @ right)
        right = columns / (kernel.mT @ left)
    torch.testing.assert_close(plan, left[:, None] * kernel * right, atol=1e-8, rtol=1e-4)


def test_classes_without_labels_take_nothing_and_costs_may_be_large() -> None:
    log_p = torch.tensor([[0.01, 0.01, 0.98]] * 10).log()
    share = by_transport(log_p, torch.tensor([0] * 5 + [1] * 5))
    assert share.isfinite().all() and share.tolist() == pytest.approx([0.5] * 10, abs=1e-3)
    plan = sinkhorn(
        1e4 * torch.rand(5, 2, generator=torch.Generator().manual_seed(0)),
        torch.full((5,), 0.2),
        torch.tensor([0.5, 0.5]),
    )
    assert plan.isfinite().all() and plan.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("wrong", [0.2, 0.4])
def test_both_splits_find_replaced_labels_by_an_unsure_network(wrong: float) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(4, (2000,), generator=generator)
    logits = 2 * torch.eye(4)[truth] + torch.randn(2000, 4, generator=generator)
    is_wrong = torch.rand(2000, generator=generator) < wrong
    given = torch.where(is_wrong, (truth + torch.randint(1, 4, (2000,), generator=generator)) % 4, truth)
    log_p = logits.log_softmax(1)
    for right in (by_mixture(-log_p.gather(1, given[:, None])[:, 0]), by_transport(log_p, given)):
        assert (right[~is_wrong] > 0.5).float().mean() > 0.75 and (right[is_wrong] > 0.5).float().mean() < 0.25
