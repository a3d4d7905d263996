"""The command `reset`: start a pipeline over from another position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.pipelines.cli.run import OnGap

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.settings import Settings


def reset(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="earliest|latest|TIME",
            help="Where to continue: the log's start or end, a time such as 2026-01-31T12:00:00Z, or an age such as 2h.",
        ),
    ],
    on_gap: OnGap = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Delete a stopped pipeline's state and continue from another position in its topic, with the current settings.

    The same commit deletes the rows of records from that position on; the pipeline then processes these records again. Their
    alerts and dead letters are published again, too. Alerts keep their ids: a subscriber can remove duplicates by ce_id.
    """
    from tocsin.pipelines.cli.console import note, out, say_json, working
    from tocsin.pipelines.cli.deployment import deployed
    from tocsin.pipelines.cli.times import moment, written
    from tocsin.pipelines.runtime.admin.reset import To
    from tocsin.pipelines.runtime.admin.reset import reset as start_over

    target: To = "earliest" if to == "earliest" else "latest" if to == "latest" else moment(to)
    where = target if isinstance(target, str) else written(target)
    settings = context.obj.settings({f"pipelines.{pipeline}.on_gap": on_gap})
    _check_stopped(settings, pipeline)
    deployment = deployed(settings, pipeline)
    if not yes:
        typer.confirm(
            f"{pipeline}: delete all state and the rows of records from {where} on, and continue from there?",
            abort=True,
            err=True,
        )
    with working(f"{pipeline}: resetting"):
        configs = [config for id, config in deployment.configs(deployment.plan).items() if id.pipeline == pipeline]
        report = start_over(configs, target)
    if json:
        say_json({"pipeline": pipeline, "deleted_rows": report.deleted, "positions": report.positions})
        return
    rows = "its rows from there on" if report.deleted is None else f"{report.deleted:,} rows"
    positions = ", ".join(f"{p}@{offset}" for p, offset in sorted(report.positions.items()))
    out.print(f"{pipeline} will continue from {where} ({positions}); deleted {rows} and all state")
    note(f"start it with `tocsin up {pipeline}`")


def _check_stopped(settings: Settings, pipeline: str) -> None:
    """Refuse a running pipeline; a reset would fence its shards. One on a cluster that can't be seen from here is fenced.

    Raises:
        ConfigError: the pipeline runs.
    """
    from tocsin.pipelines.cli.cluster import joined, supervisors
    from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable

    try:
        with joined(settings):
            running = pipeline in supervisors()
    except Unavailable:
        return
    if running:
        raise ConfigError(
            f"pipeline {pipeline}: expected it to be stopped, but it runs; run `tocsin stop {pipeline}` first"
        )
