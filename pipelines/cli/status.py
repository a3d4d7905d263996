"""The command `status`: positions, lag, rates, latency, and errors that a person has to act on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from threading import Event

    from rich.console import Group
    from rich.text import Text

    from tocsin.pipelines.runtime.settings import Settings

TIMEOUT_S = 1.0
"""Seconds after those for joining Ray at which the command gives up, whatever the cluster does."""
QUICK = {"bootstrap_timeout_ms": 2000, "request_timeout_ms": 2000}
"""Options of Kafka's clients for the lag, which is not worth a long wait."""
ANSWER_S = 5.0
COLUMNS = (
    "shard",
    "state",
    "position",
    "committed",
    "lag",
    "to commit",
    "rows/s",
    "p50/p95/p99 ms",
    "dead letters",
    "restarts",
    "model",
)
STATES = {"running": "green", "refused": "bold red", "stopped": "dim"}


def status(
    context: typer.Context,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="PIPELINE", help="One pipeline; without it, all on the cluster.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, one object per update.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Update each second, until Ctrl-C.")] = False,
) -> None:
    """Show shards: positions read and committed, lag, rates, latency, restarts, and errors to act on."""
    from tocsin.pipelines.cli.cluster import join_seconds, within

    settings = context.obj.settings()
    with contextlib.nullcontext() if watch else within(join_seconds(settings.ray.address) + TIMEOUT_S, "status"):
        _status(settings, pipeline, json=json, watch=watch)


def _status(settings: Settings, pipeline: str | None, *, json: bool, watch: bool) -> None:
    from tocsin.pipelines.cli.cluster import joined, joined_at, rejoined, supervisor, supervisors
    from tocsin.pipelines.cli.console import stop_requested
    from tocsin.pipelines.cli.runs import active_runs

    is_local = settings.ray.address == "local" and not os.environ.get("RAY_ADDRESS")
    if is_local and not watch:
        reports = []
        for run in (run for run in active_runs() if pipeline in (None, run.pipeline)):
            with joined_at(run.address) if run.address else contextlib.nullcontext():
                has_supervisor = run.address and run.pipeline in supervisors()
                reports.append(
                    _once(settings, run.pipeline) if has_supervisor else _starting(run.pipeline, "Ray is starting")
                )
        _show(reports, json, "no pipeline runs in this folder")
        return

    def names() -> list[str]:
        return [pipeline] if pipeline else supervisors()

    def find_supervisors() -> list[Any]:
        """Find the supervisors again for each look: a restarted pipeline has a new supervisor of the same name."""
        return list(map(supervisor, names()))

    with joined(settings, pipeline):
        if watch:
            with stop_requested() as stop_event:
                follow(
                    settings, find_supervisors, stop_event, json=json, reconnect=lambda: rejoined(settings, pipeline)
                )
        else:
            _show([_once(settings, name) for name in names()], json, "no pipeline runs on this Ray cluster")


def _once(settings: Settings, pipeline: str) -> dict[str, Any]:
    """The status of a pipeline that has a supervisor. A supervisor that does not answer counts as starting."""
    from tocsin.pipelines.cli.cluster import Silent, ask, supervisor

    try:
        return status_report(settings, ask(supervisor(pipeline), ANSWER_S))
    except Silent:
        return _starting(
            pipeline, f"its supervisor has not answered for {ANSWER_S:.0f} s: it is starting, or its machine is busy"
        )


def _starting(pipeline: str, why: str) -> dict[str, Any]:
    """The status of a pipeline that is starting; nothing else is known of it."""
    return {
        **{"pipeline": pipeline, "workers": 0, "restarts": 0, "paused": False, "silences": {}, "ready": False},
        "problems": [{"shard": 0, "state": "starting", "why": why}],
        **{"mlflow_run": None, "shards": [], "landing": [], "sinks": [], "scores": [], "drift": None},
    }


def _show(reports: Sequence[Mapping[str, Any]], json: bool, empty_message: str) -> None:
    from tocsin.pipelines.cli.console import out, say_json

    if json:
        say_json({"at": datetime.now(UTC), "pipelines": reports})
    elif reports:
        out.print(table(reports))
    else:
        out.print(empty_message)


