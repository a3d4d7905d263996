"""The command `dlq`: list and show dead letters, and replay their records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from heapq import nlargest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.pipelines.cli.plain import App
from tocsin.pipelines.cli.times import moment

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.kafka.redelivery import PublishedDeadLetter
    from tocsin.pipelines.runtime.settings import Settings

app = App(
    help="Dead letters, records that could not be processed: list them with the reason, show one, or replay them.",
    no_args_is_help=True,
)
SUFFIX = ".dlq"
Of = Annotated[str, typer.Argument(metavar="PIPELINE|TOPIC", help="A pipeline, or its input topic.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per line.")]
Stage = Annotated[str | None, typer.Option(help="Stage that rejected the record, such as decode or sorted.")]
Error = Annotated[str | None, typer.Option(help="Error class, such as BadValue or TooLate.")]
Partition = Annotated[int | None, typer.Option(help="Partition of the input topic.")]
Key = Annotated[str | None, typer.Option(help="The record's key, as text.")]
Since = Annotated[
    str | None, typer.Option(help="Start time: an age such as 2h, or a time such as 2026-01-31T12:00:00Z.")
]
Until = Annotated[str | None, typer.Option(help="End time, exclusive, in the same form.")]


@app.callback()
def dlq() -> None:
    """Dead letters: records that could not be processed, and why."""


@app.command(name="list")
def list_dead_letters(
    context: typer.Context,
    of: Annotated[
        str | None, typer.Argument(metavar="PIPELINE|TOPIC", help="Pipeline or input topic; without it, all.")
    ] = None,
    stage: Stage = None,
    error: Error = None,
    partition: Partition = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="Number of letters, the newest ones.")] = 20,
    json: Json = False,
) -> None:
    """List dead letters: where each record was read, which stage rejected it, and why."""
    from rich.table import Table

    from tocsin.pipelines.cli.console import out, plain, say_json
    from tocsin.pipelines.runtime.kafka.redelivery import read_dead_letters

    settings, matches = context.obj.settings(), _filter(stage, error, partition, key, since, until)
    topics = _topics(settings, of)
    numbered = enumerate(filter(matches, read_dead_letters(settings.kafka.client_options(), *topics)))
    newest = nlargest(limit, numbered, key=lambda entry: (entry[1].at, entry[0]))  # at equal times, the one read last
    if json:
        for _, entry in reversed(newest):
            say_json(_facts(entry))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("record", "stage", "error", "message", "bytes", "replays"):
        table.add_column(name, justify="right" if name in ("bytes", "replays") else "left", overflow="fold")
    for _, entry in reversed(newest):
        dead_letter = entry.dead_letter
        cells = map(plain, (_place(entry), dead_letter.stage, dead_letter.error, dead_letter.message))
        table.add_row(*cells, f"{dead_letter.size:,}", str(entry.replays or ""))
    out.print(table if newest else "no dead letters")


@app.command()
def show(
    context: typer.Context,
    of: Of,
    record: Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="As `list` names it, such as 3@1042.")],
    raw: Annotated[bool, typer.Option("--raw", help="The original value, byte for byte, and nothing else.")] = False,
    json: Json = False,
) -> None:
    """Show one record's dead letters: the reason, and the original as it was read, even if it is stored in the lake."""
    import sys
    from base64 import b64encode

    from tocsin.pipelines.cli.console import out, plain, say_json
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.kafka.dead_letters import OriginalStore, load_original, readable
    from tocsin.pipelines.runtime.kafka.redelivery import read_dead_letters

    settings = context.obj.settings()
    position, (topic,) = _record(record), _topics(settings, of)
    lake = settings.lake.open()
    found = [
        entry
        for entry in read_dead_letters(settings.kafka.client_options(), topic)
        if (entry.dead_letter.partition, entry.dead_letter.offset) == position
    ]
    if not found:
        raise ConfigError(f"{topic}: expected a dead letter of {record}, got none; see `tocsin dlq list {of}`")
    store = OriginalStore(lake.files, "", lake.place())
    for entry in found[:1] if raw else found:
        original = load_original(entry.dead_letter, store)
        value = original.value or b""
        if raw:
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
            return
        headers = {name: (content or b"").decode("utf-8", "replace") for name, content in original.headers}
        if json:
            say_json({**_facts(entry), "headers": headers, "value_base64": b64encode(value).decode()})
            continue
        out.print(plain(f"{_place(entry)}  {entry.dead_letter.stage}  {entry.dead_letter.error}"), style="bold")
        out.print(plain(entry.dead_letter.message), soft_wrap=True)
        for name, content in headers.items():
            out.print(plain(f"{name}: {content}"), style="dim", soft_wrap=True)
        for line in readable(value).split("\n"):
            out.print(plain(line), soft_wrap=True)


