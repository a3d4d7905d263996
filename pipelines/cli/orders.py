"""Orders to a running pipeline: pause, go on, other settings, silence for an asset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Name = Annotated[str, typer.Argument(metavar="PIPELINE", help="Its name.")]


def pause(context: typer.Context, pipeline: Name) -> None:
    """Have a pipeline commit and let go, and stay so until `resume`; readings wait in Kafka."""
    from tocsin.pipelines.cli.console import note

    with _ordered(context, pipeline) as order:
        order("pause", True)
    note(f"{pipeline} commits and lets go; `tocsin resume {pipeline}` has it go on")


def resume(context: typer.Context, pipeline: Name) -> None:
    """Have a paused pipeline go on where it was; shards that were refused try again."""
    from tocsin.pipelines.cli.console import note

    with _ordered(context, pipeline) as order:
        order("pause", False)
    note(f"{pipeline} goes on; see `tocsin status {pipeline} --watch`")


def reload(context: typer.Context, pipeline: Name) -> None:
    """Have a running pipeline take up its settings anew: levels, rules, model, options; each shard at its next checkpoint.

    Shards, workers, Kafka and the lake are of the deployment: `stop` and `up` change those.
    """
    from tocsin.pipelines.cli.console import note, working
    from tocsin.pipelines.cli.deployment import planned
    from tocsin.pipelines.runtime.kafka.topics import provision

    settings = context.obj.settings()
    with _ordered(context, pipeline) as order, working(f"{pipeline}: settings, model and rules"):
        plan, declared = planned(settings, pipeline)
        provision(
            settings.kafka.client_options(), declared, shards=settings.pipeline(pipeline).shards
        )  # a first rule's topic
        order("change", plan)
    note(f"{pipeline} goes on with its new settings from each shard's next checkpoint")


def silence(
    context: typer.Context,
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="Its key, as alerts show it.")],
    last: Annotated[str, typer.Option("--for", metavar="AGE", help="How long, such as 2h; 0s ends a silence.")],
    pipeline: Annotated[str | None, typer.Option(help="One pipeline; without it, all that run.")] = None,
) -> None:
    """Have an asset not ring for a while; an alert that still holds afterwards rings then. Its results go on."""
    import time

    from tocsin.pipelines.cli.cluster import joined, supervisor, supervisors, tell
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
            tell(supervisor(name), "silence", asset, until)
    ends = f"does not ring until {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(until / 1000))}"
    note(f"{asset} {ends if milliseconds(last) else 'may ring again'} ({', '.join(names)})")


@contextmanager
def _ordered(context: typer.Context, pipeline: str) -> Iterator[Any]:
    """How to tell the supervisor of a running pipeline what to do."""
    from tocsin.pipelines.cli.cluster import joined, supervisor, tell

    with joined(context.obj.settings()):
        actor = supervisor(pipeline)
        yield lambda *order: tell(actor, *order)