def follow(
    settings: Settings,
    find_supervisors: Callable[[], Sequence[Any]],
    stop_event: Event,
    *,
    json: bool,
    every: float = 1,
    patience: float = ANSWER_S,
    reconnect: Callable[[], None] = lambda: None,
) -> None:
    """Show deployments until `stop_event` is set, at least once: a live table on a terminal, else a table or JSON a look.

    Args:
        find_supervisors: returns their supervisors; called before each look.
        patience: seconds that a supervisor may take to answer.
        reconnect: called before the next look after one that failed.
    """
    from ray.exceptions import RayError
    from rich.live import Live

    from tocsin.pipelines.cli.cluster import ask
    from tocsin.pipelines.cli.console import note, out, say_json
    from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable

    last_error, has_answered = "", False
    live = Live(console=out, auto_refresh=False) if out.is_terminal and not json else None
    with live or contextlib.nullcontext():
        while True:
            try:
                if last_error:
                    reconnect()
                reports = [status_report(settings, ask(actor, patience)) for actor in find_supervisors()]
            except (Unavailable, ConfigError, RayError, ConnectionError) as reason:  # the last one: of a client of Ray
                if not last_error and (stop_event.is_set() or not has_answered):
                    raise
                # Keep looking: a supervisor or a Ray that restarts will answer again.
                if (line := " ".join(str(reason).split())) != last_error:
                    note(last_error := line)
            else:
                last_error, has_answered = "", True
                if json:
                    say_json({"at": datetime.now(UTC), "pipelines": reports})
                elif live:
                    live.update(table(reports), refresh=True)
                else:
                    out.print(table(reports))
            if stop_event.wait(every):
                return


def status_report(settings: Settings, status: Mapping[str, Any]) -> dict[str, Any]:
    """A supervisor's status as plain JSON, with the lag as Kafka reports it."""
    ends = _ends(settings, [*status["shards"], *status["landing"]])
    return {
        "pipeline": status["pipeline"],
        "workers": status["workers"],
        "restarts": status["restarts"],
        "paused": status["paused"],
        "silences": {asset: datetime.fromtimestamp(until / 1000, UTC) for asset, until in status["silences"].items()},
        "ready": not status["problems"],
        "problems": status["problems"],
        "mlflow_run": status["tracking"],
        "shards": [_shard(shard, ends) for shard in status["shards"]],
        "landing": [_shard(shard, ends) for shard in status["landing"]],
        "sinks": status["sinks"],
        "scores": status["scores"],
        "drift": status["drift"],
    }


def table(reports: Sequence[Mapping[str, Any]]) -> Group:
    """A table of shards, with their problems listed below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="dim")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("shard", "state", "model") else "right", no_wrap=True)
    notes = list[Text]()
    for report in reports:
        if not report["shards"]:
            shown.add_row(report["pipeline"], Text("paused" if report["paused"] else "starting", "yellow"))
        notes += [Text(line, "yellow") for line in _notes(report)]
        for shard in (*report["shards"], *report["landing"]):
            shown.add_row(*_row(shard))
            notes += [Text(line, style) for line, style in _shard_notes(shard)]
    return Group(shown, *notes)


def _row(shard: Mapping[str, Any]) -> list[Text | str]:
    """A shard's row, as `COLUMNS`."""
    from rich.text import Text

    return [
        f"{shard['pipeline']}/{shard['shard']}",
        Text(shard["state"], STATES.get(shard["state"], "yellow")),
        f"{sum(shard['read'].values()):,}",
        f"{sum(shard['committed'].values()):,}",
        *("" if shard[lag] is None else f"{shard[lag]:,}" for lag in ("lag", "committed_lag")),
        f"{shard['rows_per_s']:,.0f}",
        "/".join(f"{ms:.0f}" for ms in shard["latency_ms"].values()),
        Text(f"{shard['dead_letters']:,}", "bold red" if shard["dead_letters"] else ""),
        str(shard["restarts"]),
        shard["model"],
    ]


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know of a pipeline."""
    from tocsin.pipelines.cli.console import plain
    from tocsin.pipelines.runtime.declare.truth import VERSION, figures

    if not report["shards"]:
        for why in dict.fromkeys(problem["why"] for problem in report["problems"] if problem["why"]):
            yield f"{report['pipeline']}: {plain(why)}"
    for asset, until in report["silences"].items():
        yield f"{report['pipeline']}: {plain(asset)} is muted until {until:%Y-%m-%d %H:%M:%SZ}"
    for score in report.get("scores", ()):
        shown = (f"{n} {value:.4g}" for n, value in figures(score).items() if n not in ("rows", "assets"))
        yield f"{report['pipeline']}: {score[VERSION]} by labels of {score['assets']:,} assets: {', '.join(shown)}"
    if (drift := report.get("drift")) and drift.get("drifted"):
        columns, index = plain(", ".join(drift["drifted"])), f"{drift['index']:.2f} (level {drift['level']:.2f})"
        yield f"{report['pipeline']}: its input has drifted from training in {columns}; the greatest index is {index}"
    for sink in report["sinks"]:
        if sink["error"]:
            yield f"{report['pipeline']}: alert sink {sink['sink']}: {plain(sink['error'])}; retrying its alerts"


def _shard_notes(shard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person should know of a shard: lines with their style."""
    from tocsin.pipelines.cli.console import plain

    where = f"{shard['pipeline']}/{shard['shard']}"
    if shard["unread_partitions"]:
        added = ", ".join(map(str, shard["unread_partitions"]))
        yield f"{where}: partitions {added} were added to its topic; the shard will read them", "yellow"
    if shard["digest_mismatches"]:
        yield f"{where}: a replay gave other alerts than were published; see its worker's log", "yellow"
    for line in shard["damaged"].values():
        yield f"{where}: {plain(line)}", "red"
    if shard["dead_letter"]:
        yield _last_dead_letter(shard), "red"
    if shard["error"]:
        yield f"{where}: {plain(shard['error'])}", "red"


