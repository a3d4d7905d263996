"""The command `tocsin` with all its subcommands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tocsin.pipelines.cli import (
    ack,
    adapt,
    alerts,
    align,
    backfill,
    calibrate,
    check,
    compact,
    contracts,
    demo,
    deploy,
    dlq,
    evaluate,
    feed,
    frames,
    orders,
    plot,
    promote,
    query,
    reset,
    rights,
    run,
    state,
    status,
    train,
    ui,
)  # fmt: skip
from tocsin.pipelines.cli.address import joins_ray
from tocsin.pipelines.cli.domains import DomainCommand
from tocsin.pipelines.cli.invocation import Invocation
from tocsin.pipelines.cli.plain import App, Command

app = App(
    help="An alarm bell: streaming attention for sensors and cameras, exactly once from Kafka to a lake.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"tocsin {metadata.version('tocsin')}")
        raise typer.Exit


@app.callback()
def tocsin(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file [$TOCSIN_CONFIG, else ./tocsin.toml].")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting, such as lake.path=/data/lake. Repeatable."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    context.obj = Invocation(config, sets or ())


for command in (
    demo.demo, feed.feed, joins_ray(check.check), joins_ray(run.run), joins_ray(run.up), deploy.deploy, joins_ray(run.stop),
    joins_ray(status.status), joins_ray(orders.pause), joins_ray(orders.resume), joins_ray(orders.reload),
    joins_ray(orders.silence), alerts.alerts, ack.ack, query.query, plot.plot, plot.explain, train.train, adapt.adapt,
    evaluate.evaluate, promote.promote, promote.rollback, calibrate.calibrate,
    compact.compact, joins_ray(reset.reset), backfill.backfill, frames.frames, align.align, contracts.contracts,
    rights.rights, ui.ui,
):  # fmt: skip
    about_a_domain = command in (feed.feed, train.train, adapt.adapt, evaluate.evaluate)
    app.command(cls=DomainCommand if about_a_domain else Command)(command)
app.add_typer(dlq.app, name="dlq")
app.add_typer(state.app, name="state")
