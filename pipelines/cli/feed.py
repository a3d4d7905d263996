"""Readings sent to a pipeline's topic as a live stream: recorded ones, or those of a simulated fleet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from tocsin.pipelines.cli.train import DecimalComma

if TYPE_CHECKING:
    import polars as pl

    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.plan import Plan
    from tocsin.pipelines.runtime.settings import Settings

ROWS = 1000
"""Rows handed to the feeder at once."""


def feed(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Such as rul.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="DIR|FILE|URL|sim",
            help="Recordings, a camera's stream, or a simulated fleet, building, dive or table.",
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(help="Rows a second [1000, of frames 10 or 30]; 0: as fast as the broker takes them."),
    ] = None,
    format: Annotated[str, typer.Option(help="json, or arrow with many rows a message.")] = "json",
    rows_per_message: Annotated[int, typer.Option(help="At most, in an Arrow message.")] = 1000,
    subset: Annotated[str, typer.Option(help="Of C-MAPSS.")] = "FD001",
    split: Annotated[str, typer.Option(help="Of C-MAPSS: train (to failure) or test (cut off before).")] = "train",
    engines: Annotated[int, typer.Option(help="In the simulated fleet.")] = 100,
    rooms: Annotated[int, typer.Option(help="In the simulated building.")] = 8,
    camera: Annotated[str, typer.Option(help="Whose frames they are.")] = "camera",
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    limit: Annotated[
        int | None,
        typer.Option(help="Rows in all; without it, the simulated fleet flies on, and a building ends after 14 days."),
    ] = None,
    partitions: Annotated[int, typer.Option(help="Of the topic, if it is to be made.")] = 4,
    decimal_comma: DecimalComma = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Send readings to a pipeline's topic, which is made if it is missing."""
    from tocsin.pipelines.cli import occupancy, surprise, touch
    from tocsin.pipelines.cli.console import out, progress, say_json, until_told
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.kafka import clients
    from tocsin.pipelines.runtime.kafka.feeder import feed as send
    from tocsin.pipelines.runtime.kafka.topics import create_topic

    if format not in ("json", "arrow"):
        raise ConfigError(f"--format {format}: expected json or arrow; choose one of them")
    settings = context.obj.settings()
    plan, declared = planned(settings, pipeline)
    total: int | None = limit
    frames: Iterable[pl.DataFrame]
    if plan.factory == surprise.FACTORY:
        format, rate = "jpeg", surprise.RATE if rate is None else rate
        frames = surprise.frames(source, camera=camera, rate=rate or surprise.RATE, seed=seed)
    elif plan.factory == touch.FACTORY:
        format, rate = "jpeg", touch.RATE if rate is None else rate
        frames = touch.frames(source, camera=camera, seed=seed)
    elif plan.factory == occupancy.FACTORY:
        frames, known = occupancy.frames(source, rooms=rooms, seed=seed, decimal_comma=decimal_comma)
        total = min(limit or known, known)
    elif source == "sim":
        frames = fleet(engines, seed)
    else:
        table = recorded(Path(source), settings, plan, subset=subset, split=split, decimal_comma=decimal_comma)
        frames, total = table.iter_slices(ROWS), min(limit or table.height, table.height)
    kafka = settings.kafka.client_options()
    with clients.admin(kafka) as admin:
        create_topic(admin, declared.topic, partitions)
    with until_told() as told, progress() as shown:
        task = shown.add_task(f"{declared.topic}", total=total)
        report = send(
            limited(frames if format == "jpeg" else _checked(frames, declared), limit),
            kafka=kafka,
            topic=declared.topic,
            key=declared.key,
            rate=(1000 if rate is None else rate) or None,
            format=cast(Literal["json", "arrow", "jpeg"], format),
            rows_per_message=rows_per_message,
            stop=told,
            progress=lambda rows: shown.update(task, completed=rows),
        )
    if json:
        say_json({"topic": declared.topic, **asdict(report)})
    else:
        speed = report.rows / max(report.seconds, 1e-9)
        out.print(f"{report.rows:,} rows in {report.messages:,} messages to {declared.topic}, {speed:,.0f} rows/s")


def fleet(engines: int, seed: int) -> Iterator[pl.DataFrame]:
    """A simulated fleet's readings, cycle after cycle without end; the true remaining life stays here."""
    from tocsin.models.rul.simulation.fleet import live

    return (frame.drop("rul") for frame in live(engines=engines, seed=seed))


def recorded(
    folder: Path, settings: Settings, plan: Plan, *, subset: str, split: str, decimal_comma: bool = False
) -> pl.DataFrame:
    """C-MAPSS or CSV files as a stream would have brought them: all assets at once, row by row.

    Raises:
        FileNotFoundError, ValueError: as the readers do.
    """
    from tocsin.models.rul.config import RulConfig
    from tocsin.models.rul.data import csv_files, read_cmapss, read_csv_directory
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.engine.plan import fetch_model

    if not csv_files(folder):
        return read_cmapss(folder, subset, split).sort("cycle", "unit")
    if plan.model is None:
        raise ConfigError(f"--from {folder}: expected a model whose config names the columns of CSV files, got none")
    config = RulConfig.load(fetch_model(settings.lake.open(), plan.model, plan.device).folder)
    return read_csv_directory(folder, config, decimal_comma=decimal_comma).sort(config.order, config.key)


def _checked(frames: Iterable[pl.DataFrame], declared: Pipeline) -> Iterator[pl.DataFrame]:
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    needed = [field.name for field in declared.schema if not field.nullable]
    for frame in frames:
        if missing := sorted(set(needed) - set(frame.columns)):
            raise ConfigError(
                f"pipeline {declared.name}: expected readings with {missing}, got {frame.columns}; feed others"
            )
        yield frame


def limited(frames: Iterable[pl.DataFrame], limit: int | None) -> Iterator[pl.DataFrame]:
    """At most so many rows."""
    left = limit
    for frame in frames:
        if left is not None and frame.height >= left:
            yield frame.head(left)
            return
        left = left and left - frame.height
        yield frame
