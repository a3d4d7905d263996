"""The command `query`: SQL over the results."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import polars as pl

ROWS = 40


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Polars SQL; each pipeline is a table.")],
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per row.")] = False,
) -> None:
    """Query the results tables as of the last commit."""
    from tocsin.pipelines.cli.console import say_json
    from tocsin.pipelines.query import query as ask

    answer = ask(sql, lake=context.obj.settings().lake.open())
    if json:
        for row in answer.iter_rows(named=True):
            say_json(row)
    else:
        show(answer)


def show(answer: pl.DataFrame) -> None:
    """Print the first `ROWS` rows as a table."""
    from rich.table import Table

    from tocsin.pipelines.cli.console import out, plain

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, dtype in answer.schema.items():
        table.add_column(plain(name), justify="right" if dtype.is_numeric() else "left", overflow="ellipsis")
    for row in answer.head(ROWS).iter_rows():
        table.add_row(*map(_text, row))
    out.print(table)
    if answer.height > ROWS:
        out.print(f"{ROWS} of {answer.height:,} rows; use `--json` for all, or LIMIT for fewer", style="dim")


def _text(value: Any) -> str:
    from tocsin.pipelines.cli.console import plain

    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return plain(value)
