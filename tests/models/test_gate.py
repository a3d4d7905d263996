"""A model becomes champion only if its outputs are finite and it is about as good as the current champion."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tocsin.models.gate import Candidate, best, refusal

STANDING = ("pumps/3", Path("files"))


def candidate(score: float, standing: float = 10.0, *, lower: bool = True, output: float = 0.5) -> Candidate:
    return Candidate(
        measure="RMSE",
        lower=lower,
        score=score,
        outputs=lambda: [torch.ones(2), torch.tensor([output])],
        against=lambda folder: (score, standing if folder == STANDING[1] else math.nan),
    )


@pytest.mark.parametrize(
    ("score", "lower", "fits"),
    [(10.9, True, True), (11.1, True, False), (1.0, True, True), (9.1, False, True), (8.9, False, False)],
)
def test_it_may_be_a_tenth_worse_and_no_more(score: float, lower: bool, fits: bool) -> None:
    new = candidate(score, lower=lower)
    said = refusal(new, STANDING)
    assert (said == "") == fits
    if not fits:
        bound = "at most 11" if lower else "at least 9"
        assert said == f"expected a RMSE of {bound}, 10% from the 10 of pumps/3 on the same validation, got {score:.4g}"
    assert refusal(new, STANDING, force=True) == refusal(new, None) == ""


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_without_finite_numbers_may_never(wrong: float) -> None:
    for given in (None, STANDING):
        assert refusal(candidate(wrong), given, force=True) == f"expected a finite RMSE, got {wrong}"
        assert "expected finite numbers from a first" in refusal(candidate(1.0, output=wrong), given, force=True)


def test_one_that_nothing_judged_may_if_a_person_says_so() -> None:
    unjudged = replace(candidate(1.0), score=None)
    said = "expected a RMSE, got none, since no data were left to judge it by"
    assert refusal(unjudged, None) == refusal(unjudged, STANDING) == said
    assert refusal(unjudged, None, force=True) == refusal(unjudged, STANDING, force=True) == ""
    broken = replace(candidate(1.0, output=math.nan), score=None)
    assert "expected finite numbers from a first" in refusal(broken, None, force=True)


@pytest.mark.parametrize(("score", "lower", "fits"), [(9.0, True, True), (9.1, True, False), (8.9, False, False)])
def test_it_must_reach_its_floor_without_a_champion_too(score: float, lower: bool, fits: bool) -> None:
    new = replace(candidate(score, lower=lower), floor=("that of the shared network", 9.0))
    said = f"expected a RMSE of {'at most' if lower else 'at least'} 9, that of the shared network, got {score:.4g}"
    assert refusal(new, None) == refusal(new, STANDING) == ("" if fits else said)
    assert refusal(new, None, force=True) == ""


def test_a_champion_without_numbers_is_replaced_and_one_that_does_not_load_is_not() -> None:
    assert refusal(candidate(99.0, math.nan), STANDING) == ""

    def against(_: Path) -> tuple[float, float]:
        raise FileNotFoundError("no\nconfig.json")

    new = Candidate(measure="F1", lower=False, score=1.0, outputs=list, against=against)
    expected = "expected to compare it with pumps/3 on the same validation, got FileNotFoundError: no config.json"
    assert refusal(new, STANDING) == expected
    assert refusal(new, STANDING, force=True) == ""


def test_a_seed_without_a_score_is_never_the_best() -> None:
    assert best({0: math.nan, 1: 3.0, 2: 2.0}, lower=True) == 2
    assert best({0: math.nan, 1: 3.0, 2: 2.0}) == 1
    assert best({0: math.nan, 1: math.nan}) == 0
