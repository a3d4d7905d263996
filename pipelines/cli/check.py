"""The command `check`: verify everything that a pipeline needs before it is started."""

from __future__ import annotations

import os
import tempfile
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

    Settings, Kafka (login, compression, topics, rights, transactions), lake, snapshots, journal, model and registry, Ray, clocks.

    Nothing is changed: the command creates no topic, leaves no file and disturbs no running shard.

    Exit status: 1 if a check fails, else 0. Warnings do not count.
    """
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.admin.preflight import Preflight

    checkup = Preflight(_say_json if json else _teller())
    settings = _Settings(context.obj)
    checkup.look("settings", settings.load)
    if settings.loaded:
        _look(checkup, settings.loaded, [pipeline] if pipeline else [*settings.loaded.pipelines])
    else:
        for what in ("kafka", "lake", "registry", "ray"):
            checkup.look(what, str, "settings")
    if checkup.wrong:
        note(f"{checkup.wrong} checks failed")
        raise typer.Exit(1)


def _look(checkup: Preflight, settings: Settings, names: list[str]) -> None:
    """Check what all pipelines share, then each pipeline."""
    from tocsin.pipelines.runtime.admin.lake_checks import LakeFolder
    from tocsin.pipelines.runtime.admin.preflight import codecs
    from tocsin.pipelines.runtime.kafka.broker import Broker
    from tocsin.pipelines.runtime.lake.storage import Lake

    broker, folder, ray = Broker(settings.kafka.client_options()), LakeFolder(settings.lake.open()), _Ray(settings)
    needed = any((model := settings.pipeline(n).model) and not Path(model).is_dir() for n in names)
    try:
        checkup.look("kafka", broker.reach)
        checkup.look("compression", codecs)
        checkup.look("lake", folder.writable)
        checkup.look("space", folder.space, "lake")
        checkup.look("registry", partial(_registry, settings, needed))
        checkup.look("ray", ray.reach)
        with tempfile.TemporaryDirectory(prefix="tocsin-check-") as scratch:
            tempfile.tempdir = scratch  # models are downloaded into it, and nobody else would delete them
            for name in names:
                _look_at(name, checkup, settings, broker, ray, Lake(scratch))
    finally:
        tempfile.tempdir = None
        broker.close()


def _look_at(name: str, checkup: Preflight, settings: Settings, broker: Broker, ray: _Ray, scratch: Lake) -> None:
    """Check one pipeline: its model and declaration, its topics, its data in the lake."""
    from tocsin.pipelines.runtime.admin.lake_checks import LakeTable
    from tocsin.pipelines.runtime.admin.topic_checks import Topics
    from tocsin.pipelines.runtime.engine import journal

    given, look, lake = settings.pipeline(name), partial(checkup.look, pipeline=name), settings.lake.open()
    made, table = _Made(settings, name, scratch), LakeTable(lake, name, given.shards)
    if given.model:
        look("model", made.find, *(() if Path(given.model).is_dir() else ("registry",)))
        look("model's copy", lambda: table.model(made.ref, scratch), "model", "lake")
    look("pipeline", made.build, "model")
    look("workers", partial(ray.room, given.workers, given.shards), "ray")

    topic = made.pipeline.topic if made.pipeline else str(given.options.get("topic", ""))
    topics = Topics(broker, name, topic, shards=given.shards, workers=given.workers)
    look("input topic", topics.input, "kafka", *(() if topic else ("pipeline",)))
    look("cleanup policy", topics.cleanup, "input topic")
    look("shards", topics.shards, "input topic")
    look("alert topic", topics.alerts, "kafka")
    look("dead-letter topic", topics.dead_letters, "kafka", *(() if topic else ("pipeline",)))
    look("journal", topics.journal, "kafka")
    look("replication", topics.replication, "input topic")
    look("rights", topics.rights, "input topic")
    look("transactional ids", topics.identities, "kafka")
    look("transactions", topics.transactions, "kafka")
    look("clocks", topics.clock, "input topic")
    if settings.lake.alerts:
        look("landing", topics.landing, "alert topic")

    def newest(shard: int) -> Journal | None:
        return journal.newest(broker.options, topics.journal_topic, shard) if topics.journal_is_there() else None

    look("orders", table.orders, "lake")
    look("table", lambda: table.schema(made.pipeline), "pipeline", "lake")
    look("table's files", table.files, "table")
    look("snapshots", lambda: table.snapshots(made.pipeline), "table")
    look("input positions", lambda: table.positions(topic, topics.log), "snapshots", "input topic")
    look("one writer", lambda: table.one_writer(topic, newest), "journal", "lake")


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


class _Made:
    """Builds a pipeline as a start would, but in a scratch lake."""

    ref: ModelRef | None = None
    pipeline: Pipeline | None = None

    def __init__(self, settings: Settings, name: str, scratch: Lake) -> None:
        self._settings, self._name, self._scratch = settings, name, scratch

    def find(self) -> str:
        from tocsin.pipelines.cli.deployment import SHIPPED, resolved
        from tocsin.pipelines.runtime.admin.preflight import Concern
        from tocsin.pipelines.runtime.engine.plan import store_model

        wanted = self._settings.pipeline(self._name).model or ""
        name, version, folder = resolved(self._settings, wanted)
        self.ref = store_model(self._scratch, folder, name=name, version=version)
        if version == SHIPPED:
            raise Concern(
                f"model {wanted}: expected it in the registry, got none; using the weights shipped with Tocsin ({folder.name}); "
                f"train one with `tocsin train {name}`"
            )
        return f"{wanted}: {name}/{version}, SHA-256 {self.ref.sha256[:12]}"

    def build(self) -> str:
        """Build the pipeline and run one empty step, to check that stages, rules and results fit each other."""
        from tocsin.pipelines.cli.deployment import built
        from tocsin.pipelines.runtime.engine.machine import Machine, empty

        plan, pipeline = built(self._settings, self._name, self.ref, self._scratch)
        Machine(pipeline).step(empty(pipeline.schema), 0)
        self.pipeline = pipeline
        return f"{plan.factory}: {len(pipeline.stages)} stages, {len(pipeline.rules)} rules, key {pipeline.key}"


class _Ray:
    """The Ray cluster that a pipeline would run on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._there: dict[str, float] = {}

    def reach(self) -> str:
        if self._settings.ray.address == "local":
            self._there = {"CPU": os.cpu_count() or 1}
            if self._settings.ray.num_gpus:
                import torch

                self._there["GPU"] = torch.cuda.device_count()
            return "local: `tocsin run` starts it"
        import ray

        from tocsin.pipelines.cli.cluster import joined

        with joined(self._settings):
            self._there = ray.cluster_resources()
        return f"{self._settings.ray.address}: {self._amount('CPU'):g} CPUs, {self._amount('GPU'):g} GPUs"

    def room(self, workers: int, shards: int) -> str:
        from tocsin.pipelines.runtime.declare.errors import ConfigError

        workers, each = min(workers, shards), {"CPU": self._settings.ray.num_cpus, "GPU": self._settings.ray.num_gpus}
        for what, number in each.items():
            if (wanted := workers * number) > (there := self._amount(what)):
                raise ConfigError(
                    f"workers = {workers} with ray.num_{what.lower()}s = {number:g} each: expected {wanted:g} {what}s on Ray "
                    f"({self._settings.ray.address}), got {there:g}, too few for all; lower either, or add machines"
                )
        return f"{workers} with {each['CPU']:g} CPUs and {each['GPU']:g} GPUs each"

    def _amount(self, what: str) -> float:
        return self._there.get(what, 0)


def _registry(settings: Settings, needed: bool) -> str:
    """Check that MLflow answers. Running pipelines do not need it; a start that takes its model from there does."""
    from tocsin.pipelines.cli.deployment import missing
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


def _teller() -> Callable[[Finding], None]:
    """A function that prints findings as lines, under their pipeline's name."""
    from rich.text import Text

    from tocsin.pipelines.cli.console import out, plain

    of = ""

    def tell(found: Finding) -> None:
        nonlocal of
        if found.pipeline != of:
            out.print(Text(of := found.pipeline, "bold"))
        dim = "dim" if found.state in ("ok", "skipped") else ""
        line = Text.assemble((f"{found.state:<8}", MARKS[found.state]), f"{found.check:<19}", (plain(found.said), dim))
        out.print(line, soft_wrap=True)

    return tell


def _say_json(found: Finding) -> None:
    from dataclasses import asdict

    from tocsin.pipelines.cli.console import say_json

    say_json(asdict(found))
