"""Training of pose: it learns from films, a mirror shows a film of the mirrored path, and what ships beats what it is built on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.films import ROOM, SEA
from tocsin.models.pose.config import PoseConfig
from tocsin.models.pose.evaluate import compared
from tocsin.models.pose.geometry import turn
from tocsin.models.pose.model import load
from tocsin.models.pose.network import NetworkConfig
from tocsin.models.pose.odometry import Followed
from tocsin.models.pose.simulation.film import Film
from tocsin.models.pose.train import Course, Recipe, candidate, course, fit, followed, judged, loss, together, train

SMALL = NetworkConfig(hidden=8, width=16, heads=2, window=3, memory=4)
RECIPE = Recipe(steps=60, clips=2, frames=10, learning_rate=6e-3)


@pytest.fixture(scope="module")
def known() -> list[Course]:
    return [course(Film(seed, seconds=3)) for seed in (ROOM, SEA)]


@pytest.mark.slow
def test_it_learns(known: list[Course]) -> None:
    batch, losses = together([c.piece(0, 20) for c in known]), list[float]()
    torch.set_num_threads(1)
    before = fit(known, SMALL, replace(RECIPE, steps=1, learning_rate=1e-9))
    after = fit(known, SMALL, RECIPE, progress=lambda _, value: losses.append(value))
    with torch.no_grad():
        assert loss(after, batch) < 0.9 * loss(before, batch)
    assert len(losses) == RECIPE.steps and np.isfinite(losses).all()
    again = fit(known, SMALL, replace(RECIPE, steps=2))
    same = fit(known, SMALL, replace(RECIPE, steps=2))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))


def test_a_short_film_is_refused(known: list[Course]) -> None:
    with pytest.raises(ValueError, match="expected films of more than 36 frames, got one of 29; leave it out"):
        fit(known, SMALL, Recipe(steps=1))


def test_the_mirrored_film_is_that_of_the_mirrored_path(known: list[Course]) -> None:
    one, other = known[0], known[0].mirrored()
    there = followed(one.turn[None], one.shift[None])[0]
    assert torch.allclose(
        followed(other.turn[None], other.shift[None])[0], there * torch.tensor([-1.0, 1, 1]), atol=1e-5
    )
    guess = turn(one.pairs.guess[:, :3]), turn(other.pairs.guess[:, :3])
    flip = torch.diag(torch.tensor([-1.0, 1, 1]))
    assert torch.allclose(flip @ guess[0] @ flip, guess[1], atol=1e-5)
    twice = other.mirrored()
    assert all(torch.equal(a, b) for a, b in zip(vars(twice.pairs).values(), vars(one.pairs).values(), strict=True))


def test_a_trained_model_is_stored_and_read(known: list[Course], tmp_path: Path) -> None:
    outcome = train(known, known, replace(PoseConfig(), network=SMALL), replace(RECIPE, steps=2), seed=1)
    assert set(outcome.figures) == {"drift", "drift_own_length", "turn_error", "direction_error", "aligned"}
    outcome.model.save(tmp_path)
    again = load(tmp_path)
    assert again.config == outcome.model.config and again.parameters == outcome.model.parameters
    assert judged(again, known)["turn_error"] == pytest.approx(outcome.figures["turn_error"], nan_ok=True)
    proposed = candidate(outcome, tmp_path, known)
    assert proposed.lower and all(bool(t.isfinite().all()) for t in proposed.outputs())


def test_the_shipped_model_errs_less_than_the_estimate_that_it_refines(known: list[Course]) -> None:
    model = load()
    for each in known:
        steps = judged(model, [each])
        guess = each.pairs.guess.double()
        plain = compared(Followed(turn(guess[:, :3]).numpy(), guess[:, 3:6].numpy()), each.way()).figures()
        assert steps["turn_error"] < 0.8 * plain["turn_error"]
        assert steps["direction_error"] < 0.8 * plain["direction_error"]