@app.command()
def replay(
    context: typer.Context,
    of: Of,
    stage: Stage = None,
    error: Error = None,
    partition: Partition = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of records.")] = None,
    json: Json = False,
) -> None:
    """Send dead letters' records to their topic again, once the cause is fixed. Each letter is sent at most once.

    A record that fails again becomes a new dead letter. After three failures that follow a replay, it is not sent again.
    """
    from dataclasses import asdict

    from tocsin.pipelines.cli.console import note, out, say_json, working
    from tocsin.pipelines.runtime.kafka.redelivery import redeliver

    settings, matches = context.obj.settings(), _filter(stage, error, partition, key, since, until)
    (topic,) = _topics(settings, of)
    with working(f"{topic}: replaying"):
        report = redeliver(settings.kafka.client_options(), settings.lake.open(), topic, matches, limit)
    if json:
        say_json(asdict(report))
        return
    out.print(f"{report.sent:,} replayed to {topic.removesuffix(SUFFIX)}")
    if report.before:
        note(f"{report.before:,} skipped: replayed before")
    if report.exhausted:
        note(f"{report.exhausted:,} skipped: failed three times after a replay")
    if report.lost:
        note(f"{report.lost:,} skipped: the original no longer exists")


def _topics(settings: Settings, of: str | None) -> list[str]:
    """The dead-letter topic of a pipeline or an input topic; None: all that exist.

    Raises:
        Unavailable: Kafka does not answer, or there is no such topic.
    """
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.runtime.declare.errors import Unavailable
    from tocsin.pipelines.runtime.kafka import clients

    with closing(clients.consumer(settings.kafka.client_options())) as consumer:
        existing = sorted(t for t in consumer.topics() if t.endswith(SUFFIX))
    if of is None:
        return existing
    if "." in of:
        topic = of
    elif not (topic := str(settings.pipeline(of).options.get("topic", ""))):  # building it takes torch and its model
        topic = planned(settings, of)[1].topic
    topic = f"{topic.removesuffix(SUFFIX)}{SUFFIX}"
    if topic not in existing:
        raise Unavailable(f"topic {topic}: expected it to exist, got none; start the pipeline, which creates it")
    return [topic]


def _filter(
    stage: str | None, error: str | None, partition: int | None, key: str | None, since: str | None, until: str | None
) -> Callable[[PublishedDeadLetter], bool]:
    """A function that returns whether a letter passes the filters."""
    first, last = (moment(text) if text else None for text in (since, until))

    def matches(entry: PublishedDeadLetter) -> bool:
        dead_letter = entry.dead_letter
        return (
            (stage is None or dead_letter.stage == stage)
            and (error is None or dead_letter.error == error)
            and (partition is None or dead_letter.partition == partition)
            and (key is None or (dead_letter.key or b"").decode("utf-8", "replace") == key)
            and (first is None or entry.at >= first)
            and (last is None or entry.at < last)
        )

    return matches


def _record(text: str) -> tuple[int, int]:
    """Parse a partition and an offset.

    Raises:
        ConfigError: it is not `PARTITION@OFFSET`.
    """
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    partition, at, offset = text.partition("@")
    if not (at and partition.isdigit() and offset.isdigit()):
        raise ConfigError(f"record {text}: expected PARTITION@OFFSET, such as 3@1042; see `tocsin dlq list`")
    return int(partition), int(offset)


def _place(entry: PublishedDeadLetter) -> str:
    row = "" if entry.dead_letter.row is None else f" row {entry.dead_letter.row}"
    return f"{entry.dead_letter.topic}[{entry.dead_letter.partition}]@{entry.dead_letter.offset}{row}"


def _facts(entry: PublishedDeadLetter) -> dict[str, Any]:
    names = ("topic", "partition", "offset", "row", "stage", "error", "message", "size")
    return {name: getattr(entry.dead_letter, name) for name in names} | {
        "at": datetime.fromtimestamp(entry.at / 1000, UTC),
        "replays": entry.replays,
    }
