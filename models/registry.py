"""A trained model in MLflow: its run, its files, and the alias that deployments follow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tocsin.models.folders import listed
from tocsin.models.promotion import give
from tocsin.models.tracking_store import CHAMPION, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel

    from tocsin.models.served import Served

TOCSIN = metadata.version("tocsin")
NEEDED = ("numpy", "opencv-python-headless", "pandas", "polars", "safetensors", "torch")
"""Packages that a model needs besides Tocsin and MLflow."""


@dataclass(frozen=True)
class Attempt:
    """One seed of a training.

    Args:
        metrics: name, value and step of each figure.
    """

    seed: int
    metrics: Sequence[tuple[str, float, int]]


class Curve:
    """The loss curve of a training run, as metrics."""

    def __init__(self) -> None:
        self._losses = list[tuple[int, float]]()

    def add(self, step: int, loss: float) -> None:
        """Record the loss of a step."""
        self._losses.append((step, loss))

    def end(self, figures: Mapping[str, float], prefix: str = "validation_") -> list[tuple[str, float, int]]:
        """Return about 200 points of the loss by step, and the model's scores at the last step.

        Args:
            prefix: before the names of `figures`. A figure that is not a finite number is skipped.
        """
        losses, every = self._losses, max(1, len(self._losses) // 200)
        points = [("loss", loss, step) for step, loss in dict.fromkeys((*losses[::every], *losses[-1:]))]
        last = losses[-1][0] if losses else 0
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        return points + [(prefix + name, value, last) for name, value in numbers.items() if math.isfinite(value)]


def register(
    directory: Path,
    *,
    name: str,
    domain: str,
    params: Mapping[str, object],
    metrics: Iterable[tuple[str, float, int]],
    tracking_uri: str,
    data: Sequence[str] = (),
    attempts: Sequence[Attempt] = (),
    artifact_location: str | None = None,
    alias: str = CHAMPION,
    loader: str = "",
) -> str:
    """Record a training run and register its model, as champion, as challenger or as one more version.

    The result is an MLflow model: it has a signature and an input example, and `mlflow.pyfunc.load_model` loads it where Tocsin
    is installed. Its weights and config stay safetensors and JSON.

    Args:
        directory: where the model was saved.
        name: of the experiment and of the registered model.
        domain: name of the domain, which becomes the model's tag.
        params: of the run.
        metrics: name, value and step of each figure of the model that is kept.
        tracking_uri: of the MLflow server or store.
        data: folders that the model was trained on, or the names of simulations.
        attempts: all seeds, kept or not; each gets a child run.
        artifact_location: of the experiment's files, used if the experiment does not exist yet; None leaves it to MLflow.
        alias: of the version; "": none.
        loader: the module whose `_load_pyfunc(folder)` returns the object that MLflow calls, see `tocsin.models.served`. The
            default is the module of a domain that comes with Tocsin.

    Returns:
        The model's version.
    """
    client = connect(tracking_uri)
    note = f"{domain} model, trained by Tocsin {TOCSIN} on {', '.join(data) or 'unnamed data'}."
    tags = {"tocsin.domain": domain, "tocsin.version": TOCSIN}
    runs = _Runs(client, _experiment_id(client, name, artifact_location), domain, data, tags)
    texts = {key: str(value) for key, value in params.items()}
    run = runs.begin(f"train {name}", texts, {"mlflow.note.content": note})
    try:
        runs.log_attempts(run, texts, attempts)
        model = runs.log_model(run, name, directory, texts, loader or f"tocsin.models.{domain}.pyfunc")
        _log_metrics(client, run, metrics, model.model_id)
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)
    version = _create_version(client, name, model, run, {**tags, "seed": texts.get("seed", "")}, note)
    if alias:
        give(client, name, version, alias)
    return version


@dataclass(frozen=True)
class _Runs:
    """The MLflow runs of one training."""

    client: MlflowClient
    experiment: str
    domain: str
    data: Sequence[str]
    tags: Mapping[str, str]

    def begin(self, title: str, params: Mapping[str, str], more: Mapping[str, str]) -> str:
        """Begin a run. Returns its id."""
        from mlflow.entities import Param

        source = {"mlflow.source.name": f"tocsin train {self.domain}", "mlflow.source.type": "LOCAL"}
        created = self.client.create_run(self.experiment, tags={**source, **self.tags, **more}, run_name=title)
        run = str(created.info.run_id)
        self.client.log_batch(run, params=[Param(key, value) for key, value in params.items()])
        self.client.log_inputs(run, [_dataset(source) for source in self.data])
        return run

    def log_attempts(self, parent: str, params: Mapping[str, str], attempts: Sequence[Attempt]) -> None:
        """Record each seed as a child run."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        for attempt in attempts:
            is_best = str(attempt.seed) == params.get("seed")
            tags = {MLFLOW_PARENT_RUN_ID: parent, "tocsin.kept": str(is_best).lower()}
            run = self.begin(f"seed {attempt.seed}", {**params, "seed": str(attempt.seed)}, tags)
            _log_metrics(self.client, run, attempt.metrics)
            self.client.set_terminated(run)

    def log_model(self, run: str, name: str, directory: Path, params: Mapping[str, str], loader: str) -> LoggedModel:
        """Log a model's files as an MLflow model."""
        from mlflow.entities import LoggedModelOutput

        model = self.client.create_logged_model(
            self.experiment, name, run, dict(self.tags), dict(params), model_type=self.domain
        )
        with TemporaryDirectory() as folder:
            _describe(directory, Path(folder), self.domain, loader, run=run, model_id=model.model_id)
            self.client.log_model_artifacts(model.model_id, folder)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        return model


