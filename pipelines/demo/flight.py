"""Runs the demo on this machine: a broker, Ray, a fleet that wears out, alerts and a query. It ends within a minute."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.cli.console import out, stop_requested, working
from tocsin.pipelines.runtime.declare.errors import TocsinError, Unavailable

if TYPE_CHECKING:
    from tocsin.pipelines.demo.fleet import Fleet
    from tocsin.pipelines.runtime.kafka.feeder import FeedReport
    from tocsin.pipelines.runtime.settings import Settings

NAME = "rul"
SQL = """SELECT CASE WHEN rul < 20 THEN 'critical' WHEN rul < 50 THEN 'warning' ELSE 'healthy' END level,
       COUNT(*) readings, COUNT(DISTINCT unit) engines, ROUND(AVG(rul), 1) cycles_left
FROM rul GROUP BY level ORDER BY cycles_left"""
UPDATE_S, PLAIN_S = 0.5, 4.0
"""Seconds between updates of the fleet, and between prints without a terminal."""
STARTS_S, PATIENCE_S = 180.0, 60.0
"""Seconds that a busy machine may take to start everything, and then for each part to end."""


def fly(folder: Path, *, seconds: float, rate: float, engines: int) -> None:
    """Run the demo.

    Args:
        folder: cleared of the last demo's data first; the table and the MLflow run stay there.
        seconds: how long the fleet flies.
        rate: readings per second.
        engines: number of engines in the fleet.
    """
    from tocsin.deploy.embedded import EmbeddedBroker
    from tocsin.models.domain import SIM
    from tocsin.models.rul.domain import Rul
    from tocsin.pipelines.cli.cluster import halt, joined
    from tocsin.pipelines.cli.deployment import deployed
    from tocsin.pipelines.cli.feed import limited
    from tocsin.pipelines.demo.fleet import Fleet
    from tocsin.pipelines.runtime.control.launch import deploy
    from tocsin.pipelines.runtime.kafka.feeder import feed

    out.print("Tocsin: engines stream sensor readings, a network predicts their remaining cycles, alerts are raised.\n")
    _clear(folder)
    fleet = Fleet()
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker(log=folder / "broker.log"))
        executor = stack.enter_context(ThreadPoolExecutor(1))
        settings = _settings(folder, broker.bootstrap_servers)
        kafka = settings.kafka.client_options()
        deployment = executor.submit(deployed, settings, NAME, create_input=2)  # loads torch while Ray starts
        with working("a broker, Ray and a shard start on this machine"):
            stack.enter_context(joined(settings, start=True))
            stop_event = stack.enter_context(stop_requested())
            actor = deploy(deployment.result())
            stack.callback(halt, NAME, PATIENCE_S)
            _await_running(actor, stop_event)
        threading.Thread(target=_listen, args=(kafka, fleet), daemon=True).start()
        readings = Rul().feed(SIM, seed=0, rate=rate, model=None, engines=engines).tables
        frames = limited(readings, round(rate * seconds))
        topic = deployment.result().plan.options.get("topic", "sensors.industrial")
        flight = executor.submit(
            feed, frames, kafka=kafka, topic=topic, key="unit", rate=rate, stop=stop_event, progress=fleet.record_sent
        )
        run = _watch(settings, actor, fleet, flight, stop_event)
    _print_results(settings, folder, fleet, run)


def _clear(folder: Path) -> None:
    """Create the demo's folder and delete the last demo's data in it."""
    for old in ("lake", "mlruns"):
        shutil.rmtree(folder / old, ignore_errors=True)
    (folder / "mlflow.db").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _settings(folder: Path, bootstrap_servers: str) -> Settings:
    """The demo's own settings, which override the environment. The places of its table and run are also written to a file."""
    import orjson

    from tocsin.pipelines.runtime.lake.storage import write_aside
    from tocsin.pipelines.runtime.settings import Settings

    saved = {
        "lake.path": str((folder / "lake").absolute()),
        "mlflow.tracking_uri": f"sqlite:///{(folder / 'mlflow.db').absolute()}",
    }
    file = folder / "tocsin.toml"
    # A JSON string is also a TOML string, whatever the folder's name contains.
    write_aside(file, b"".join(b"%s = %s\n" % (name.encode(), orjson.dumps(value)) for name, value in saved.items()))
    overrides = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.security_protocol": "PLAINTEXT",
        "mlflow.enabled": True,
        "ray.address": "local",
        "ray.num_cpus": 0,
        f"pipelines.{NAME}.every": "1s",
    }
    return Settings.load(file, saved | overrides)


