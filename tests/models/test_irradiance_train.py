"""Training on short simulated years: it learns, repeats itself, judges left-out sites, and refuses what it cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tocsin.models.irradiance.baselines import SMART, baselines
from tocsin.models.irradiance.config import IrradianceConfig
from tocsin.models.irradiance.domain import recorded
from tocsin.models.irradiance.evaluate import best_threshold, detections, errors, skill
from tocsin.models.irradiance.network import NetworkSize
from tocsin.models.irradiance.samples import HELD, Samples
from tocsin.models.irradiance.train import Outcome, Recipe, candidate, fit, score, train

CONFIG = IrradianceConfig(size=NetworkSize(conv=8, lstm=8, hidden=16))
RECIPE = Recipe(steps=60, batch=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def sources() -> list[Samples]:
    table = recorded("sim", sites=2, days=62, seed=5)
    return [Samples.of(part) for part in table.partition_by("site", maintain_order=True)]


@pytest.fixture(scope="module")
def outcome(sources: list[Samples]) -> Outcome:
    return train(sources, [], CONFIG, RECIPE, seed=0)


def test_it_learns(sources: list[Samples]) -> None:
    losses = list[float]()
    fit(sources, replace(CONFIG, network="plain"), RECIPE, seed=0, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == RECIPE.steps and np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_it_says_how_it_does_on_sites_that_it_has_not_seen(outcome: Outcome) -> None:
    figures = outcome.figures
    assert figures["left_out_rmse"] > 0 and outcome.score == figures["left_out_skill"]
    assert 0.8 < figures["validation_coverage"] <= 1


def test_a_seed_repeats_itself(sources: list[Samples]) -> None:
    short = Recipe(steps=4, batch=32)
    once, again, other = (train(sources[:1], [], CONFIG, short, seed=seed).figures for seed in (0, 0, 1))
    assert once == again and once != other


def test_it_becomes_a_candidate_that_is_compared_on_the_held_out_days(outcome: Outcome, tmp_path: Path) -> None:
    outcome.model.save(tmp_path)
    made = candidate(outcome, tmp_path)
    assert made.lower and made.score == outcome.figures["validation_rmse"]
    assert all(torch.isfinite(values).all() for values in made.outputs())
    assert made.against(tmp_path) == (made.score, made.score)


def test_a_single_source_is_judged_by_its_held_out_days(sources: list[Samples]) -> None:
    alone = train(sources[:1], [], CONFIG, Recipe(steps=5, batch=32), seed=0)
    assert "left_out_skill" not in alone.figures and alone.score == alone.figures["validation_skill"]


def test_sites_without_light_are_refused(sources: list[Samples]) -> None:
    night = sources[0].keep(~sources[0].by_day)
    with pytest.raises(ValueError, match="source 0: expected hours by day with a known next hour, got none"):
        train([night], [], CONFIG, RECIPE, seed=0)


def test_a_sixth_of_the_days_is_held_out(sources: list[Samples]) -> None:
    assert np.mean(sources[0].held) == pytest.approx(HELD / 60, abs=0.06)
    short = sources[0].keep(sources[0].time < sources[0].time[0] + 12 * 86_400_000)
    assert np.mean(short.held) == pytest.approx(1 / 6, abs=0.01) and short.held[-40:].all()


def test_scores_are_by_day_and_over_all_hours(sources: list[Samples]) -> None:
    target, by_day = np.array([0.0, 0, 100, 300]), np.array([False, False, True, True])
    found = errors(np.array([0.0, 0, 110, 270]), target, by_day)
    assert found["rmse"] == pytest.approx(np.sqrt(500)) and found["rmse_all"] == pytest.approx(np.sqrt(250))
    assert (found["mae"], found["mean_error"], found["mae_all"]) == (20, -10, 10)
    assert found["r2"] == pytest.approx(1 - 500 / 10_000)
    assert skill(80, 100) == pytest.approx(0.2) and np.isnan(skill(1, 0))
    assert np.isnan(errors(target, target, np.zeros(4, bool))["rmse"])


def test_baselines_are_what_they_say(sources: list[Samples]) -> None:
    source = sources[0]
    plain = baselines(source, 0.5)
    hours = source.target.double().numpy()
    at = np.flatnonzero(source.by_day)[30]
    assert plain[SMART][at] == pytest.approx(float(source.persistence[at]))
    assert plain["yesterday"][at] == pytest.approx(hours[at - 24])
    assert plain["persistence"][at] == pytest.approx(hours[at - 1])


def test_a_threshold_is_that_of_the_best_f1() -> None:
    truth = np.array([True, True, False, False, False])
    assert detections(np.array([True, False, True, False, False]), truth) == {"precision": 0.5, "recall": 0.5}
    level = best_threshold(np.array([0.9, 0.6, 0.4, 0.1, 0.1]), truth)
    assert 0.4 < level <= 0.6
    assert best_threshold(np.array([0.1]), np.array([False])) == 0.5


def test_the_score_of_a_model_needs_its_windows_alone(outcome: Outcome, sources: list[Samples]) -> None:
    found = score(outcome.model, sources[0])
    assert 0 < found["rmse_all"] < found["rmse"] and found["width"] > 0
