"""How well a model predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.pipelines.cli.train import DecimalComma, check_domain

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.settings import Settings


def evaluate(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="rul, occupancy, surprise or touch.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="C-MAPSS files, CSV files of the model's columns, recordings of rooms, or clips with novelties.csv or "
            "touches.csv; of clips also sim, the test seeds.",
        ),
    ],
    subset: Annotated[str, typer.Option(help="Of C-MAPSS.")] = "FD001",
    model: Annotated[
        str | None, typer.Option(help="name@alias, name/version or a folder [the weights that come with Tocsin].")
    ] = None,
    hands: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT", help="Of touch, what finds hands in clips: MediaPipe's model file, none [finder]."
        ),
    ] = None,
    decimal_comma: DecimalComma = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Score a model on the last window of each C-MAPSS test engine, every window of CSV files, every minute of rooms, or clips."""
    from tocsin.pipelines.cli.console import out, say_json, working
    from tocsin.pipelines.cli.deployment import SHIPPED
    from tocsin.pipelines.runtime.telemetry.mlflow import resolve_model

    check_domain(domain)
    found = resolve_model(context.obj.settings().mlflow.tracking_uri, model) if model else None
    with working("judging"):
        if domain == "occupancy":
            from tocsin.models.occupancy.model import OFFICES
            from tocsin.pipelines.cli.occupancy import evaluate as judge

            shipped = OFFICES.name
            figures = judge(
                found[2] if found else OFFICES, found[1] if found else SHIPPED, data, decimal_comma=decimal_comma
            )
        elif domain == "surprise":
            from tocsin.models.surprise.model import SHIPPED as DIVES
            from tocsin.pipelines.cli.surprise import evaluate as watch

            shipped = DIVES.name
            figures = watch(
                found[2] if found else DIVES, found[1] if found else SHIPPED, data, decimal_comma=decimal_comma
            )
        elif domain == "touch":
            from tocsin.models.touch.model import SHIPPED as TABLE
            from tocsin.pipelines.cli.touch import evaluate as spot

            shipped = TABLE.name
            figures = spot(
                found[2] if found else TABLE,
                found[1] if found else SHIPPED,
                data,
                hands=hands,
                decimal_comma=decimal_comma,
            )
        else:
            from tocsin.models.rul.data import csv_files
            from tocsin.models.rul.evaluate import evaluate as score
            from tocsin.models.rul.model import FD001

            shipped = FD001.name
            figures = score(
                data=data,
                model=found[2] if found else FD001,
                subset=subset,
                csv=bool(csv_files(data)),
                decimal_comma=decimal_comma,
            )
    if model and found and not Path(model).is_dir():
        _record(context.obj.settings(), found, figures, data)
    if json:
        say_json({"model": model or f"shipped {shipped}", **figures})
        return
    rooms, clips = figures.pop("rooms", {}), figures.pop("clips", {})
    digits = 2 if domain == "rul" else 3
    for name, value in figures.items():
        out.print(f"{name:<20}{value:.{digits}f}" if isinstance(value, float) else f"{name:<20}{value}")
    for room, own in rooms.items():
        out.print(
            f"room {room}: " + ", ".join(f"{name} {own[name]:.3f}" for name in ("f1", "precision", "recall", "auroc"))
        )
    for clip, own in clips.items():
        out.print(f"{clip}: {_told(own)}")


def _record(settings: Settings, found: tuple[str, str, Path], figures: dict[str, Any], data: Path) -> None:
    """Have the figures in MLflow, beside the model's training; that it takes none ends nothing."""
    from mlflow.exceptions import MlflowException

    from tocsin.models.registry import scored
    from tocsin.pipelines.cli.console import note

    try:
        scored(*found[:2], figures, data=str(data), tracking_uri=settings.mlflow.tracking_uri)
    except MlflowException as reason:
        note(f"the figures are not recorded in MLflow: {str(reason).splitlines()[0]}")


def _told(clip: dict[str, Any]) -> str:
    """A clip's figures in a line."""
    if "touches" in clip:
        found = f"likeliest contact {clip['likeliest_contact']} and release {clip['likeliest_release']}"
        truth = ", ".join(f"{touch['contact']} to {touch['release']}" for touch in clip["touches"][:3])
        return f"{len(clip['touches'])} touches ({truth}), {len(clip['events'])} events rang, {found}"
    named = ", ".join(f"{name} {clip[name]:.2f}" for name in ("precision", "recall", "false_per_hour"))
    return f"{clip['novelties']} novelties, {named}"
