"""The commands `run` (a pipeline in the foreground), `up` (on a cluster) and `stop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.settings import Settings

START_S = 120.0
"""Seconds that a supervisor may take to start on a busy machine."""
Name = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]
Model = Annotated[str | None, typer.Option(help="name@alias, name/version or a folder [pipelines.NAME.model].")]
Shards = Annotated[
    int | None, typer.Option(help="Number of shards. A new number moves the state first [pipelines.NAME.shards].")
]
Workers = Annotated[int | None, typer.Option(help="Processes that share the shards [pipelines.NAME.workers].")]
Start = Annotated[str | None, typer.Option(help="earliest or latest: where the first start begins.")]
OnGap = Annotated[str | None, typer.Option(help="stop or skip, if data that recovery needs are gone.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per line.")]


def run(
    context: typer.Context,
    pipeline: Name,
    model: Model = None,
    shards: Shards = None,
    workers: Workers = None,
    start: Start = None,
    on_gap: OnGap = None,
    json: Json = False,
) -> None:
    """Run a pipeline here until Ctrl-C or SIGTERM, then commit and stop.

    The command starts Ray on this machine, unless ray.address names a cluster.
    """
    from tocsin.pipelines.cli.runs import announced

    with announced(pipeline) as set_address:  # first, so that a `status` right after this command finds the run
        _run(
            _settings(context, pipeline, model=model, shards=shards, workers=workers, start=start, on_gap=on_gap),
            pipeline,
            set_address,
            json=json,
        )


def _run(settings: Settings, pipeline: str, set_address: Callable[[str], None], *, json: bool) -> None:
    import ray

    from tocsin.pipelines.cli.cluster import halt, is_running, joined
    from tocsin.pipelines.cli.console import note, stop_requested
    from tocsin.pipelines.cli.status import follow
    from tocsin.pipelines.runtime.telemetry.metrics import endpoints

    with (
        _preparing_deployment(settings, pipeline) as future,
        joined(settings, start=True),
        stop_requested() as stop_event,
    ):
        set_address(ray.get_runtime_context().gcs_address)
        actor = _start(settings, pipeline, future)
        where, addresses = ray.get_runtime_context().gcs_address, ", ".join(endpoints())
        metrics = f"metrics at {addresses}" if addresses else "no metrics endpoint (ray.metrics_port)"
        note(f"{pipeline} runs on Ray at {where}, {metrics}; Ctrl-C drains it")

        def found() -> list[Any]:
            if is_running(pipeline):
                return [actor]
            stop_event.set()  # `tocsin stop` has ended it
            return []

        try:
            follow(settings, found, stop_event, json=json, every=2, patience=START_S)
        finally:
            if is_running(pipeline):
                halt(pipeline, timeout=60)
    note(f"{pipeline} has committed and stopped")


def up(
    context: typer.Context,
    pipeline: Name,
    model: Model = None,
    shards: Shards = None,
    workers: Workers = None,
    start: Start = None,
    on_gap: OnGap = None,
    json: Json = False,
) -> None:
    """Start a pipeline on a Ray cluster and leave it running. Returns when its shards run."""
    from tocsin.pipelines.cli.cluster import ask, joined
    from tocsin.pipelines.cli.console import note, out, say_json, stop_requested, working
    from tocsin.pipelines.cli.status import status_report, table
    from tocsin.pipelines.runtime.declare.errors import TocsinError

    settings = _settings(context, pipeline, model=model, shards=shards, workers=workers, start=start, on_gap=on_gap)
    with joined(settings), _preparing_deployment(settings, pipeline) as future, stop_requested() as stop_event:
        actor = _start(settings, pipeline, future)
        with working(f"{pipeline}: shards recover"):
            while not _settled(
                status := ask(actor, START_S), settings.pipeline(pipeline).shards
            ) and not stop_event.wait(0.2):
                pass
        report = status_report(settings, status)
        if json:
            say_json(report)
        else:
            out.print(table([report]))
        if errors := [shard["error"] for shard in report["shards"] if shard["state"] == "refused"]:
            raise TocsinError(errors[0])
    note(f"{pipeline} is up; see `tocsin status --watch`, end it with `tocsin stop {pipeline}`")


def stop(
    context: typer.Context,
    pipeline: Name,
    timeout: Annotated[float, typer.Option(help="Seconds that shards have to commit.")] = 60,
) -> None:
    """Stop a pipeline after its shards have committed."""
    from tocsin.pipelines.cli.cluster import halt, joined
    from tocsin.pipelines.cli.console import note, working

    with joined(context.obj.settings(), pipeline), working(f"{pipeline}: committing and stopping"):
        halt(pipeline, timeout)
    note(f"{pipeline} has committed and stopped")


def _settings(context: typer.Context, pipeline: str, **flags: Any) -> Settings:
    from tocsin.pipelines.cli.deployment import check_known

    settings: Settings = context.obj.settings({f"pipelines.{pipeline}.{name}": value for name, value in flags.items()})
    check_known(settings, pipeline)
    return settings


@contextmanager
def _preparing_deployment(settings: Settings, pipeline: str) -> Iterator[Future[Deployment]]:
    """Make the deployment while Ray or a worker starts, because the registry may take seconds to resolve the model."""
    from tocsin.pipelines.cli.deployment import desired_deployment

    executor = ThreadPoolExecutor(1)
    try:
        yield executor.submit(desired_deployment, settings, pipeline)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _start(settings: Settings, name: str, future: Future[Deployment]) -> Any:
    """Start a supervisor for a pipeline that does not run on this cluster yet."""
    import ray

    from tocsin.pipelines.cli.cluster import supervisors
    from tocsin.pipelines.cli.console import note, working
    from tocsin.pipelines.cli.deployment import check_lasting, tables
    from tocsin.pipelines.runtime.control.launch import Launch
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    if name in supervisors():
        raise ConfigError(f"pipeline {name}: expected it not to run yet, but it does; run `tocsin stop {name}` first")
    if ray.get_runtime_context().runtime_env.get("working_dir"):  # this is a job in a copy of a folder
        check_lasting(settings, Path.cwd())
    launch = Launch(name, settings.logs.environment(), settings.ray.resources(), settings.kafka.client_options())
    try:
        with working("model"):
            desired = future.result()
        with working(f"{name}: a worker starts, loads the model and checks the topics"):
            deployment, old_shards = launch.prepare(desired, **tables(settings, name))
        if deployment.experimental:
            note(f"{name} is experimental: {deployment.experimental}")
        if old_shards not in (0, deployment.shards):
            from tocsin.pipelines.runtime.admin.reshard import reshard

            with working(f"{name}: state moves from {old_shards} to {deployment.shards} shards"):
                reshard(deployment)
            note(f"{name}: state moved from {old_shards} to {deployment.shards} shards")
        return launch.go(deployment)
    except BaseException:
        launch.abandon()
        raise


def _settled(status: dict[str, Any], shards: int) -> bool:
    states = [shard["state"] for shard in status["shards"]]
    return len(states) == shards and "starting" not in states
