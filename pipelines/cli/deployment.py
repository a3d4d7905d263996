"""Makes a deployment from the settings: resolves the model and creates the topics."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tocsin.models.domain import SHIPPED
from tocsin.pipelines.cli.console import note
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.settings import Settings

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan
    from tocsin.pipelines.runtime.lake.storage import Lake

CHAMPION = "@champion"


def check_known(settings: Settings, name: str) -> None:
    """Refuse an undeclared pipeline before anything is started for it.

    Raises:
        ConfigError: the settings name no factory for it, and it does not come with Tocsin.
    """
    if name not in (known := known_pipelines(settings)):
        raise ConfigError(
            f"pipeline {name}: expected one of {', '.join(sorted(known))}, got another name; declare it by "
            f"pipelines.{name}.factory in the settings"
        )
    _note_if_renamed(name, settings.pipeline(name).factory)


def known_pipelines(settings: Settings) -> set[str]:
    """The pipelines that come with Tocsin, and those that the settings declare."""
    from tocsin import pipelines

    shipped = {file.stem for file in Path(pipelines.__path__[0]).glob("[a-z]*.py")} - {"query", "exports"}
    return shipped | {name for name, section in settings.pipelines.items() if section.factory}


@cache
def _note_if_renamed(name: str, factory: str) -> None:
    """Print a note, once, that a factory in the settings has been renamed."""
    if factory.startswith("pipelines."):
        from tocsin.pipelines.runtime.engine.plan import current

        if (renamed := current(factory)) != factory:
            note(f"pipelines.{name}.factory: {factory} was renamed to {renamed}; correct the settings")


def check_lasting(settings: Settings, folder: Path) -> None:
    """Refuse results and tracking in a folder of which a job has only a copy: Ray deletes the copy, and other machines have others.

    Raises:
        ConfigError: a setting names such a place.
    """
    places = {"lake.path": settings.lake.path}
    if settings.mlflow.enabled:
        places["mlflow.tracking_uri"] = settings.mlflow.tracking_uri.removeprefix("sqlite:///")
    for name, place in places.items():
        if Path(place).is_absolute() and Path(place).is_relative_to(folder):
            raise ConfigError(
                f"{name}: expected a place that every machine of the cluster reaches, got {place}, of which a job has only a copy; "
                f"name an address or a shared folder{', or set mlflow.enabled = false' if 'mlflow' in name else ''}"
            )


def planned(settings: Settings, name: str) -> tuple[Plan, Pipeline]:
    """Copy a pipeline's model into the lake, and make its plan and the pipeline itself, with its context as of now.

    Raises:
        ConfigError, ModelError: something that the settings name does not exist or does not fit.
    """
    check_known(settings, name)
    from tocsin.pipelines.runtime.control.context_watch import current_context

    section, lake = settings.pipeline(name), settings.lake.open()
    model = _model(settings, section.model, lake) if section.model else None
    context = current_context(lake, name) if section.context else ""
    return built(settings, name, model, lake, context=context)


def built(
    settings: Settings, name: str, model: ModelRef | None, lake: Lake, *, context: str = ""
) -> tuple[Plan, Pipeline]:
    """Make the plan and the pipeline with a model and a context that are already in the lake.

    Args:
        context: the path of its file; "": none.

    Raises:
        ConfigError, ModelError: something that the settings name does not fit.
    """
    from tocsin.pipelines.runtime.engine.plan import declared

    plan = replace(_plan(settings, name, model), context=context)
    return plan, declared(plan, lake)


@contextmanager
def scratch_lake() -> Iterator[Lake]:
    """A lake that is deleted at the end, with everything that the registry's client downloads meanwhile."""
    from tocsin.pipelines.runtime.lake.storage import Lake

    with tempfile.TemporaryDirectory(prefix="tocsin-scratch-") as folder:
        tempfile.tempdir = folder  # the client makes folders there, and nobody else would delete them
        try:
            yield Lake(folder)
        finally:
            tempfile.tempdir = None


def drafted(settings: Settings, name: str, scratch: Lake) -> Pipeline:
    """Make a pipeline as a start would, but in a scratch lake, so that nothing is written to the real one.

    Raises:
        ConfigError, ModelError: something that the settings name does not exist or does not fit.
    """
    check_known(settings, name)
    section = settings.pipeline(name)
    _, pipeline = built(settings, name, _model(settings, section.model, scratch) if section.model else None, scratch)
    return pipeline


