"""The command `backfill`: process a span of a topic again, into another table."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.admin.backfill import BackfillReport

COLD = (
    "records before --from were not read: windows start empty, and an alert that was raised before is raised again or not "
    "cleared; read them for the state with --warmup 1d"
)


FROM = "Start, by Kafka's timestamps: 2026-01-31T12:00:00Z, or an age such as 2d."
WARMUP = "Time before --from that is read for the state alone, such as 2d, to fill windows."
Since = Annotated[str, typer.Option("--from", metavar="TIME", help=FROM)]
Warmup = Annotated[str | None, typer.Option(metavar="AGE", help=WARMUP)]
AlertsFile = Annotated[
    Path | None, typer.Option(metavar="FILE.ndjson", help="Write the alerts that would have been published.")
]


def backfill(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    since: Since,
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="End, exclusive.")],
    into: Annotated[str, typer.Option(metavar="TABLE", help="A new table of the lake.")],
    warmup: Warmup = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the table of an earlier backfill.")] = False,
    alerts: AlertsFile = None,
    alarms: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Process a span of the log again, with the current settings and model, into another table.

    No alert is published. The pipeline's own table, positions, state and dead letters stay as they are, whether it runs or not.
    The new table appears only when it is complete.
    """
    import orjson

    from tocsin.pipelines.cli.alerts import cloud_event
    from tocsin.pipelines.cli.console import note, progress
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.cli.times import moment
    from tocsin.pipelines.runtime.admin.backfill import Span
    from tocsin.pipelines.runtime.admin.backfill import backfill as reprocess
    from tocsin.pipelines.runtime.declare.durations import milliseconds
    from tocsin.pipelines.runtime.engine.alerts import Alert
    from tocsin.pipelines.runtime.lake.storage import aside

    if alarms:
        note("--alarms was renamed to --alerts")
    settings = context.obj.settings()
    _check_table(into, (pipeline, *settings.pipelines))
    _, declared = planned(settings, pipeline)
    warmup_ms = milliseconds(str(warmup or getattr(declared, "warmup", "0s")))
    with ExitStack() as stack:
        file = stack.enter_context(aside(path)) if (path := alerts or alarms) else None
        bar = stack.enter_context(progress())
        task = bar.add_task(f"{declared.topic}", total=None)

        def write_alert(alert: Alert) -> None:
            if file:
                file.write(orjson.dumps(cloud_event(alert), default=str) + b"\n")

        report = reprocess(
            declared,
            settings.kafka.client_options(),
            settings.lake.open(),
            Span(moment(since), moment(until), warmup_ms),
            into,
            overwrite=overwrite,
            formats=settings.format_options(),
            on_alert=write_alert,
            progress=lambda read, total: bar.update(task, completed=read, total=total),
        )
    _print(pipeline, into, report, json=json)


def _print(pipeline: str, into: str, report: BackfillReport, *, json: bool) -> None:
    from dataclasses import asdict

    from tocsin.pipelines.cli.console import note, out, say_json

    if json:
        say_json(
            {"pipeline": pipeline, "table": into, **asdict(report), "cleared": report.cleared, "alarms": report.alerts}
        )
        return
    out.print(summary(into, report))
    if report.bad:
        note(f"{report.bad:,} records could not be processed")
    if report.cold:
        note(COLD)


def _check_table(into: str, pipelines: Collection[str]) -> None:
    """Raise `ConfigError` unless the new table's name is a table's, and no pipeline's."""
    import re

    from tocsin.pipelines.runtime.declare.errors import ConfigError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", into):
        raise ConfigError(f"--into {into}: expected a name of letters, digits, dots, dashes and underscores; rename it")
    if into in pipelines:
        raise ConfigError(f"--into {into}: expected a table of its own, got a pipeline's; name another")


def summary(into: str, report: BackfillReport) -> str:
    """A backfill's report in one line; alerts are counted as `tocsin alerts` shows them."""
    return (
        f"{into}: {report.rows:,} rows from {report.records:,} records; {report.alerts:,} alerts would have been published: "
        f"{report.raised:,} raised, {report.cleared:,} cleared"
    )
