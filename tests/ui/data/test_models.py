"""Models: the registry's versions with aliases and scores; a registry that does not exist is not created."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.ui.data.models import Models


def test_versions_have_aliases_and_scores(tracking_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
    run = client.create_run(client.create_experiment("rul", str(tmp_path))).info.run_id
    client.log_metric(run, "validation_rmse", 12.5)
    client.log_metric(run, "loss", 3.0)
    client.create_registered_model("rul")
    for _ in range(2):
        client.create_model_version("rul", str(tmp_path), run)
    client.set_registered_model_alias("rul", "champion", "2")
    newest, oldest = Models(tracking_uri).versions()
    assert (newest.name, newest.version, newest.aliases, dict(newest.scores)) == (
        "rul",
        2,
        ("champion",),
        {"validation_rmse": 12.5},
    )
    assert (oldest.version, oldest.aliases) == (1, ())


def test_a_missing_database_stays_missing(tmp_path: Path) -> None:
    assert Models(f"sqlite:///{tmp_path}/mlflow.db").versions() == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_broken_registry_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(Unavailable, match="MLflow: expected its models, got") as broken:
        Models(f"sqlite:///{tmp_path}/mlflow.db").versions()
    assert "\n" not in str(broken.value)
