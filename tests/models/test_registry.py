"""What training records in MLflow: a model that `pyfunc` loads, its data, its signature, and a run for every seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.shipped import weights
from tocsin.models.alignment.model import load as load_alignment
from tocsin.models.alignment.pyfunc import Pairs
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import load as load_field
from tocsin.models.field.pyfunc import Fields
from tocsin.models.irradiance.model import load as load_irradiance
from tocsin.models.occupancy.model import load as load_occupancy
from tocsin.models.pose.pyfunc import COLUMNS
from tocsin.models.quality.model import load as load_quality
from tocsin.models.quality.pyfunc import Windows
from tocsin.models.registry import Attempt, Curve, register, scored
from tocsin.models.rul.model import load as load_rul
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

CURVE = [("loss", 2.0, 0), ("loss", 1.0, 1), ("validation_rmse", 9.0, 1)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def registered(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that registers a domain's shipped weights as training does. MLflow's own functions use the same store."""
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(variable, store)
    monkeypatch.chdir(tmp_path)

    def register_(domain: str, **more: Any) -> str:
        return register(
            weights(domain),
            name=more.pop("name", domain),
            domain=domain,
            params={"seed": 1, "epochs": 2},
            metrics=CURVE,
            tracking_uri=store,
            artifact_location=str(tmp_path / "artifacts"),
            **more,
        )

    return register_


def jpegs(count: int) -> pd.DataFrame:
    """JPEG frames of moving noise."""
    picture = np.random.default_rng(0).integers(0, 255, (90, 160 + count, 3), dtype=np.uint8)
    views = [np.ascontiguousarray(picture[:, at : at + 160]) for at in range(count)]
    return pd.DataFrame({"frame": [cv2.imencode(".jpg", view)[1].tobytes() for view in views]})


def test_pyfunc_judges_readings_as_the_model_does(registered: Callable[..., str]) -> None:
    version = registered("rul")
    readings = run_to_failure(engines=2, seed=1).select(*load_rul(device="cpu").config.types)
    served = mlflow.pyfunc.load_model(f"models:/rul/{version}").predict(readings.to_pandas())
    wanted = load_rul(device="cpu").judge(readings)
    assert served["cycle"].to_list() == wanted["cycle"].to_list()
    for name in ("rul", "rul_low", "rul_high"):
        np.testing.assert_allclose(served[name], wanted[name], atol=1e-4)


def test_pyfunc_loads_a_model_of_windows_and_predicts_what_it_predicts(registered: Callable[..., str]) -> None:
    version = registered("occupancy")
    own = load_occupancy(weights("occupancy"), "cpu")
    windows = np.random.default_rng(0).normal(size=(3, own.config.window, len(own.config.features)))
    windows = (windows * own.config.scale + own.config.mean).astype(np.float32)
    served = mlflow.pyfunc.load_model(f"models:/occupancy/{version}").predict(windows)
    for name, wanted in own(torch.from_numpy(windows)).items():
        np.testing.assert_allclose(served[name], wanted.numpy(), atol=1e-4)


def test_pyfunc_forecasts_from_hours_as_the_model_does(registered: Callable[..., str]) -> None:
    version = registered("irradiance")
    windows = np.abs(np.random.default_rng(0).normal(size=(3, 24, 13))).astype(np.float32)
    served = mlflow.pyfunc.load_model(f"models:/irradiance/{version}").predict(windows)
    own = load_irradiance(weights("irradiance"), "cpu")(torch.from_numpy(windows))
    for name, wanted in own.items():
        np.testing.assert_allclose(served[name], wanted.numpy(), atol=1e-4)


def test_pyfunc_judges_windows_as_the_model_does(registered: Callable[..., str]) -> None:
    version = registered("quality")
    own = Windows(load_quality(weights("quality"), "cpu"))
    windows = own.example()
    served = mlflow.pyfunc.load_model(f"models:/quality/{version}").predict(windows)
    for name, wanted in own.predict(windows).items():
        np.testing.assert_allclose(served[name], wanted, atol=1e-4)


