"""Small files made into large ones."""

from __future__ import annotations

from typing import Annotated

import typer

LEAST_MS = 24 * 3_600_000


def compact(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Such as rul.")],
    vacuum: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Also delete files that no version of this age needs, 24h at least."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Rewrite a table's small files as few large ones; safe beside running shards, and readers see the same rows."""
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError

    from pipelines.cli.console import out, say_json, working
    from pipelines.runtime.errors import ConfigError, Unavailable
    from pipelines.runtime.units import milliseconds

    if vacuum and milliseconds(vacuum) < LEAST_MS:
        # Shards write files first and commit them later: younger ones may belong to a commit under way.
        raise ConfigError(
            f"--vacuum {vacuum}: expected 24h at least, or it would take files that shards are about to commit"
        )
    lake = context.obj.settings().lake.open()
    uri, options = lake.uri(pipeline), lake.options or None
    if not DeltaTable.is_deltatable(uri, storage_options=options):
        raise Unavailable(f"{uri}: expected a table, got none; start the pipeline with `tocsin up {pipeline}`")
    table = DeltaTable(uri, storage_options=options)
    try:
        with working(f"compacting {uri}"):
            done = table.optimize.compact()
            hours = milliseconds(vacuum) // 3_600_000 if vacuum else 0
            gone = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True) if vacuum else []
    except CommitFailedError as reason:
        raise Unavailable(f"{uri}: compaction met another one: {reason}; nothing has changed, try again") from reason
    before, after = done["numFilesRemoved"], done["numFilesAdded"]
    if json:
        say_json({"table": uri, "files_before": before, "files_after": after, "vacuumed": len(gone)})
    else:
        out.print(f"{uri}: {before} small files became {after}" + (f", {len(gone)} old ones deleted" if vacuum else ""))
