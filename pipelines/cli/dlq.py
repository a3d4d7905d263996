"""Dead letters: records that could not be judged, and why."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Annotated, Any

import typer

app = typer.Typer(help="Dead letters.", no_args_is_help=True)
SUFFIX = ".dlq"
_REASON = "__connect.errors."


@app.callback()
def dlq() -> None:
    """Dead letters: records that could not be judged, and why."""


@app.command(name="list")
def letters(
    context: typer.Context,
    of: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE|TOPIC]", help="One input topic's; without it, all.")
    ] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, one object a letter.")] = False,
) -> None:
    """List dead letters: where each record was read, what gave up on it, and why."""
    from rich.table import Table

    from pipelines.cli.console import out, say_json
    from pipelines.cli.deployment import planned

    settings = context.obj.settings()
    if of is not None:
        topic = of if "." in of else planned(settings, of)[1].topic
        of = f"{topic.removesuffix(SUFFIX)}{SUFFIX}"
    found = read(settings.kafka.client_options(), of, limit)
    if json:
        for letter in found:
            say_json(letter)
        return
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("record", "stage", "error", "message", "bytes"):
        shown.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    for x in found:
        row = "" if x["row"] is None else f" row {x['row']}"
        place = f"{x['topic']}[{x['partition']}]@{x['offset']}{row}"
        shown.add_row(place, x["stage"], x["error"], x["message"], f"{x['size']:,}")
    out.print(shown if found else "no dead letters")


def read(options: Mapping[str, Any], topic: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest dead letters of one dead-letter topic or of all, oldest first.

    Raises:
        Unavailable: Kafka does not answer, or there is no such topic.
    """
    from kafka import TopicPartition

    from pipelines.runtime import clients
    from pipelines.runtime.errors import Unavailable

    with closing(clients.consumer(options)) as consumer:
        there = [t for t in consumer.topics() if t == topic or (topic is None and t.endswith(SUFFIX))]
        if topic and not there:
            raise Unavailable(f"topic {topic}: expected it to exist, got none; a pipeline makes it at its first start")
        assigned = [TopicPartition(t, p) for t in there for p in consumer.partitions_for_topic(t) or ()]
        consumer.assign(assigned)
        begins, ends = consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
        for tp, begin in begins.items():
            consumer.seek(tp, begin)
        records: list[Any] = []
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for got in consumer.poll(500).values():
                records = sorted([*records, *got], key=lambda r: r.timestamp)[-limit:]
    return [_letter(record) for record in records]


def _letter(record: Any) -> dict[str, Any]:
    said = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    return {
        "topic": said.get(f"{_REASON}topic", ""),
        "partition": int(said.get(f"{_REASON}partition", -1)),
        "offset": int(said.get(f"{_REASON}offset", -1)),
        "row": int(said["tocsin-row"]) if "tocsin-row" in said else None,
        "stage": said.get(f"{_REASON}stage", ""),
        "error": said.get(f"{_REASON}exception.class.name", ""),
        "message": said.get(f"{_REASON}exception.message", ""),
        "size": int(said.get("tocsin-dead-size", len(record.value or b""))),
    }