def _create_version(
    client: MlflowClient, name: str, model: LoggedModel, run: str, tags: Mapping[str, str], note: str
) -> str:
    """Register a logged model as a new version. Returns it."""
    from mlflow.exceptions import MlflowException

    domain = tags["tocsin.domain"]
    description = f"A {domain} model of Tocsin; {name}@{CHAMPION} is what deployments follow."
    with contextlib.suppress(MlflowException):  # it exists already
        client.create_registered_model(name, {n: v for n, v in tags.items() if n != "seed"}, description)
    created = client.create_model_version(
        name, model.artifact_location, run, dict(tags), None, note, model_id=model.model_id
    )
    return str(created.version)


def scored(name: str, version: str, figures: Mapping[str, object], *, data: str, tracking_uri: str) -> None:
    """Record a registered model's scores, as `test_...`, in the run that trained it; do nothing if it has no run.

    Args:
        figures: only finite numbers are recorded.
        data: the folder or simulation that it was scored on.
    """
    from mlflow.entities import Metric

    client = connect(tracking_uri)
    found = client.get_model_version(name, version)
    if not found.run_id:
        return
    dataset = _dataset(data, "evaluation")
    client.log_inputs(found.run_id, [dataset])
    outputs = client.get_run(found.run_id).outputs
    model_id = (
        outputs.model_outputs[0].model_id if outputs and outputs.model_outputs else None
    )  # older training runs have none
    now, links = int(time.time() * 1000), (model_id, dataset.dataset.name, dataset.dataset.digest)
    numbers = {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
    metrics = [Metric(f"test_{key}", value, now, 0, *links) for key, value in numbers.items() if math.isfinite(value)]
    client.log_batch(found.run_id, metrics=metrics)


def _describe(source: Path, folder: Path, domain: str, loader: str, *, run: str, model_id: str) -> None:
    """Write an MLflow model into `folder`: a trained model's files, and how to load and call them."""
    import mlflow
    from mlflow import pyfunc
    from mlflow.models import Model, infer_signature
    from mlflow.models.utils import _save_example

    for file in listed(source, ".json", ".safetensors"):
        shutil.copy(file, folder / file.name)
    served: Served = importlib.import_module(loader)._load_pyfunc(str(folder))
    example = served.example()
    model = Model(
        run_id=run,
        model_id=model_id,
        signature=infer_signature(example, served.predict(example)),
        metadata={"tocsin_version": TOCSIN, "domain": domain},
    )
    _save_example(model, example, str(folder))
    needed = {"mlflow": mlflow.__version__, **{name: metadata.version(name) for name in NEEDED}}
    (folder / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in needed.items()))
    python = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(python) + "\n")  # JSON is valid YAML
    pyfunc.add_to_model(model, loader_module=loader, python_env="python_env.yaml")
    model.model_size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    model.save(str(folder / "MLmodel"))


