"""What a model is compared with on the same clips: itself without the camera's motion, and baselines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Once
from tests.support.dives import pan, small_model
from tocsin.models.surprise import compare
from tocsin.models.surprise.baselines import bank
from tocsin.models.surprise.model import SurpriseModel, load
from tocsin.models.surprise.simulation.novelties import Novelty
from tocsin.models.surprise.train import Footage, footage


@pytest.fixture(scope="module")
def model(once: Once) -> SurpriseModel:
    folder: Path = once("surprise-model", small_model)
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def clips(model: SurpriseModel) -> list[Footage]:
    return [
        footage([pan(120, fish=(60, 75), seed=3, speed=8.0)], model.encoder, [Novelty(60, 75, "fish")]),
        footage([pan(120, seed=4, speed=8.0)], model.encoder),
    ]


def test_the_model_without_motion_is_judged_at_its_own_level_and_at_the_same_recall(
    model: SurpriseModel, clips: list[Footage]
) -> None:
    found = compare.without_motion(model, clips, 1.0, rate=10)
    figures = found["uncompensated"]
    assert set(found) == {"uncompensated"} and figures["recall"] in (0.0, 1.0)
    if figures["false_per_hour_at_recall"] is not None and figures["false_per_hour"] is not None:
        assert figures["recall"] == 0 or figures["false_per_hour_at_recall"] <= figures["false_per_hour"]
    # No level finds more than all, and without a novelty there is no recall to be equal to.
    assert compare.without_motion(model, clips, 1.1, rate=10)["uncompensated"]["false_per_hour_at_recall"] is None
    quiet = compare.without_motion(model, clips[1:], None, rate=10)["uncompensated"]
    assert quiet["recall"] is None and quiet["false_per_hour_at_recall"] is None


def test_baselines_are_judged_at_the_level_that_is_best_for_them(model: SurpriseModel, clips: list[Footage]) -> None:
    found = compare.baselines(model, clips, bank(clips), 0.0, rate=10)
    assert list(found) == ["kNN novelty", "frame difference"]
    for figures in found.values():
        assert (
            figures["recall"] in (0.0, 1.0) and figures["false_per_hour_at_recall"] == 0
        )  # the highest level is silent
    without = [replace(clip, novelties=()) for clip in clips]
    assert all(f["recall"] is None for f in compare.baselines(model, without, bank(clips), None, rate=10).values())
