"""A SIGKILL to all processes of an engine in mid-work, and the same command again: what is lost, what is there twice."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine import Bench
from benchmarks.peers.engines import Engine, Run
from benchmarks.peers.meter import Command
from benchmarks.peers.throughput import JOBS

QUIET_S = 70.0
"""An engine that shows no new rows for so long has ended. A consumer group waits 45 s for a member that was killed."""
LOOK_S = 0.1


def compare(bench: Bench, engines: Sequence[Engine], folder: Path, records: int) -> None:
    """Kill each engine once, and print a table."""
    topic, truth = bench.topic("readings-kill", records), JOBS["windows"].truth(records)
    print("\n| one SIGKILL | rows of the table | lost | there twice | new rows after, s |\n|---|---|---|---|---|")
    for number, engine in enumerate(e for e in engines if "kill" in e.commands):
        run = Run(bench.kafka["bootstrap_servers"], topic, folder / f"kill-{number}")
        run.out.mkdir(parents=True)
        command = _start(engine, run)
        _watch(engine, run, command, len(truth) // 3)
        for process in command.processes():
            process.kill()
        command.stop()
        before = engine.written(run.out)
        if before >= len(truth):
            print(f"{engine.name}: nothing was left to do when it was killed; ask for more readings", flush=True)
            continue
        again = _start(engine, run)
        _watch(engine, run, again, before + 1)
        after = time.monotonic() - again.started
        _watch(engine, run, again)
        again.stop()
        rows = engine.rows(run.out, ("unit", "cycle"))
        distinct = rows.unique()
        lost = len(truth.join(distinct, on=["unit", "cycle"], how="anti"))
        print(f"| {engine.name} | {len(rows):,} | {lost:,} | {len(rows) - len(distinct):,} | {after:.1f} |", flush=True)


def _start(engine: Engine, run: Run) -> Command:
    return Command(engine.commands["kill"](run), run.folder / "log.txt", run.env, run.folder)


def _watch(engine: Engine, run: Run, command: Command, rows: float = math.inf) -> None:
    """Wait until a reader of the table sees so many rows, or no new ones for `QUIET_S`."""
    seen, at = 0, time.monotonic()
    while command.running and time.monotonic() < at + QUIET_S and seen < rows:
        if (found := engine.written(run.out)) != seen:
            seen, at = found, time.monotonic()
        time.sleep(LOOK_S)
