"""How well a model predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.train import check_domain


def evaluate(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="rul.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="C-MAPSS files, or CSV files of the model's columns.")],
    subset: Annotated[str, typer.Option(help="Of C-MAPSS.")] = "FD001",
    model: Annotated[
        str | None, typer.Option(help="name@alias, name/version or a folder [the weights that come with Tocsin].")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Score a model on the last window of each C-MAPSS test engine, or on every window of CSV files."""
    from models.rul.evaluate import evaluate as score
    from models.rul.model import FD001
    from pipelines.cli.console import out, say_json, working
    from pipelines.runtime.tracking import resolve_model

    check_domain(domain)
    folder = resolve_model(context.obj.settings().mlflow.tracking_uri, model)[2] if model else FD001
    with working("judging"):
        figures = score(data=data, model=folder, subset=subset, csv=any(data.glob("*.csv")))
    if json:
        say_json({"model": model or "shipped FD001", **figures})
        return
    for name, value in figures.items():
        out.print(f"{name:<20}{value:.2f}" if isinstance(value, float) else f"{name:<20}{value}")
