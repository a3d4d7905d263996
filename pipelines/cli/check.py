"""The command `check`: verify everything that a pipeline needs before it is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tocsin.pipelines.cli.invocation import Invocation
    from tocsin.pipelines.runtime.admin.preflight import Finding, Preflight
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.engine.journal import Journal
    from tocsin.pipelines.runtime.engine.plan import ModelRef
    from tocsin.pipelines.runtime.kafka.broker import Broker
    from tocsin.pipelines.runtime.lake.storage import Lake
    from tocsin.pipelines.runtime.settings import Settings

MARKS = {"ok": "green", "warning": "yellow", "wrong": "bold red", "skipped": "dim"}


def check(
    context: typer.Context,
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE", help="One pipeline; without it, all in the settings, and what they share."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per check.")] = False,
) -> None:
    """Check everything that a pipeline needs before it is started. Each check prints one line, and what to do if it fails.

    Settings, Kafka (login, compression, topics, rights, transactions), lake, snapshots, journal, model and registry, schema
    registry, Ray, clocks.

    Nothing is changed: the command creates no topic, leaves no file and disturbs no running shard.

    Exit status: 1 if a check fails, else 0. Warnings do not count.
    """
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.admin.preflight import Preflight

    checkup = Preflight(_print_json if json else _printer())
    settings = _Settings(context.obj)
    checkup.run("settings", settings.load)
    if settings.loaded:
        _check_all(checkup, settings.loaded, [pipeline] if pipeline else [*settings.loaded.pipelines])
    else:
        for what in ("kafka", "lake", "registry", "ray"):
            checkup.run(what, str, "settings")
    if checkup.wrong:
        note(f"{checkup.wrong} checks failed")
        raise typer.Exit(1)


def _check_all(checkup: Preflight, settings: Settings, names: list[str]) -> None:
    """Check what all pipelines share, then each pipeline."""
    from tocsin.pipelines.cli.deployment import scratch_lake
    from tocsin.pipelines.runtime.admin.lake_checks import LakeFolder
    from tocsin.pipelines.runtime.admin.preflight import codecs
    from tocsin.pipelines.runtime.kafka.broker import Broker

    broker, folder, ray = Broker(settings.kafka.client_options()), LakeFolder(settings.lake.open()), _Ray(settings)
    needed = any((model := settings.pipeline(n).model) and not Path(model).is_dir() for n in names)
    try:
        checkup.run("kafka", broker.reach)
        checkup.run("compression", codecs)
        checkup.run("lake", folder.writable)
        checkup.run("space", folder.space, "lake")
        checkup.run("registry", partial(_registry, settings, needed))
        if settings.schema_registry.url:
            checkup.run("schema registry", partial(_schema_registry, settings))
        checkup.run("ray", ray.reach)
        with scratch_lake() as scratch:
            for name in names:
                _check_pipeline(name, checkup, settings, broker, ray, scratch)
    finally:
        broker.close()


def _check_pipeline(
    name: str, checkup: Preflight, settings: Settings, broker: Broker, ray: _Ray, scratch: Lake
) -> None:
    """Check one pipeline: its model and declaration, its topics, its data in the lake."""
    from tocsin.pipelines.runtime.admin.lake_checks import LakeTable
    from tocsin.pipelines.runtime.admin.topic_checks import Topics
    from tocsin.pipelines.runtime.engine import journal_topic

    section, run, lake = settings.pipeline(name), partial(checkup.run, pipeline=name), settings.lake.open()
    trial, table = _Trial(settings, name, scratch), LakeTable(lake, name, section.shards)
    if section.model:
        run("model", trial.find, *(() if Path(section.model).is_dir() else ("registry",)))
        run("model's copy", lambda: table.model(trial.ref, scratch), "model", "lake")
    run("pipeline", trial.build, "model")
    run("workers", partial(ray.capacity, section.workers, section.shards), "ray")

    topic = trial.pipeline.topic if trial.pipeline else str(section.options.get("topic", ""))
    topics = Topics(broker, name, topic, shards=section.shards, workers=section.workers)
    run("input topic", topics.input, "kafka", *(() if topic else ("pipeline",)))
    run("cleanup policy", topics.cleanup, "input topic")
    run("shards", topics.shards, "input topic")
    run("alert topic", topics.alerts, "kafka")
    run("dead-letter topic", topics.dead_letters, "kafka", *(() if topic else ("pipeline",)))
    run("journal", topics.journal, "kafka")
    run("replication", topics.replication, "input topic")
    run("rights", topics.rights, "input topic")
    run("transactional ids", topics.identities, "kafka")
    run("transactions", topics.transactions, "kafka")
    run("clocks", topics.clock, "input topic")
    if settings.lake.alerts:
        run("landing", topics.landing, "alert topic")

    def newest(shard: int) -> Journal | None:
        return journal_topic.newest(broker.options, topics.journal_topic, shard) if topics.journal_exists() else None

    run("orders", table.orders, "lake")
    run("table", lambda: table.schema(trial.pipeline), "pipeline", "lake")
    run("table's files", table.files, "table")
    run("domain", table.domain, "table")
    run("snapshots", lambda: table.snapshots(trial.pipeline), "table")
    run("input positions", lambda: table.positions(topic, topics.log), "snapshots", "input topic")
    run("one writer", lambda: table.one_writer(topic, newest), "journal", "lake")


class _Settings:
    """Loads the settings and reports where they come from."""

    loaded: Settings | None = None

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    def load(self) -> str:
        from tocsin.pipelines.runtime.settings import FILE, PREFIX

        self.loaded = self._invocation.settings()
        file = Path(self._invocation.config or os.environ.get(f"{PREFIX}CONFIG") or FILE)
        return str(file.absolute()) if file.exists() else f"no {file}; environment, command line and defaults"


class _Trial:
    """Builds a pipeline as a start would, but in a scratch lake."""

    ref: ModelRef | None = None
    pipeline: Pipeline | None = None

    def __init__(self, settings: Settings, name: str, scratch: Lake) -> None:
        self._settings, self._name, self._scratch = settings, name, scratch

    def find(self) -> str:
        from tocsin.models.domain import SHIPPED
        from tocsin.pipelines.cli.deployment import resolved
        from tocsin.pipelines.runtime.admin.preflight import Concern
        from tocsin.pipelines.runtime.engine.plan import store_model

        requested = self._settings.pipeline(self._name).model or ""
        name, version, folder = resolved(self._settings, requested)
        self.ref = store_model(self._scratch, folder, name=name, version=version)
        if version == SHIPPED:
            raise Concern(
                f"model {requested}: expected it in the registry, got none; using the weights shipped with Tocsin ({folder.name}); "
                f"train one with `tocsin train {name}`"
            )
        return f"{requested}: {name}/{version}, SHA-256 {self.ref.sha256[:12]}"

    def build(self) -> str:
        """Build the pipeline and its codec, and run one empty step, to check that stages, rules and results fit each other."""
        from tocsin.pipelines.cli.deployment import built
        from tocsin.pipelines.runtime.engine.machine import Machine, empty
        from tocsin.pipelines.runtime.formats.codec import Codec

        plan, pipeline = built(self._settings, self._name, self.ref, self._scratch)
        Codec.of(pipeline, self._settings.format_options())
        Machine(pipeline).step(empty(pipeline.schema), 0)
        self.pipeline = pipeline
        return f"{plan.factory}: {len(pipeline.stages)} stages, {len(pipeline.rules)} rules, key {pipeline.key}"


class _Ray:
    """The Ray cluster that a pipeline would run on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources: dict[str, float] = {}

    def reach(self) -> str:
        if self._settings.ray.address == "local":
            self._resources = {"CPU": os.cpu_count() or 1}
            if self._settings.ray.num_gpus:
                import torch

                self._resources["GPU"] = torch.cuda.device_count()
            return "local: `tocsin run` starts it"
        import ray

        from tocsin.pipelines.cli.cluster import joined

        with joined(self._settings):
            self._resources = ray.cluster_resources()
        return f"{self._settings.ray.address}: {self._amount('CPU'):g} CPUs, {self._amount('GPU'):g} GPUs"

    def capacity(self, workers: int, shards: int) -> str:
        from tocsin.pipelines.runtime.declare.errors import ConfigError

        workers, each = min(workers, shards), {"CPU": self._settings.ray.num_cpus, "GPU": self._settings.ray.num_gpus}
        for what, number in each.items():
            if (requested := workers * number) > (available := self._amount(what)):
                raise ConfigError(
                    f"workers = {workers} with ray.num_{what.lower()}s = {number:g} each: expected {requested:g} {what}s on Ray "
                    f"({self._settings.ray.address}), got {available:g}, too few for all; lower either, or add machines"
                )
        return f"{workers} with {each['CPU']:g} CPUs and {each['GPU']:g} GPUs each"

    def _amount(self, what: str) -> float:
        return self._resources.get(what, 0)


