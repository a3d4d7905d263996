"""The commands that send orders to a running pipeline: `pause`, `resume`, `reload`, `silence`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Name = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]


def pause(context: typer.Context, pipeline: Name) -> None:
    """Pause a pipeline until `resume`. Its shards commit and stop; readings wait in Kafka."""
    from tocsin.pipelines.cli.console import note

    with _command_sender(context, pipeline) as send:
        send("pause", True)
    note(f"{pipeline} commits and pauses; continue with `tocsin resume {pipeline}`")


def resume(context: typer.Context, pipeline: Name) -> None:
    """Resume a paused pipeline where it stopped. Refused shards retry."""
    from tocsin.pipelines.cli.console import note

    with _command_sender(context, pipeline) as send:
        send("pause", False)
    note(f"{pipeline} resumes; see `tocsin status {pipeline} --watch`")


def reload(context: typer.Context, pipeline: Name) -> None:
    """Apply a running pipeline's changed settings: levels, rules, model, options. Each shard switches at its next checkpoint.

    Shards, workers, Kafka and the lake belong to the deployment: use `stop` and `up` to change those.
    """
    from tocsin.pipelines.cli.console import note, working
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.runtime.kafka.topics import provision

    settings = context.obj.settings()
    with _command_sender(context, pipeline) as send, working(f"{pipeline}: settings, model and rules"):
        plan, declared = planned(settings, pipeline)
        provision(
            settings.kafka.client_options(), declared, shards=settings.pipeline(pipeline).shards
        )  # a first rule needs an alert topic
        send("change", plan)
    note(f"{pipeline} applies its new settings at each shard's next checkpoint")


def silence(
    context: typer.Context,
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="Key of the asset, as alerts show it.")],
    last: Annotated[str, typer.Option("--for", metavar="AGE", help="Duration, such as 2h; 0s unmutes the asset.")],
    pipeline: Annotated[str | None, typer.Option(help="One pipeline; without it, all that run.")] = None,
) -> None:
    """Mute an asset's alerts for a while. An alert that still holds afterwards is raised then. Results are still written."""
    import time

    from tocsin.pipelines.cli.cluster import joined, send, supervisor, supervisors
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.declare.durations import milliseconds
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    until = round(time.time() * 1000) + milliseconds(last)
    with joined(context.obj.settings()):
        names = [pipeline] if pipeline else supervisors()
        if not names:
            raise ConfigError(
                f"silence {asset}: expected a pipeline that runs on this Ray cluster, got none; start one"
            )
        for name in names:
            send(supervisor(name), "silence", asset, until)
    ends = f"is muted until {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(until / 1000))}"
    note(f"{asset} {ends if milliseconds(last) else 'is no longer muted'} ({', '.join(names)})")


@contextmanager
def _command_sender(context: typer.Context, pipeline: str) -> Iterator[Any]:
    """Yield a function that sends a command to the supervisor of a running pipeline."""
    from tocsin.pipelines.cli.cluster import joined, send, supervisor

    with joined(context.obj.settings()):
        actor = supervisor(pipeline)
        yield lambda *command: send(actor, *command)