def test_pyfunc_estimates_fields_as_the_model_does(registered: Callable[..., str]) -> None:
    version = registered("field")
    own = load_field(weights("field"), "cpu")
    given = Fields(own).example()
    served = mlflow.pyfunc.load_model(f"models:/field/{version}").predict(given)
    inputs = Inputs(**{name: torch.from_numpy(values) for name, values in given.items()})
    for name, wanted in zip(("estimate", "spread"), own(inputs), strict=True):
        np.testing.assert_allclose(served[name], wanted.numpy(), atol=1e-4)


def test_pyfunc_aligns_pairs_as_the_model_does(registered: Callable[..., str]) -> None:
    version = registered("alignment")
    own = Pairs(load_alignment(weights("alignment"), "cpu"))
    given = own.example()
    served = mlflow.pyfunc.load_model(f"models:/alignment/{version}").predict(given)
    wanted = own.predict(given)
    assert [*served.columns] == ["homography", "confidence", "error"]
    np.testing.assert_allclose(served["confidence"], wanted["confidence"], atol=1e-4)
    np.testing.assert_allclose(np.stack(served["homography"]), np.stack(wanted["homography"]), atol=1e-3)


def test_pyfunc_loads_a_model_of_frames(registered: Callable[..., str]) -> None:
    columns = {
        "damage": ["kind", "score", "crack", "spalling", "efflorescence", "extent"],
        "surprise": ["score", "level", "novel"],
        "tampering": ["score", "tampered", "kind"],
        "touch": ["left_contact", "left_release", "right_contact", "right_release"],
    }
    columns["pose"] = [*COLUMNS]
    for domain, wanted in columns.items():
        served = mlflow.pyfunc.load_model(f"models:/{domain}/{registered(domain)}")
        told = served.predict(jpegs(3))
        assert [*told.columns] == wanted and len(told) == 3 - (domain == "pose")  # a step is between two
        with pytest.raises(ValueError, match="row 0: expected a JPEG or PNG in column frame, got 5 other bytes"):
            served.predict(pd.DataFrame({"frame": [b"hello"]}))


def test_a_model_has_signature_example_description_tags_and_no_pickle(registered: Callable[..., str]) -> None:
    info = mlflow.models.get_model_info(f"models:/rul/{registered('rul', data=['sim'])}")
    columns = load_rul(device="cpu").config.types
    assert info.signature.inputs.input_types_dict().keys() == columns.keys()
    outputs = [output["name"] for output in info.signature.outputs.to_dict()]
    assert outputs == ["unit", "cycle", "rul", "rul_low", "rul_high", "in_domain"]
    assert info.flavors["python_function"]["loader_module"] == "tocsin.models.rul.pyfunc"
    folder = Path(mlflow.artifacts.download_artifacts("models:/rul@champion"))
    assert {file.suffix for file in folder.iterdir()} <= {"", ".json", ".safetensors", ".txt", ".yaml"}
    loaded = mlflow.pyfunc.load_model(str(folder))
    example = loaded.input_example
    assert [*example.columns] == [*columns] and loaded.predict(example)["rul"].between(0, 125).all()
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("rul", "champion")
    assert version.description.startswith("rul model, trained by Tocsin 0.1.0 on sim.")
    assert version.tags["tocsin.domain"] == "rul" and version.tags["seed"] == "1"
    assert "rul@champion" in client.get_registered_model("rul").description
    logged = client.get_logged_model(info.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", version.run_id)
    assert {metric.key: metric.value for metric in logged.metrics} == {"loss": 1.0, "validation_rmse": 9.0}


def test_every_seed_has_a_run_under_the_trainings_with_its_curve(registered: Callable[..., str]) -> None:
    others = [("loss", 3.0, 0), ("loss", 2.5, 1)]
    registered("rul", name="pumps", attempts=[Attempt(0, others), Attempt(1, CURVE)])
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("pumps").experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert named.keys() == {"train pumps", "seed 0", "seed 1"}
    parent = named["train pumps"].info.run_id
    for seed, kept in ((0, "false"), (1, "true")):
        run = named[f"seed {seed}"]
        assert run.info.status == "FINISHED"
        assert run.data.params == {"seed": str(seed), "epochs": "2"}
        assert (run.data.tags["mlflow.parentRunId"], run.data.tags["tocsin.kept"]) == (parent, kept)
    history = client.get_metric_history(named["seed 0"].info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.5)]


