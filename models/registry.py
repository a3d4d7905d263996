"""A trained model in MLflow: its run, its files, and the alias that deployments follow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path


def register(
    directory: Path,
    *,
    name: str,
    params: Mapping[str, object],
    metrics: Iterable[tuple[str, float, int]],
    tracking_uri: str,
    artifact_location: str | None = None,
) -> str:
    """Record a training run and register its model as champion.

    Args:
        directory: where the model was saved; its files become the run's artifacts.
        name: of the experiment and of the registered model.
        params: of the run.
        metrics: name, value and step of each figure.
        tracking_uri: of the MLflow server or store.
        artifact_location: of the experiment's files, if it does not exist yet; None leaves it to MLflow.

    Returns:
        The version that `champion` now points to.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name, artifact_location)
    run = client.create_run(experiment_id, run_name=f"train {name}")
    now = int(time.time() * 1000)
    figures = [Metric(figure, value, now, step) for figure, value, step in metrics]
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    for start in range(0, len(figures), 1000):  # MLflow's limit a call
        client.log_batch(run.info.run_id, metrics=figures[start : start + 1000])
    for file in sorted(directory.iterdir()):
        client.log_artifact(run.info.run_id, str(file), "model")
    client.set_terminated(run.info.run_id)
    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(name)
    version = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "champion", version.version)
    return str(version.version)
