"""The command `evaluate`: score a model on recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from tocsin.models.domain import Report
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
        figures = {**evaluation.counted, "in_domain": evaluation.in_domain, **evaluation.figures}
        _record(settings, registered, figures, data)
    report = evaluation.report(pipeline=domain, model=model or f"shipped {folder.name}", version=version, data=data)
    if json:
        say_json(report)
    else:
        for line in [*table(report, evaluator.digits), *evaluation.lines]:
            out.print(line)
    if evaluation.doubt and not force:
        fail(ConfigError(evaluation.doubt))
        raise typer.Exit(FOREIGN)


def table(report: Report, digits: int) -> list[str]:
    """A report as lines of text: figures with the baselines beside them, what was judged, and what was left out."""
    from tocsin.models.domain import shown

    figures, baselines = report["figures"], report["baselines"]
    columns = {"": list(figures)} | {
        name: [shown(values[figure], digits) if figure in values else "" for figure in figures]
        for name, values in {"model": figures, **baselines}.items()
    }
    widths = [max(len(cell) for cell in (name, *cells)) for name, cells in columns.items()]
    lines = list[str]()
    for name, *cells in [*([tuple(columns)] if baselines else []), *zip(*columns.values(), strict=True)]:
        aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *aligned]).rstrip())
    if report["counted"]:
        lines.append("judged: " + ", ".join(f"{count:,.0f} {unit}" for unit, count in report["counted"].items()))
    lines += [f"left out: {count:,} {reason}" for reason, count in report["left_out"].items()]
    if (share := report["in_domain"]) is not None:
        lines.append(f"like the training data: {share:.0%}")
    return lines


def _record(settings: Settings, registered: tuple[str, str, Path], figures: Mapping[str, Any], data: str) -> None:
    """Record the figures in MLflow, beside the model's training. If MLflow refuses, the command only prints a note."""
    from tocsin.models.registry import scored
    from tocsin.pipelines.cli.console import note

    try:
        scored(*registered[:2], dict(figures), data=data, tracking_uri=settings.mlflow.tracking_uri)
    except Exception as reason:  # of MLflow or its database
        note(f"the figures are not recorded in MLflow: {(str(reason) or type(reason).__name__).splitlines()[0]}")