def _last_dead_letter(shard: Mapping[str, Any]) -> str:
    """A shard's newest dead letter in one line."""
    from tocsin.pipelines.cli.console import plain
    from tocsin.pipelines.cli.times import written

    last, count = shard["dead_letter"], shard["dead_letters"]
    row = "" if last["row"] is None else f" row {last['row']}"
    place = f"{last['topic']}[{last['partition']}]@{last['offset']}{row}"
    return plain(
        f"{shard['pipeline']}/{shard['shard']}: {count:,} dead letter{'s' if count > 1 else ''}, the newest {written(last['at'])}: "
        f"{place}: {last['stage']}: {last['error']}: {last['message']}; see `tocsin dlq list {last['topic']}`"
    )


def _shard(shard: Mapping[str, Any], ends: Mapping[tuple[str, int], int]) -> dict[str, Any]:
    facts, window = shard["facts"], shard["window"] or {"seconds": 0.0, "counts": {}, "latency_ms": {}, "gauges": {}}
    read, committed = facts.get("read", {}), facts.get("committed", {})
    added = dict.fromkeys(shard["unread"], 0)
    seconds = window["seconds"] or 1.0
    return {
        "pipeline": shard["pipeline"],
        "shard": shard["shard"],
        "state": shard["state"],
        "error": shard["error"],
        "read": read,
        "committed": committed,
        "unread_partitions": shard["unread"],
        "damaged": facts.get("damaged", {}),
        "digest_mismatches": facts.get("digest_mismatches", 0),
        "lag": _lag(facts.get("topic", ""), read | added, ends),
        "committed_lag": _lag(facts.get("topic", ""), committed | added, ends),
        "uncommitted_rows": facts.get("uncommitted_rows", 0),
        "rows_per_s": round(window["counts"].get("rows", 0) / seconds, 1),
        "results_per_s": round(window["counts"].get("results", 0) / seconds, 1),
        "latency_ms": window["latency_ms"],
        "keys": int(window["gauges"].get("keys", 0)),
        "dead_letters": facts.get("dead_letters", 0),
        "dead_letter": facts.get("dead_letter"),
        "model": facts.get("model", ""),
        "epoch": facts.get("epoch", 0),
        "worker": shard["worker"],
        "pid": shard["pid"],
        "restarts": shard["restarts"],
    }


def _lag(topic: str, positions: Mapping[int, int], ends: Mapping[tuple[str, int], int]) -> int | None:
    """Number of records after the positions; None if no end offset is known."""
    lags = [max(ends[topic, p] - position, 0) for p, position in positions.items() if (topic, p) in ends]
    return sum(lags) if lags else None


def _ends(settings: Settings, shards: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], int]:
    """Current end offsets of the input partitions; empty if Kafka does not answer."""
    from kafka import TopicPartition
    from kafka.errors import KafkaError

    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.runtime.declare.errors import Unavailable
    from tocsin.pipelines.runtime.kafka import clients

    partitions = [
        TopicPartition(shard["facts"]["topic"], p)
        for shard in shards
        for p in (*shard["facts"].get("read", {}), *shard["unread"])
    ]
    try:
        with contextlib.closing(clients.consumer(settings.kafka.client_options() | QUICK)) as consumer:
            return (
                {(tp.topic, tp.partition): end for tp, end in consumer.end_offsets(partitions).items()}
                if partitions
                else {}
            )
    except (KafkaError, Unavailable) as reason:
        note(f"lag unknown: {reason}")
        return {}
