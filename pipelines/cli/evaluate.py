"""The command `evaluate`: score a model on recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from tocsin.pipelines.runtime.settings import Settings

FOREIGN = 3
"""The exit status where the recordings are foreign to the model."""


def evaluate(
    context: typer.Context,
    domain: Annotated[
        str,
        typer.Argument(
            metavar="DOMAIN", help="Pipeline whose model is scored; `evaluate DOMAIN --help` lists its options."
        ),
    ],
    data: Annotated[
        str, typer.Option(metavar="DIR|sim", help="Recordings with their ground truth, or simulated ones.")
    ],
    model: Annotated[
        str | None, typer.Option(help="name@alias, name/version or a folder [the weights shipped with Tocsin].")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Exit with 0 even if the recordings are foreign to the model.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Score a model on recordings whose truth is known. Exits with 3 if they are unlike those that it was trained on."""
    from tocsin.models.domain import SHIPPED
    from tocsin.pipelines.cli.console import fail, out, say_json, working
    from tocsin.pipelines.cli.deployment import CHAMPION, shipped
    from tocsin.pipelines.cli.domains import domain_of, options
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

    settings = context.obj.settings()
    evaluator = domain_of(settings, domain)
    registered = resolve_model(settings.mlflow.tracking_uri, model) if model else None
    if registered:
        folder, version = registered[2], registered[1]
    elif shipped_folder := shipped(f"{domain}{CHAMPION}"):
        folder, version = shipped_folder, SHIPPED
    else:
        raise ConfigError(
            f"--model: expected a model, got none, and none is shipped for {domain}; name one, such as {domain}{CHAMPION}"
        )
    with working("scoring"):
        evaluation = evaluator.evaluate(folder, version, data, **options(context))
    if model and registered and not Path(model).is_dir():
        _record(settings, registered, {**evaluation.figures, **evaluation.parts}, data)
    if json:
        say_json({"model": model or f"shipped {folder.name}", **evaluation.figures, **evaluation.parts})
    else:
        for name, value in evaluation.figures.items():
            out.print(f"{name:<20}{value:.{evaluator.digits}f}" if isinstance(value, float) else f"{name:<20}{value}")
        for line in evaluation.lines:
            out.print(line)
    if evaluation.doubt and not force:
        fail(ConfigError(evaluation.doubt))
        raise typer.Exit(FOREIGN)


def _record(settings: Settings, registered: tuple[str, str, Path], figures: Mapping[str, Any], data: str) -> None:
    """Record the figures in MLflow, beside the model's training. If MLflow refuses, the command only prints a note."""
    from tocsin.models.registry import scored
    from tocsin.pipelines.cli.console import note

    try:
        scored(*registered[:2], dict(figures), data=data, tracking_uri=settings.mlflow.tracking_uri)
    except Exception as reason:  # of MLflow or its database
        note(f"the figures are not recorded in MLflow: {(str(reason) or type(reason).__name__).splitlines()[0]}")
