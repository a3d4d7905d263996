"""The command `ack`: a person acknowledges an alert."""

from __future__ import annotations

from typing import Annotated

import typer


def ack(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    alert: Annotated[
        str, typer.Argument(metavar="ALERT", help="Id of the alert, or its first digits; see `tocsin alerts --json`.")
    ],
    by: Annotated[str, typer.Option(metavar="NAME", help="Who acknowledges it.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why: what is known or done about it.")],
    json: Annotated[bool, typer.Option("--json", help="The event as JSON on stdout.")] = False,
) -> None:
    """Acknowledge an alert. This is an event on the alert topic and a row of the table `alerts`. The alert stays raised."""
    from tocsin.pipelines.cli.alerts import cloud_event
    from tocsin.pipelines.cli.console import note, say_json
    from tocsin.pipelines.runtime.admin.acknowledgement import acknowledge, find_alert

    settings = context.obj.settings()
    kafka = settings.kafka.client_options()
    event = acknowledge(kafka, find_alert(kafka, settings.lake.open(), pipeline, alert), by=by, reason=reason)
    if json:
        say_json(cloud_event(event))
    else:
        note(f"{event.rule} of {event.key} ({pipeline}) is acknowledged by {event.by}: {event.reason}")
