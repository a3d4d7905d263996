"""The interval: what it holds on lives that it was not calibrated on, in every band, and its ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tocsin.models.conformal import BANDS
from tocsin.models.rul.evaluate import judged
from tocsin.models.rul.interval import Interval

CAP = 100.0


def fit(count: int, seed: int, *, lives: int, coverage: float = 0.9) -> Interval:
    return Interval.fit(*sample(count, seed), life=torch.arange(count) % lives, cap=CAP, coverage=coverage)


def sample(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Predictions whose errors grow with the RUL, with widths that are far too small; and the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = 120 * torch.rand(count, generator=generator)
    error = torch.randn(count, generator=generator) * (2 + truth / 10)
    return torch.stack([(truth + error) / CAP, torch.full((count,), 0.01), torch.full((count,), 0.01)], dim=1), truth


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_it_holds_the_share_that_it_should_of_lives_that_it_has_not_seen(coverage: float) -> None:
    interval = fit(20_000, 0, lives=100, coverage=coverage)
    shares, truth = sample(20_000, 1)
    figures = judged(*interval.ends(shares), truth, CAP)
    assert figures["coverage"] == pytest.approx(coverage, abs=0.05)  # the cap holds a few more
    assert all(figures[f"coverage_{band + 1}"] > coverage - 0.12 for band in range(BANDS))
    assert judged(*Interval(cap=CAP).ends(shares), truth, CAP)["coverage"] < 0.4


def test_its_ends_lie_around_the_prediction_in_what_is_possible() -> None:
    interval = fit(20_000, 0, lives=100)
    shares = torch.stack([torch.linspace(-1, 2, 50), torch.full((50,), 0.5), torch.full((50,), 0.0)], dim=1)
    rul, low, high = interval.ends(shares)
    assert (low <= rul).all() and (rul <= high).all()
    assert low.min() == rul.min() == 0
    assert high.max() == rul.max() == CAP


def test_few_rows_are_calibrated_together() -> None:
    assert fit(60, 0, lives=60).low.unique().numel() == 1
    assert fit(20_000, 0, lives=100).low.unique().numel() == BANDS


def test_without_a_life_to_calibrate_on_it_is_everything() -> None:
    nothing = Interval.fit(torch.empty(0, 3), torch.empty(0), life=torch.empty(0), cap=CAP, coverage=0.9)
    shares, _ = sample(50, 1)
    _, low, high = nothing.ends(shares)
    assert (low == 0).all() and (high == CAP).all()
    unknown = Interval.fit(shares, torch.full((50,), torch.nan), life=torch.zeros(50), cap=CAP, coverage=0.9)
    assert torch.equal(unknown.low, nothing.low), "lives that did not fail calibrate nothing"


@pytest.mark.parametrize("few", [2, 3, 18])
def test_of_few_lives_it_holds_the_share_of_each_one(few: int) -> None:
    shares, truth = sample(6000, 0)
    life = torch.arange(6000) % few
    shares[:, 0] += (life == 0) * 0.3  # one life of them is judged badly
    interval = Interval.fit(shares, truth, life=life, cap=CAP, coverage=0.9)
    for one in range(few):
        mine = life == one
        assert judged(*interval.ends(shares[mine]), truth[mine], CAP)["coverage"] > 0.86
    bad = life == 0
    pooled = Interval.fit(shares, truth, life=torch.arange(6000), cap=CAP, coverage=0.9)
    together = judged(*pooled.ends(shares[bad]), truth[bad], CAP)["coverage"]
    assert together < judged(*interval.ends(shares[bad]), truth[bad], CAP)["coverage"]