def _registry(settings: Settings, needed: bool) -> str:
    """Check that MLflow answers. Running pipelines do not need it; a start that takes its model from there does."""
    from tocsin.models.tracking_store import missing
    from tocsin.pipelines.runtime.admin.preflight import Concern
    from tocsin.pipelines.runtime.declare.errors import Unavailable
    from tocsin.pipelines.runtime.settings import without_password
    from tocsin.pipelines.runtime.telemetry.mlflow import answers

    uri = settings.mlflow.tracking_uri
    if not settings.mlflow.enabled:
        return "disabled: nothing is tracked, models are folders"
    if missing(uri):
        return f"{uri}: no database yet; the first start creates it"
    try:
        answers(uri)
    except Unavailable as reason:
        if needed:
            raise
        raise Concern(f"{reason} No pipeline loads its model from it, so streams are not affected") from reason
    return without_password(uri)


def _schema_registry(settings: Settings) -> str:
    """Check that the schema registry answers and that this machine can decode what it describes."""
    from tocsin.pipelines.runtime.formats.avro import Avro
    from tocsin.pipelines.runtime.formats.protobuf import Protobuf
    from tocsin.pipelines.runtime.formats.schema_registry import SchemaRegistry

    for kind in (Avro, Protobuf):
        kind.require()
    return SchemaRegistry(**settings.schema_registry.client_options()).check()


def _printer() -> Callable[[Finding], None]:
    """A function that prints findings as lines, under their pipeline's name."""
    from rich.text import Text

    from tocsin.pipelines.cli.console import out, plain

    current = ""

    def print_finding(finding: Finding) -> None:
        nonlocal current
        if finding.pipeline != current:
            out.print(Text(current := finding.pipeline, "bold"))
        dim = "dim" if finding.state in ("ok", "skipped") else ""
        line = Text.assemble(
            (f"{finding.state:<8}", MARKS[finding.state]), f"{finding.check:<19}", (plain(finding.said), dim)
        )
        out.print(line, soft_wrap=True)

    return print_finding


def _print_json(finding: Finding) -> None:
    from dataclasses import asdict

    from tocsin.pipelines.cli.console import say_json

    say_json(asdict(finding))