def _log_metrics(
    client: MlflowClient, run: str, metrics: Iterable[tuple[str, float, int]], model_id: str | None = None
) -> None:
    """Log figures in batches of the most that MLflow accepts per call."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    figures = [Metric(figure, value, now, step, model_id) for figure, value, step in metrics]
    for start in range(0, len(figures), 1000):
        client.log_batch(run, metrics=figures[start : start + 1000])


def _dataset(source: str, context: str = "training") -> DatasetInput:
    """Describe training or test data for MLflow: a folder by the contents of its files, a simulation by its name."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest, size, files = hashlib.sha256(source.encode()), 0, list[Path]()
    if (folder := Path(source)).is_dir():
        digest, files = hashlib.sha256(), sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    for file in files:
        size += (length := file.stat().st_size)
        with file.open("rb") as content:  # only the beginning: clips are large, and their beginnings differ
            digest.update(f"{file.relative_to(folder)} {length} ".encode() + content.read(1 << 20))
    uri = folder.absolute().as_uri() if files else f"tocsin:{source}"
    profile = json.dumps({"num_files": len(files), "num_bytes": size}) if files else None
    kind, name = ("local" if files else "code"), (folder.name if files else source) or source
    dataset = Dataset(name, digest.hexdigest()[:32], kind, json.dumps({"uri": uri}), None, profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def champion(name: str, *, tracking_uri: str) -> tuple[str, Path] | None:
    """The champion, as `name/version`, and a local folder with its files; None if there is no champion.

    If the champion's files are gone, the folder does not exist.

    Raises:
        MlflowException: the registry does not answer.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    try:
        version = client.get_model_version_by_alias(name, CHAMPION).version
    except MlflowException as reason:
        if reason.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            return None
        raise
    files = client.get_model_version_download_uri(name, version)
    try:
        return f"{name}/{version}", Path(download_artifacts(artifact_uri=files, tracking_uri=tracking_uri))
    except (MlflowException, OSError):
        return f"{name}/{version}", Path(files)


@contextlib.contextmanager
def searching(
    name: str, params: Mapping[str, object], *, tracking_uri: str, artifact_location: str | None = None
) -> Iterator[tuple[str, Callable[[int, Mapping[str, object], Mapping[str, float]], None]]]:
    """Open a run for a search; each trial gets a child run when it is recorded.

    Args:
        name: of the experiment, as in `register`.
        params: of the search's run.
        tracking_uri, artifact_location: as in `register`.

    Yields:
        The run's id, and a function that records a trial: its number, its params and its metrics. The search's own run gets the
        metrics too, with the number as their step. If the search raises, its run ends as FAILED and keeps the trials so far.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    client = connect(tracking_uri)
    experiment_id = _experiment_id(client, name, artifact_location)

    def start_run(title: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        run = client.create_run(experiment_id, run_name=title).info.run_id
        client.log_batch(
            run,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        return str(run)

    parent = start_run(f"search {name}", params, {})

    def record(number: int, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        run = start_run(f"trial {number}", params, {MLFLOW_PARENT_RUN_ID: parent})
        client.log_batch(run, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
        client.set_terminated(run)
        client.log_batch(parent, metrics=[Metric(key, value, now, number) for key, value in metrics.items()])

    try:
        yield parent, record
    except BaseException:
        client.set_terminated(parent, "FAILED")
        raise
    client.set_terminated(parent)


def _experiment_id(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    """The id of an experiment, which is created if missing."""
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name, artifact_location))
