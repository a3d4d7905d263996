"""The command `alerts`: print published alerts."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.engine.alerts import Alert


def alerts(
    context: typer.Context,
    pipeline: Annotated[str | None, typer.Argument(metavar="PIPELINE", help="One pipeline; without it, all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new alerts, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="CloudEvents as JSON, one per line.")] = False,
) -> None:
    """Show alerts, each once and only after its transaction has committed."""
    from tocsin import alerts as read_alerts
    from tocsin.pipelines.cli.console import out, say_json

    settings = context.obj.settings()
    try:
        for n, alert in enumerate(read_alerts(pipeline, kafka=settings.kafka.client_options(), follow=follow)):
            if json:
                say_json(cloud_event(alert))
                continue
            if n == 0:
                out.print(f"{'time (UTC)':<20} {'severity':<9}{'what':<12} {'key':<8} evidence", style="bold")
            out.print(line(alert))
    except KeyboardInterrupt:
        return


def cloud_event(alert: Alert) -> dict[str, Any]:
    """An alert in CloudEvents' JSON form."""
    attributes = {name.removeprefix("ce_"): value.decode() for name, value in alert.headers()}
    attributes["datacontenttype"] = attributes.pop("content-type")
    return {**attributes, "data": {"rule": alert.rule, "severity": alert.severity, **alert.data}}


def line(alert: Alert) -> Any:
    """An alert in one line."""
    from rich.text import Text

    from tocsin.pipelines.cli.console import LEVELS, plain

    style = LEVELS.get(alert.severity, "") if alert.transition == "raised" else "dim"
    omitted = {"topic", "partition", "offset", "row", "model_version"}
    shown = {
        n: v for n, v in alert.data.items() if n not in omitted and str(v) != alert.key and not isinstance(v, list)
    }
    facts = "  ".join(f"{n} {v:.1f}" if isinstance(v, float) else plain(f"{n} {v}") for n, v in shown.items())
    return Text.assemble(
        (f"{alert.time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ} ", "dim"),
        (f"{plain(alert.severity):<9}{plain(alert.transition):<12}", style),
        f" {plain(alert.key):<8} {facts}",
        (plain(f"  by {alert.by}: {alert.reason}") if alert.by else "", "bold"),
    )