def desired_deployment(settings: Settings, name: str) -> Deployment:
    """The deployment that the settings describe, with its model copied into the lake. Builds no pipeline and does not ask Kafka.

    Raises:
        ConfigError, ModelError: something that the settings name does not exist.
        Unavailable: the registry does not answer.
    """
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.control.placement import ScalingPolicy
    from tocsin.pipelines.runtime.declare.durations import milliseconds

    check_known(settings, name)
    section, lake = settings.pipeline(name), settings.lake.open()
    plan = _plan(settings, name, _model(settings, section.model, lake) if section.model else None)
    return Deployment(
        plan=plan,
        lake=lake,
        kafka=settings.kafka.client_options(),
        shards=section.shards,
        scaling=ScalingPolicy(
            *(min(n, section.shards) for n in (section.workers, section.max_workers or section.workers))
        ),
        start=section.start,
        on_gap=section.on_gap,
        env=settings.logs.environment(),
        resources=settings.ray.resources(),
        tracking=(settings.mlflow.tracking_uri, settings.mlflow.experiment) if settings.mlflow.enabled else None,
        params=plan.options,
        compact=(settings.lake.compact, settings.lake.vacuum),
        health=(settings.health.host, settings.health.port),
        sinks=settings.sinks_of(name),
        formats=settings.format_options(),
        traces=settings.traces.span_options(),
        follows=section.model if section.model and "@" in section.model else "",
        follow_s=milliseconds(settings.mlflow.follow) / 1000,
        shadow=section.shadow,
        assess_ms=milliseconds(section.assess),
        assess_last_ms=milliseconds(section.assess_last),
    )


def deployed(settings: Settings, name: str, *, create_input: int = 0) -> Deployment:
    """A deployment that is ready for a supervisor. Creates the alert, dead-letter and journal topics.

    Args:
        create_input: partitions of the input topic if it is to be created, too; 0: it must exist.
    """
    from tocsin.pipelines.runtime.control.deployment import provisioned

    return provisioned(desired_deployment(settings, name), **tables(settings, name), create_input=create_input)


def tables(settings: Settings, name: str) -> dict[str, bool]:
    """Which tables are written beside a pipeline's results; see `provisioned`."""
    section = settings.pipeline(name)
    return {"alerts": settings.lake.alerts, "labels": section.labels, "context": section.context}


def _plan(settings: Settings, name: str, model: ModelRef | None) -> Plan:
    from tocsin.pipelines.runtime.engine.plan import Plan

    section = settings.pipeline(name)
    return Plan(section.factory, {"name": name, **section.options}, model, section.device)


def resolved(settings: Settings, requested: str) -> tuple[str, str, Path]:
    """A model's name, version and folder. If none is trained yet: the weights that come with Tocsin, of version `SHIPPED`.

    Raises:
        ModelError: there is no such model.
        Unavailable: the registry does not answer.
    """
    from tocsin.models.tracking_store import missing
    from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

    try:
        if not settings.mlflow.enabled or missing(settings.mlflow.tracking_uri):
            raise ModelError(f"model {requested}: expected a registry, got none; train a model, or name a folder")
        return resolve_model(settings.mlflow.tracking_uri, requested)
    except ModelError:
        if Path(requested).is_dir():
            return resolve_model("", requested)
        if not (folder := shipped(requested)):
            raise
        return requested.removesuffix(CHAMPION), SHIPPED, folder


def shipped(requested: str) -> Path | None:
    """The weights that come with Tocsin for a champion. They are found by name, because their module would import torch."""
    from tocsin import models

    folder = Path(models.__path__[0], requested.removesuffix(CHAMPION), "weights")
    if not requested.endswith(CHAMPION) or not (champion_file := folder / "champion.json").is_file():
        return None
    return folder / json.loads(champion_file.read_text())["folder"]


def _model(settings: Settings, requested: str, lake: Lake) -> ModelRef:
    """Copy the model's files into the lake."""
    from tocsin.pipelines.runtime.engine.plan import store_model

    name, version, folder = resolved(settings, requested)
    if version == SHIPPED:
        note(f"model {requested}: not in the registry yet; using the weights shipped with Tocsin ({folder.name})")
    return store_model(lake, folder, name=name, version=version)
