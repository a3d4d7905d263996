"""How well a model predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.deployment import SHIPPED
from pipelines.cli.train import check_domain


def evaluate(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="rul or occupancy.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="C-MAPSS files, CSV files of the model's columns, recordings of rooms."),
    ],
    subset: Annotated[str, typer.Option(help="Of C-MAPSS.")] = "FD001",
    model: Annotated[
        str | None, typer.Option(help="name@alias, name/version or a folder [the weights that come with Tocsin].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Score a model on the last window of each C-MAPSS test engine, on every window of CSV files, or on every minute of rooms."""
    from pipelines.cli.console import out, say_json, working
    from pipelines.runtime.tracking import resolve_model

    check_domain(domain)
    found = resolve_model(context.obj.settings().mlflow.tracking_uri, model) if model else None
    with working("judging"):
        if domain == "occupancy":
            from models.occupancy.model import OFFICES
            from pipelines.cli.occupancy import evaluate as judge

            shipped = "offices"
            figures = judge(found[2] if found else OFFICES, found[1] if found else SHIPPED, data)
        else:
            from models.rul.evaluate import evaluate as score
            from models.rul.model import FD001

            shipped = "FD001"
            figures = score(data=data, model=found[2] if found else FD001, subset=subset, csv=any(data.glob("*.csv")))
    if json:
        say_json({"model": model or f"shipped {shipped}", **figures})
        return
    rooms = figures.pop("rooms", {})
    digits = 3 if domain == "occupancy" else 2
    for name, value in figures.items():
        out.print(f"{name:<20}{value:.{digits}f}" if isinstance(value, float) else f"{name:<20}{value}")
    for room, own in rooms.items():
        out.print(
            f"room {room}: " + ", ".join(f"{name} {own[name]:.3f}" for name in ("f1", "precision", "recall", "auroc"))
        )
