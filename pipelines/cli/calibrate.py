"""The command `calibrate`: adapt a pipeline to one asset by a few days of its truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import polars as pl

    from tocsin.pipelines.runtime.lake.storage import Lake


def calibrate(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Pipeline that has judged the asset.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The asset, such as a room.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV file with a time and the truth [the pipeline's table of labels]."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Choose an asset's own settings by a few days of truth, and print the lines for tocsin.toml.

    Each labelled day is judged by settings that were chosen on the others. Without a gain, nothing is printed to change.
    """
    from tocsin.pipelines.cli.console import out, say_json
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.cli.domains import domain_of
    from tocsin.pipelines.query import results
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.engine.plan import fetch_model

    settings = context.obj.settings()
    lake = settings.lake.open()
    domain, (plan, declared) = domain_of(settings, pipeline), planned(settings, pipeline)
    rows = _of(results(declared.name, lake=lake), key)
    if not len(rows):
        raise ConfigError(
            f"results of {declared.name}: expected rows of {key}, got none; has the pipeline read its readings?"
        )
    truth = _labels(lake, declared.name, key) if labels is None else labels
    folder = fetch_model(lake, plan.model, plan.device).folder if plan.model else Path()
    try:
        found = domain.calibrate(folder, plan.options, key, rows, truth)
    except (ValueError, FileNotFoundError) as reason:
        raise ConfigError(f"{declared.name} {key}: {reason}") from reason
    if json:
        say_json({"pipeline": declared.name, "key": key, **found.figures, "section": "\n".join(found.section) or None})
        return
    for line in found.lines:
        out.print(line)
    if found.section:
        out.print(f"add to tocsin.toml, and run `tocsin reload {pipeline}`:\n")
        for line in found.section:
            out.print(line)


def _of(table: pl.LazyFrame, key: str) -> pl.DataFrame:
    """The rows of one asset, by event time."""
    import polars as pl

    return table.filter(pl.col("key") == key).collect().sort("event_time")


def _labels(lake: Lake, pipeline: str, key: str) -> pl.DataFrame:
    """An asset's labels in the lake."""
    from tocsin.pipelines.query import results
    from tocsin.pipelines.runtime.declare import names
    from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable

    try:
        rows = _of(results(names.label_topic(pipeline), lake=lake), key)
    except Unavailable as reason:
        raise ConfigError(f"--labels: expected a file, or a table of labels, got neither: {reason}") from reason
    if not len(rows):
        raise ConfigError(
            f"labels of {pipeline}: expected some of {key}, got none; send them, or name a file: --labels FILE"
        )
    return rows
