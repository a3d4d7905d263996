"""The command `feed`: send recorded or simulated readings to a pipeline's topic as a live stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.domain import Feed
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline


Source = Annotated[
    str, typer.Option("--from", metavar="DIR|FILE|URL|sim", help="Recordings, a camera's stream, or a simulation.")
]
Rate = Annotated[
    float | None,
    typer.Option(
        min=0, help="Rows per second [1000; of frames, the camera's rate]. 0: as fast as the broker accepts them."
    ),
]


def feed(
    context: typer.Context,
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE", help="Pipeline that receives the readings; `feed PIPELINE --help` lists its options."
        ),
    ],
    source: Source,
    rate: Rate = None,
    format: Annotated[str, typer.Option(help="json, or arrow: many rows per message.")] = "json",
    rows_per_message: Annotated[int, typer.Option(min=1, help="Maximum number of rows in an Arrow message.")] = 1000,
    camera: Annotated[str, typer.Option(help="Name of the camera.")] = "camera",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Total number of rows [a simulation may be endless].")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topic, if it is created.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Send readings to a pipeline's topic, which is created if it is missing."""
    from tocsin.pipelines.cli.console import out, progress, say_json, stop_requested
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.cli.domains import domain_of, options
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.declare.names import context_topic
    from tocsin.pipelines.runtime.engine.plan import fetch_model
    from tocsin.pipelines.runtime.kafka import clients
    from tocsin.pipelines.runtime.kafka.feeder import feed as send
    from tocsin.pipelines.runtime.kafka.topics import create_topic

    if format not in ("json", "arrow"):
        raise ConfigError(f"--format {format}: expected json or arrow; choose one of them")
    if rate is not None and not isfinite(rate):
        raise ConfigError(f"--rate {rate}: expected a finite number; choose one, or 0 for as fast as possible")
    settings = context.obj.settings()
    plan, declared = planned(settings, pipeline)
    model = fetch_model(settings.lake.open(), plan.model, plan.device).folder if plan.model else None
    domain_feed = domain_of(settings, pipeline).feed(source, seed=seed, rate=rate, model=model, **options(context))
    total = limit if domain_feed.total is None else min(limit or domain_feed.total, domain_feed.total)
    frames, pace = _stream(domain_feed, declared, rate, camera)
    if domain_feed.shots is not None:
        format = "jpeg"
    kafka = settings.kafka.client_options()
    with clients.admin(kafka) as admin:
        create_topic(admin, declared.topic, partitions)
        if domain_feed.announced:
            create_topic(admin, context_topic(declared.name), partitions)
    with stop_requested() as stop_event, progress() as bar, ExitStack() as stack:
        if domain_feed.announced:
            frames = stack.enter_context(announcing(frames, domain_feed.announced, declared, kafka, pace))
        task = bar.add_task(f"{declared.topic}", total=total)
        report = send(
            limited(frames, limit),
            kafka=kafka,
            topic=declared.topic,
            key=declared.key,
            rate=pace or None,
            format=cast(Literal["json", "arrow", "jpeg"], format),
            rows_per_message=rows_per_message,
            stop=stop_event,
            progress=lambda rows: bar.update(task, completed=rows),
        )
    if json:
        say_json({"topic": declared.topic, **asdict(report)})
    else:
        speed = report.rows / max(report.seconds, 1e-9)
        out.print(f"{report.rows:,} rows in {report.messages:,} messages to {declared.topic}, {speed:,.0f} rows/s")


def _stream(
    domain_feed: Feed, declared: Pipeline, rate: float | None, camera: str
) -> tuple[Iterator[pl.DataFrame], float]:
    """The tables to send, and the rows a second."""
    from tocsin.pipelines.runtime.formats.video import sent

    if domain_feed.shots is None:
        return _checked(domain_feed.tables, declared), 1000.0 if rate is None else rate
    frames = sent(
        domain_feed.shots,
        camera=camera,
        rate=domain_feed.rate,
        live=domain_feed.live,
        key=declared.key,
        views=domain_feed.views,
    )
    return frames, domain_feed.rate if rate is None else rate


def _checked(frames: Iterable[pl.DataFrame], declared: Pipeline) -> Iterator[pl.DataFrame]:
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    needed = [field.name for field in declared.schema if not field.nullable]
    for frame in frames:
        if missing := sorted(set(needed) - set(frame.columns)):
            raise ConfigError(
                f"pipeline {declared.name}: expected readings with {missing}, got {frame.columns}; choose another source"
            )
        yield frame


@contextmanager
def announcing(
    frames: Iterator[pl.DataFrame],
    announced: Callable[[], pl.DataFrame],
    declared: Pipeline,
    kafka: Mapping[str, Any],
    rate: float,
) -> Iterator[Iterator[pl.DataFrame]]:
    """The frames; before each one, the intervals that are announced are sent to the pipeline's context.

    Args:
        announced: see `Feed`.
        rate: rows a second, by which rows become times.

    Raises:
        ConfigError: the rate is 0, and intervals are in rows, whose times are not known then.
    """
    import orjson
    from kafka import KafkaProducer

    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.declare.names import context_topic
    from tocsin.pipelines.runtime.kafka.feeder import CONTENT_TYPE, DEFAULTS
    from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT

    options = {name: value for name, value in {**DEFAULTS, **kafka}.items() if name != CLIENT}
    topic, headers = context_topic(declared.name), [("content-type", CONTENT_TYPE["json"])]
    with KafkaProducer(**options) as producer:

        def sent() -> Iterator[pl.DataFrame]:
            start = datetime.now(UTC)

            def moment(at: datetime | float) -> datetime:
                if isinstance(at, datetime):
                    return at
                if not rate:
                    raise ConfigError("--rate 0: expected a rate, since plans are made in time, got none; choose one")
                return start + timedelta(seconds=at / rate)

            for frame in frames:
                for record in announced().iter_rows(named=True):
                    times = {name: moment(record[name]) for name in ("from", "to")}
                    known = {name: value for name, value in record.items() if value is not None}
                    producer.send(topic, orjson.dumps(known | times), record["asset"].encode(), headers)
                yield frame

        yield sent()


def limited(frames: Iterable[pl.DataFrame], limit: int | None) -> Iterator[pl.DataFrame]:
    """The frames, cut off after `limit` rows; None: all."""
    remaining = limit
    for frame in frames:
        if remaining is not None and frame.height >= remaining:
            yield frame.head(remaining)
            return
        remaining = remaining and remaining - frame.height
        yield frame