def test_a_run_names_the_data_by_what_they_hold(registered: Callable[..., str], tmp_path: Path) -> None:
    (folder := tmp_path / "pumps").mkdir()
    (folder / "1.csv").write_text("a,b\n1,2\n")
    seen = []
    for _ in range(2):
        registered("rul", name="data", data=[str(folder), "sim"])
        version = mlflow.MlflowClient().get_model_version_by_alias("data", "champion")
        inputs = mlflow.get_run(version.run_id).inputs.dataset_inputs
        seen.append({found.dataset.name: found.dataset for found in inputs})
        assert {tag.value for found in inputs for tag in found.tags} == {"training"}
        (folder / "1.csv").write_text("a,b\n1,3\n")
    before, after = seen
    assert before.keys() == {"pumps", "sim"}
    assert json.loads(before["pumps"].source) == {"uri": folder.as_uri()}
    assert json.loads(before["pumps"].profile) == {"num_files": 1, "num_bytes": 8}
    assert before["pumps"].digest != after["pumps"].digest and before["sim"].digest == after["sim"].digest


def test_registering_says_nothing_itself(registered: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    registered("rul", attempts=[Attempt(1, CURVE)])
    out, err = capfd.readouterr()
    assert out == "" and "Waiting up to" not in err


def test_it_is_deployed_by_alias_and_its_folder_still_loads_without_mlflow(
    registered: Callable[..., str], store: str
) -> None:
    version = registered("rul")
    name, found, folder = resolve_model(store, "rul@champion")
    assert (name, found) == ("rul", version)
    for file in ("config.json", "model.safetensors"):
        assert (folder / file).read_bytes() == (weights("rul") / file).read_bytes()


def test_a_training_whose_model_does_not_load_ends_as_failed_and_registers_nothing(
    registered: Callable[..., str], store: str, tmp_path: Path
) -> None:
    shutil.copytree(weights("rul"), broken := tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(Exception, match=r"(?i)header"):
        register(broken, name="broken", domain="rul", params={}, metrics=[], tracking_uri=store)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("broken").experiment_id])
    assert run.info.status == "FAILED"
    assert not client.search_registered_models("name = 'broken'")


def test_what_a_model_scores_is_recorded_with_its_training(registered: Callable[..., str], store: str) -> None:
    version = registered("rul", name="scored")
    figures = {"data": "FD001", "rmse": 12.5, "engines": 100, "odd": float("nan"), "rooms": {}}
    scored("scored", version, figures, data="sim", tracking_uri=store)
    client = mlflow.MlflowClient()
    champion = client.get_model_version("scored", version)
    run = client.get_run(champion.run_id)
    assert {k: v for k, v in run.data.metrics.items() if k.startswith("test_")} == {
        "test_rmse": 12.5,
        "test_engines": 100,
    }
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.tags[0].value) == ("sim", "evaluation")
    logged = {metric.key: metric for metric in client.get_logged_model(run.outputs.model_outputs[0].model_id).metrics}
    assert (logged["test_rmse"].value, logged["test_rmse"].dataset_name) == (12.5, "sim")


def test_a_curve_is_thinned_and_ends_with_what_it_scored() -> None:
    curve = Curve()
    for step in range(1000):
        curve.add(step, 1 / (step + 1))
    points = curve.end({"f1": 0.5, "kind": "fish", "odd": float("nan")})
    assert 200 <= len(points) <= 203
    assert points[0] == ("loss", 1.0, 0) and ("loss", 0.001, 999) in points
    assert points[-1] == ("validation_f1", 0.5, 999)
