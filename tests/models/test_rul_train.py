"""Training on a user's own CSV files, and its record in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.progress
import torch

from tocsin.models.champion import Registrar
from tocsin.models.domain import Training
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import lives, read_csv_directory
from tocsin.models.rul.domain import Rul
from tocsin.models.rul.evaluate import evaluate
from tocsin.models.rul.model import load
from tocsin.models.rul.train import RECIPES, Recipe, train
from tocsin.pipelines.rul import pipeline
from tocsin.pipelines.runtime.engine.plan import Model

CHANNELS = [f"vibration{i}" for i in range(8)]
TOML = f"""
key = "pump"
key_type = "string"
order = "hour"
features = {CHANNELS}
spans = [3, 10, 30]
window = 12
cap = 60
warning = 30
critical = 10

[network]
hidden = [16, 8]
conv = [8, 8]
lstm = 8
attention = 8
head = [8, 8]
"""
RECIPE = Recipe(epochs=3, batch=16, learning_rate=1e-2, folds=2, validation=0.25)


@pytest.fixture
def pumps(tmp_path: Path) -> Path:
    """Eight pumps whose vibration grows over the last 60 hours, and their config."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pumps"
    folder.mkdir()
    for pump in range(8):
        life = 80 + 10 * pump
        wear = np.clip(1 - np.arange(life)[::-1] / 60, 0, None)
        values = 5 + wear[:, None] * np.linspace(0.5, 3, 8) + 0.1 * random.standard_normal((life, 8))
        lines = [f"P-{pump:02},{h}," + ",".join(f"{v:.4f}" for v in row) for h, row in enumerate(values)]
        (folder / f"{pump}.csv").write_text("\n".join([f"pump,hour,{','.join(CHANNELS)}", *lines]))
    (tmp_path / "pumps.toml").write_text(TOML)
    return folder


@pytest.mark.parametrize(("kind", "folds"), [("fading", 2), ("recurrent", 0), ("fusion", 0)])
def test_eight_channels_train_from_a_toml_file_and_load_again(
    pumps: Path, tmp_path: Path, kind: str, folds: int
) -> None:
    seen: list[tuple[int, int, float]] = []
    config = replace(RulConfig.from_toml(tmp_path / "pumps.toml"), model=kind)
    recipe = replace(RECIPE, folds=folds)
    trained = train(
        data=pumps, out=tmp_path / "out", config=config, recipe=recipe, progress=lambda *step: seen.append(step)
    )
    total = recipe.epochs * (1 + folds)
    assert [step[:2] for step in seen] == [(done + 1, total) for done in range(total)]
    assert [epoch.rmse for epoch in trained.curve] == [step[2] for step in seen[: recipe.epochs]]
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.rmse == trained.figures["validation_rmse"]
    assert ("folds_coverage" in trained.figures) is bool(folds)

    model = load(tmp_path / "out", device="cpu")
    known = lives(read_csv_directory(pumps, model.config), model.config)
    predicted = model.predict(known)["rul"]
    assert torch.equal(predicted, trained.model.predict(known)["rul"])
    new, worn = predicted[known.rul >= 60].mean(), predicted[known.rul < 5].mean()
    assert worn + 20 < new <= 60
    scores = evaluate(data=pumps, model=model, csv=True)
    windowed = {} if kind == "fading" else {"shorter than the window": 0}
    assert scores.counted == {"engines": 8, "rows": len(known), **windowed}
    assert not any(scores.left_out.values())
    assert scores.in_domain > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pumps: Path, tmp_path: Path) -> None:
    def weights(seed: int) -> bytes:
        out = tmp_path / "out"
        train(data=pumps, out=out, config=tmp_path / "pumps.toml", recipe=replace(RECIPE, epochs=1, folds=0), seed=seed)
        return (out / "model.safetensors").read_bytes()

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_without_held_out_keys_the_folds_give_the_figures(pumps: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, validation=0.0, epochs=1)
    trained = train(data=pumps, config=tmp_path / "pumps.toml", recipe=recipe)
    assert trained.rmse == trained.figures["folds_rmse"]
    assert trained.validation.table.is_empty()
    many = train(data=pumps, config=tmp_path / "pumps.toml", recipe=replace(recipe, folds=9))
    assert many.figures.keys() == trained.figures.keys(), "one fold for each pump at most"


def test_holding_out_every_key_is_refused(pumps: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation=0\.99 holds out 8 of 8 keys that failed; leave at least one"):
        train(data=pumps, config=tmp_path / "pumps.toml", recipe=replace(RECIPE, validation=0.99))


def test_a_run_is_recorded_and_its_model_registered_as_champion(
    pumps: Path, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setitem(RECIPES, "fading", replace(RECIPE, epochs=8, folds=0))
    registrar = Registrar(tracking_uri)
    for seed, imputer in ((1, True), (0, False)):
        request = Training(
            [str(pumps)], "rul", tmp_path / "out", [seed], registrar, rich.progress.Progress(disable=True)
        )
        trained = Rul().train(request, config=tmp_path / "pumps.toml", imputer=imputer, imputer_steps=3)
        assert (tmp_path / "out" / "imputer.json").exists() is imputer
        assert ("imputer" in trained.facts()) is imputer and any(
            "imputer: error" in x for x in trained.lines
        ) is imputer
    assert trained.registered.version == "2"
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    champion = client.get_model_version_by_alias("rul", "champion")
    assert str(champion.version) == trained.registered.version
    run = client.get_run(champion.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    curve = client.get_metric_history(champion.run_id, "validation_rmse")
    assert [m.step for m in curve] == [*range(9)]  # each epoch, then the kept network
    assert curve[-1].value == trained.seeds[0]["validation_rmse"]

    def fetched(version: str) -> Path:
        uri = client.get_model_version_download_uri("rul", version)
        place = str(tmp_path / f"version-{version}")
        return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=tracking_uri, dst_path=place))

    filling = pipeline({"impute": "network"}, Model(fetched("1"), "rul/1", "cpu"))
    assert filling.schema.field("vibration3").nullable and "filled" in filling.results.names
    model = load(fetched(champion.version), "cpu")
    table = read_csv_directory(pumps, model.config)
    assert model.judge(table).equals(load(tmp_path / "out", "cpu").judge(table))
