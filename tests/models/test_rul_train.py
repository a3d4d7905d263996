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
from tocsin.models.rul.data import read_csv_directory, windows
from tocsin.models.rul.domain import Rul
from tocsin.models.rul.evaluate import evaluate, predict
from tocsin.models.rul.model import load
from tocsin.models.rul.train import Epoch, Recipe, train

CHANNELS = [f"vibration{i}" for i in range(8)]
TOML = f"""
key = "pump"
key_type = "string"
order = "hour"
features = {CHANNELS}
window = 12
cap = 60
warning = 30
critical = 10

[network]
conv = [8, 8]
lstm = 8
attention = 8
head = [8, 8]
dropout = 0.1
"""
RECIPE = Recipe(epochs=2, share=1.0, batch=16, learning_rate=1e-2, teachers=0, averaging=0.9)


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


@pytest.mark.parametrize("teachers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_eight_channels_train_from_a_toml_file_and_load_again(pumps: Path, tmp_path: Path, teachers: int) -> None:
    seen: list[Epoch] = []
    recipe = replace(RECIPE, teachers=teachers)
    trained = train(
        data=pumps, out=tmp_path / "out", config=tmp_path / "pumps.toml", recipe=recipe, progress=seen.append
    )
    assert seen == trained.curve
    assert [line.epoch for line in seen] == [0, 1]
    assert seen[1].rmse < seen[0].rmse

    model = load(tmp_path / "out", device="cpu")
    cut = windows(read_csv_directory(pumps, model.config), model.config)
    predicted = predict(model, cut)
    assert torch.equal(predicted, predict(trained.model, cut))
    new, worn = predicted[cut.rul >= 60].mean(), predicted[cut.rul < 5].mean()
    assert worn + 20 < new <= 60
    figures = evaluate(data=pumps, model=model, csv=True)
    assert figures["engines"] == 8
    assert figures["windows"] == len(cut)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pumps: Path, tmp_path: Path) -> None:
    def weights(seed: int) -> bytes:
        out = tmp_path / "out"
        train(data=pumps, out=out, config=tmp_path / "pumps.toml", recipe=RECIPE, seed=seed)
        return (out / "model.safetensors").read_bytes()

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_training_stops_when_validation_no_longer_improves(pumps: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=9, share=0.1, learning_rate=0.0, teachers=0, averaging=0.0, patience=2)  # nothing is learned
    trained = train(data=pumps, out=tmp_path / "out", config=tmp_path / "pumps.toml", recipe=recipe)
    assert len(trained.curve) < 9


def test_holding_out_every_key_or_none_is_refused(pumps: Path, tmp_path: Path) -> None:
    for share, held in ((0.01, 0), (0.99, 8)):
        with pytest.raises(ValueError, match=f"holds out {held} of 8 keys"):
            train(
                data=pumps,
                out=tmp_path / "out",
                config=tmp_path / "pumps.toml",
                recipe=replace(RECIPE, validation=share),
            )


def test_a_run_is_recorded_and_its_model_registered_as_champion(
    pumps: Path, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr("tocsin.models.rul.train.Recipe", lambda: RECIPE)
    registrar = Registrar(tracking_uri)
    for seed in (0, 1):
        request = Training(
            [str(pumps)], "rul", tmp_path / "out", [seed], registrar, rich.progress.Progress(disable=True)
        )
        trained = Rul().train(request, config=tmp_path / "pumps.toml")
    assert trained.registered.version == "2"
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    champion = client.get_model_version_by_alias("rul", "champion")
    assert str(champion.version) == trained.registered.version
    run = client.get_run(champion.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "1"
    curve = client.get_metric_history(champion.run_id, "validation_rmse")
    assert [m.step for m in curve] == [0, 1]
    assert min(m.value for m in curve) == trained.seeds[0]["validation_rmse"]
    local = mlflow.artifacts.download_artifacts(
        client.get_model_version_download_uri("rul", champion.version),
        tracking_uri=tracking_uri,
        dst_path=str(tmp_path / "dl"),
    )
    batch = torch.randn(3, 12, 8)
    assert torch.equal(load(Path(local), "cpu")(batch)["rul"], load(tmp_path / "out", "cpu")(batch)["rul"])
