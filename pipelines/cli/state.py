"""The command `state`: show or forget an asset's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.pipelines.cli.address import joins_ray
from tocsin.pipelines.cli.plain import App
from tocsin.pipelines.cli.times import at, written

if TYPE_CHECKING:
    from rich.text import Text

    from tocsin.pipelines.runtime.admin.inspection import KeyState, Rule

app = App(
    help="Show or delete the state of an asset: its windows, its position in the order, its open alerts.",
    no_args_is_help=True,
)
SHOWN = 8
"""Rows of a ring buffer shown on a terminal, the newest ones."""


@app.callback()
def state() -> None:
    """State: what the engine keeps about each asset."""


@app.command()
def show(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of the asset, as in the results' column `key`.")],
    partition: Annotated[
        int | None, typer.Option(help="Partition of the input topic, if the key is on several.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per partition.")] = False,
) -> None:
    """Show an asset's state as of the last checkpoint, whether the pipeline runs or not."""
    from tocsin.pipelines.cli.console import out, say_json
    from tocsin.pipelines.runtime.admin.inspection import key_state

    settings = context.obj.settings()
    shards = settings.pipeline(pipeline).shards
    candidate_shards = range(shards) if partition is None else [partition % shards]
    for memory in key_state(settings.lake.open(), pipeline, key, shards=candidate_shards, partition=partition):
        if json:
            say_json(_facts(memory))
        else:
            for line in _lines(memory):
                out.print(line)


@app.command()
@joins_ray
def forget(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Key of the asset, as in the results' column `key`.")],
) -> None:
    """Delete an asset's state, as if the asset had never sent a reading. Its results and alerts stay.

    A running pipeline does so at each shard's next checkpoint, a stopped one when it starts. Readings of the asset that a
    stage still holds are passed on first.
    """
    from contextlib import ExitStack

    from tocsin.pipelines.cli.cluster import joined, send, supervisor
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.admin.inspection import key_state
    from tocsin.pipelines.runtime.control.desired_state import forget_stopped
    from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
    from tocsin.pipelines.runtime.engine.plan import Plan

    settings = context.obj.settings()
    section, lake = settings.pipeline(pipeline), settings.lake.open()
    key_state(lake, pipeline, key, shards=range(section.shards))  # raises if there is no such key
    with ExitStack() as stack:
        try:
            stack.enter_context(joined(settings))
            actor = supervisor(pipeline)
        except (Unavailable, ConfigError):
            forget_stopped(lake, Plan(section.factory, {"name": pipeline, **section.options}), key)
            note(f"{pipeline} does not run on this Ray cluster; it will forget {key} when it starts")
            return
        send(actor, "forget", key)
    note(f"{pipeline} will forget {key} at its next checkpoint")


def _facts(memory: KeyState) -> dict[str, Any]:
    return {
        "partition": memory.partition,
        "key": memory.key,
        "last_seen": at(memory.last_seen),
        "checkpoint": memory.checkpoint,
        "state": {**memory.cells, **{name: rows.to_dicts() for name, (rows, _) in memory.rings.items()}},
        "rules": {
            name: {"firing": r.firing, "rang": r.raised_at and at(r.raised_at), "run": r.run, "hold": r.hold}
            for name, r in memory.rules.items()
        },
        "waiting": {name: rows.to_dicts() for name, rows in memory.waiting.items()},
    }


def _lines(memory: KeyState) -> Iterator[Text]:
    from rich.text import Text

    from tocsin.pipelines.cli.console import plain

    def line(name: str, text: str, style: str = "") -> Text:
        return Text.assemble((f"{plain(name):<24} ", "dim"), (plain(text), style))

    seen = f"last seen {written(memory.last_seen)}"
    yield Text.assemble((plain(memory.key), "bold"), f" on partition {memory.partition}, {seen}")
    for name, value in memory.cells.items():
        yield line(name, "-" if value is None else str(value))
    for name, (rows, capacity) in memory.rings.items():
        yield line(
            name, f"{rows.height} of {capacity} rows" + (f", the newest {SHOWN}:" if rows.height > SHOWN else "")
        )
        for column in rows.tail(SHOWN):
            yield line(f"  {column.name}", " ".join(f"{value:>10.5g}" for value in column))
    for name, rule in memory.rules.items():
        yield line(f"rule {name}", _rule_text(rule), "bold red" if rule.firing else "")
    for name, rows in memory.waiting.items():
        yield line(name, f"{rows.height} rows waiting")
        for row in rows.iter_rows(named=True):
            yield Text("  " + "  ".join(plain(f"{n} {v}") for n, v in row.items()))


def _rule_text(rule: Rule) -> str:
    """A rule's state in words."""
    raised_at = written(rule.raised_at) if rule.raised_at is not None else ""
    if rule.firing:
        return f"firing since {raised_at}"
    text = f"not firing, last raised {raised_at}" if raised_at else "not firing, never raised"
    return f"{text}; {rule.run} of {rule.hold} rows in a row" if 0 < rule.run < rule.hold else text
