"""`tocsin train --robust` reaches the training of each domain that has labels from people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tocsin.models.occupancy.model import load
from tocsin.models.touch.robust import RECIPE
from tocsin.models.wrong_labels.labels import Robust
from tocsin.pipelines.cli.app import app


def train(domain: str, data: Path | str, *more: str) -> Any:
    command = ["--set", "mlflow.enabled=false", "train", domain, "--data", str(data), "--steps", "4", *more]
    return CliRunner().invoke(app, command)


def office(folder: Path) -> Path:
    """Five hours of an office that fills up every other hour."""
    folder.mkdir()
    rng, lines = np.random.default_rng(0), ["time,co2,occupancy"]
    for minute in range(300):
        occupied = minute // 60 % 2
        lines.append(
            f"2026-01-12 {8 + minute // 60:02}:{minute % 60:02}:00,{450 + 300 * occupied + rng.normal(0, 9):.0f},{occupied}"
        )
    (folder / "office.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_an_occupancy_model_is_trained_robustly_and_otherwise_as_ever(tmp_path: Path) -> None:
    data, found = office(tmp_path / "rooms"), []
    for number, more in enumerate(((), ("--robust",), ())):
        done = train("occupancy", data, "--out", str(tmp_path / str(number)), *more)
        assert done.exit_code == 0, done.exception
        found.append(torch.cat([p.flatten() for p in load(tmp_path / str(number), "cpu").network.parameters()]))
    plain, robust, again = found
    assert torch.equal(plain, again) and not torch.equal(plain, robust) and robust.isfinite().all()


@pytest.mark.parametrize(("domain", "expected"), [("damage", Robust()), ("touch", RECIPE)])
def test_the_recipe_of_a_camera_reaches_its_training(
    domain: str, expected: Robust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Any] = []

    def fit(clips: Any, config: Any, *more: Any, **rest: Any) -> None:
        recipes.append(next(part for part in more if hasattr(part, "robust")))
        raise KeyError("enough")

    where = f"tocsin.models.{domain}"
    monkeypatch.setattr(f"{where}.train.fit", fit)
    monkeypatch.setattr(f"{where}.domain._appearance", lambda *given: None)
    if domain == "touch":
        monkeypatch.setattr(f"{where}.domain._footage", lambda *given: ([], []))
        monkeypatch.setattr(f"{where}.model.Eyes", lambda config: None)
    else:
        monkeypatch.setattr(f"{where}.domain._folders", lambda run: [])
        monkeypatch.setattr(f"{where}.domain._lessons", lambda *given: ([], [], []))
    for more in ((), ("--robust",)):
        assert isinstance(train(domain, "sim", *more).exception, KeyError)
    assert [(recipe.robust, recipe.steps) for recipe in recipes] == [(None, 4), (expected, 4)]
