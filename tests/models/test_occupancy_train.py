"""The occupancy model learns from labelled minutes, is stored and loaded, and names what does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tocsin.models.gate import refusal
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.features import CLOCK, CO2
from tocsin.models.occupancy.model import OFFICES, OccupancyModel, build, load
from tocsin.models.occupancy.train import Recipe, Room, candidate, fit, labelled, rooms, score
from tocsin.models.trained import CONFIG_FILE

FEATURES = OccupancyConfig().features
CONFIG = OccupancyConfig(features=("level", "past", "ventilation"), window=10, threshold=0.5)


def room(seed: int, minutes: int = 600) -> Room:
    """A room occupied every other hour, when its level is higher. Its ventilation is unknown."""
    generator = torch.Generator().manual_seed(seed)
    occupied = (torch.arange(minutes) // 60 % 2).float()
    features = torch.randn(minutes, 3, generator=generator) * 0.5
    features[:, 0] += occupied * 2
    features[:, 2] = torch.nan
    occupied[::7] = torch.nan
    return Room(features, occupied)


def test_it_learns_what_can_be_learned() -> None:
    model = fit([[room(0)], [room(1)]], CONFIG, Recipe(steps=150), seed=0)
    figures = score(model, [room(2)])
    assert figures["f1"] > 0.95
    assert figures["auroc"] > 0.98


def test_the_same_seed_gives_the_same_model() -> None:
    one, two, other = (fit([[room(0)]], CONFIG, Recipe(steps=20), seed=seed) for seed in (3, 3, 4))
    windows = torch.randn(5, 10, 3)
    assert torch.equal(one(windows)["probability"], two(windows)["probability"])
    assert not torch.equal(one(windows)["probability"], other(windows)["probability"])


def test_what_is_stored_is_what_was_trained(tmp_path: Path) -> None:
    model = fit([[room(0)]], CONFIG, Recipe(steps=20))
    model.save(tmp_path / "model")
    stored = load(tmp_path / "model", device="cpu")
    windows = torch.randn(5, 10, 3)
    assert stored.config == model.config
    for name, value in model(windows).items():
        torch.testing.assert_close(stored(windows)[name], value, rtol=0, atol=0)


def test_a_mute_or_a_worse_model_does_not_become_champion(tmp_path: Path) -> None:
    sources = [[room(0)], [room(1)]]
    good, bad = fit(sources, CONFIG, Recipe(steps=150)), fit(sources, CONFIG, Recipe(steps=1, learning_rate=1e-9))
    mute = fit(sources, CONFIG, Recipe(steps=2, learning_rate=math.inf))
    for name, model in (("good", good), ("bad", bad), ("mute", mute)):
        model.save(tmp_path / name)
    champion = ("occupancy/1", tmp_path / "good")
    assert refusal(candidate(good, tmp_path / "good", sources, 0.9), champion) == ""
    said = refusal(candidate(bad, tmp_path / "bad", sources, 0.9), champion)
    assert said.startswith("expected a F1 of at least 0.")
    assert math.isnan(score(mute, [room(2)])["auroc"])  # scoring it raises nothing
    said = refusal(candidate(mute, tmp_path / "mute", sources, None), None)
    assert said == "expected finite numbers from a first prediction, got NaN or infinity"
    other = fit(sources, replace(CONFIG, features=("past", "level", "ventilation")), Recipe(steps=1))
    said = refusal(candidate(other, tmp_path / "bad", sources, 0.9), champion)
    assert said.endswith("got ValueError: it reads level, past, ventilation; this one past, level, ventilation")


def test_a_source_without_truth_is_refused() -> None:
    unknown = Room(torch.zeros(50, 3), torch.full((50,), torch.nan))
    with pytest.raises(ValueError, match="source 1: no window of 10 minutes whose truth is known"):
        fit([[room(0)], [unknown]], CONFIG, Recipe(steps=1))


def test_truth_holds_for_five_minutes() -> None:
    minutes = pl.DataFrame({"room": ["a"] * 4 + ["b"], "time": [0, 60_000, 300_000, 360_001, 60_000], "level": 0.0})
    truth = pl.DataFrame({"room": ["a", "a"], "time": [0, 60_000], "occupied": [False, True]})
    table = labelled(minutes, truth).sort("room", "time")
    assert table["occupied"].to_list() == [False, True, True, None, None]
    first, second = rooms(table, ["level"])
    assert first.known(2).tolist() == [1, 2]
    assert second.occupied.isnan().all()


def test_the_shipped_model_judges_and_says_where_it_looked() -> None:
    model = load(OFFICES, device="cpu")
    assert model.config.features == FEATURES == (*CO2, *CLOCK)
    assert set(model.config.bounds) == {"co2", "temperature", "humidity", "rhythm"} and model.config.plain.clock
    assert model.parameters < 20_000
    verdict = model(torch.randn(4, 60, len(FEATURES)))
    assert verdict["probability"].shape == (4,) and verdict["attention"].shape == (4, 12)
    assert verdict["attention"].sum(1) == pytest.approx(1, abs=1e-5)
    empty = model(torch.empty(0, 60, len(FEATURES)))
    assert empty["probability"].shape == (0,) and empty["attention"].shape == (0, 12)
    assert model(torch.full((1, 60, len(FEATURES)), torch.nan))["probability"].isfinite().all()


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    model = load(OFFICES, device="cpu")
    with pytest.raises(ValueError, match=r"windows are \[1, 30, 13\], expected \[B, 60, 19\]"):
        model(torch.zeros(1, 30, 13))
    with pytest.raises(ValueError, match="train the model"):
        OccupancyModel(CONFIG, build(CONFIG), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"features \['light'\]"):
        OccupancyConfig(features=("light",))
    with pytest.raises(ValueError, match="multiple of the patch, 5"):
        OccupancyConfig(window=61)
    with pytest.raises(ValueError, match="threshold of 1"):
        OccupancyConfig(threshold=1)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"window": 60}))
    with pytest.raises(ValueError, match="expected the config of an occupancy model"):
        OccupancyConfig.load(tmp_path)


def test_figures_are_those_of_the_definition() -> None:
    truth, told = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    figures = metrics(truth, told, np.array([0.9, 0.8, 0.3, 0.6, 0.1, 0.1, 0.1, 0.1]))
    assert figures["accuracy"] == 0.75
    assert figures["precision"] == figures["recall"] == pytest.approx(2 / 3)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["auroc"] == pytest.approx(14 / 15)
    assert figures["majority"] == 0.625
