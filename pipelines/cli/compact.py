"""The command `compact`: rewrite small files as large ones."""

from __future__ import annotations

from typing import Annotated

import typer


def compact(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="TABLE", help="A pipeline's name, or alerts.")],
    vacuum: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Also delete files that only versions older than this need; at least 24h."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Rewrite a table's small files as few large ones. Safe while shards run; readers see the same rows."""
    from dataclasses import asdict

    from tocsin.pipelines.cli.console import out, say_json, working
    from tocsin.pipelines.runtime.lake import compaction

    lake = context.obj.settings().lake.open()
    with working(f"compacting {lake.place(pipeline)}"):
        report = compaction.compact(lake, pipeline, vacuum)
    if json:
        say_json(asdict(report))
    else:
        deleted = f", {report.vacuumed} old ones deleted" if vacuum else ""
        small = (
            f"{report.files_before} small files became {report.files_after}"
            if report.files_before
            else "no small files"
        )
        out.print(f"{report.table}: {small}{deleted}")
