"""The commands `promote` and `rollback`: which version of a model pipelines use, and which one they try in shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tocsin.models.promotion import Change

As = Annotated[
    Literal["champion", "challenger"],
    typer.Option("--as", help="champion: pipelines use it. challenger: they run it in shadow."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def promote(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A version, such as pumps/7; pumps alone: its challenger.")
    ],
    alias: As = "champion",
    json: Json = False,
) -> None:
    """Make a version of a model champion, which running pipelines use from their next checkpoint, or challenger."""
    from tocsin.models.promotion import promote as give

    _change(context, lambda uri: give(model, alias=alias, tracking_uri=uri), json=json)


def rollback(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    alias: As = "champion",
    json: Json = False,
) -> None:
    """Go back to the champion before this one; with `--as challenger`, end the challenger's shadow."""
    from tocsin.models.promotion import rollback as go_back

    _change(context, lambda uri: go_back(model, alias=alias, tracking_uri=uri), json=json)


def _change(context: typer.Context, change: Callable[[str], Change], *, json: bool) -> None:
    from dataclasses import asdict

    from tocsin.models.tracking_store import CHALLENGER
    from tocsin.pipelines.cli.console import note, out, say_json
    from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
    from tocsin.pipelines.runtime.telemetry.mlflow import answers

    settings = context.obj.settings()
    if not settings.mlflow.enabled:
        raise ConfigError("mlflow.enabled: expected a registry, got false; enable it, or name another model's folder")
    answers(settings.mlflow.tracking_uri)
    try:
        changed = change(settings.mlflow.tracking_uri)
    except ValueError as reason:
        raise ModelError(str(reason)) from reason
    if json:
        say_json(asdict(changed))
        return
    name, was = changed.name, f"; {changed.name}/{changed.previous} was" if changed.previous else ""
    if not changed.version:
        out.print(f"{name} has no {changed.alias} any more{was}")
    else:
        out.print(f"{name}/{changed.version} is {changed.alias}{was}")
    for figure, (old, new) in changed.figures.items():
        out.print(f"  {figure:<24}{old:>10.4g} -> {new:.4g}")
    what = "start or end its shadow" if changed.alias == CHALLENGER else "switch at their next checkpoint"
    note(f"pipelines that follow {name}@{changed.alias} see it within {settings.mlflow.follow} and {what}")