def _await_running(actor: Any, stop_event: Event) -> None:
    from tocsin.pipelines.cli.cluster import ask

    give_up = time.monotonic() + STARTS_S
    while not stop_event.wait(0.2):
        for shard in (shards := ask(actor)["shards"]):
            if shard["error"]:
                raise TocsinError(shard["error"])
        if shards and all(shard["state"] == "running" for shard in shards):
            return
        if time.monotonic() > give_up:
            raise Unavailable(
                f"demo: expected the shard to run within {STARTS_S:.0f} s, got none; run it on a machine that is less busy"
            )


def _listen(kafka: dict[str, Any], fleet: Fleet) -> None:
    from kafka.errors import KafkaError

    from tocsin import alerts

    with suppress(KafkaError, TocsinError):  # alerts end when the broker ends
        for alert in alerts(NAME, kafka=kafka, follow=True):
            fleet.record_alert(alert)


def _watch(settings: Settings, actor: Any, fleet: Fleet, flight: Future[FeedReport], stop_event: Event) -> str | None:
    """Show the fleet until all its readings are committed and MLflow, which starts more slowly, has a run. Returns the run."""
    from rich.live import Live

    from tocsin import results
    from tocsin.pipelines.cli.cluster import ask

    live = Live(console=out, auto_refresh=False) if out.is_terminal else None
    printed, give_up, run = time.monotonic(), float("inf"), None
    with live or nullcontext():
        while not stop_event.wait(UPDATE_S):
            status = ask(actor)
            (shard,) = status["shards"]
            run = status["tracking"]
            fleet.read(results(NAME, lake=settings.lake.open()), shard["window"])
            if live:
                live.update(fleet, refresh=True)
            elif time.monotonic() - printed > PLAIN_S:
                printed = time.monotonic()
                out.print(fleet)
            if flight.done():
                give_up = min(give_up, time.monotonic() + PATIENCE_S)
                landed = sum(shard["facts"].get("committed", {}).values()) >= flight.result().rows
                if (landed and run) or time.monotonic() > give_up:
                    break
    if not live:
        out.print(fleet)
    return run


def _print_results(settings: Settings, folder: Path, fleet: Fleet, run: str | None) -> None:
    """Print the results and commands to try next."""
    from rich.syntax import Syntax

    from tocsin.pipelines.cli.alerts import cloud_event
    from tocsin.pipelines.cli.query import show
    from tocsin.pipelines.cli.ui import PORT
    from tocsin.pipelines.query import query

    alert = fleet.worst
    if alert is not None:
        out.rule(f"one of {fleet.raised} alerts: a CloudEvent on alerts.{NAME}", align="left", style="dim")
        out.print_json(data=cloud_event(alert))
    out.rule("the table, queried with SQL", align="left", style="dim")
    out.print(Syntax(SQL, "sql", background_color="default", word_wrap=True))
    show(query(SQL, lake=settings.lake.open()))
    out.rule("MLflow", align="left", style="dim")
    database = _short(folder / "mlflow.db")
    where = f"experiment {settings.mlflow.experiment} in {database}"
    out.print(f"throughput, lag and latency are run {run} of {where}" if run else f"{where} has no run yet")
    out.rule("next", align="left", style="dim")
    bin_ = "" if shutil.which("tocsin") else f"{_short(Path(sys.executable).parent)}/"
    file = _short(folder / "tocsin.toml")
    tocsin = f"{bin_}tocsin --config {file}"
    asset = alert.key if alert else "1"
    for command in (
        f'{tocsin} query "SELECT unit, MIN(rul) AS rul FROM rul GROUP BY unit ORDER BY rul LIMIT 5"',
        f"{tocsin} plot {NAME} {asset} --out {NAME}-{asset}.png   # one engine, its alerts and their levels",
        f"{bin_}mlflow ui --backend-store-uri sqlite:///{database}",
        f"make kafka   # then, on a broker that keeps its data: {bin_}tocsin feed rul --from sim, {bin_}tocsin run rul",
    ):
        out.print(command, style="bold", soft_wrap=True)
    out.rule("the web page: engines, curves, alerts, SQL", align="left", style="dim")
    needs = "" if find_spec("nicegui") else "   # first: pip install 'tocsin[ui]'"
    out.print(f"{tocsin} ui{needs}", style="bold", soft_wrap=True)
    out.print(f"then open http://127.0.0.1:{PORT}; Ctrl-C ends it", style="dim")


def _short(path: Path) -> Path:
    """The path, relative to the working directory if it lies below that."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
