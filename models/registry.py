"""A trained model in MLflow: its run, its files, and the alias that deployments follow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from models.folders import listed

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    run = client.create_run(_experiment(client, name, artifact_location), run_name=f"train {name}")
    now = int(time.time() * 1000)
    figures = [Metric(figure, value, now, step) for figure, value, step in metrics]
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    for start in range(0, len(figures), 1000):  # MLflow's limit a call
        client.log_batch(run.info.run_id, metrics=figures[start : start + 1000])
    for file in listed(directory):
        client.log_artifact(run.info.run_id, str(file), "model")
    client.set_terminated(run.info.run_id)
    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(name)
    version = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(name, "champion", version.version)
    return str(version.version)


@contextlib.contextmanager
def searching(
    name: str, params: Mapping[str, object], *, tracking_uri: str, artifact_location: str | None = None
) -> Iterator[tuple[str, Callable[[int, Mapping[str, object], Mapping[str, float]], None]]]:
    """A run of a search, under which each trial has a run of its own as soon as it is told.

    Args:
        name: of the experiment, as of `register`.
        params: of the search's run.
        tracking_uri, artifact_location: as of `register`.

    Yields:
        The run's id, and a function that records a trial: its number, its params and its metrics. The search's own run gets the
        metrics too, with the number as their step. What breaks off ends as FAILED, with the trials until then.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
    experiment_id = _experiment(client, name, artifact_location)

    def begun(title: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        run = client.create_run(experiment_id, run_name=title).info.run_id
        client.log_batch(
            run,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        return str(run)

    parent = begun(f"search {name}", params, {})

    def tell(number: int, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        run = begun(f"trial {number}", params, {MLFLOW_PARENT_RUN_ID: parent})
        client.log_batch(run, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
        client.set_terminated(run)
        client.log_batch(parent, metrics=[Metric(key, value, now, number) for key, value in metrics.items()])

    try:
        yield parent, tell
    except BaseException:
        client.set_terminated(parent, "FAILED")
        raise
    client.set_terminated(parent)


def _experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    """The id of an experiment, which is made if missing."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location))
