"""Throughput: readings to a table, each row checked."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.engine import SENSORS, Bench, _limited
from benchmarks.network import Recurrent
from benchmarks.peers import frames, limits
from benchmarks.peers.engines import Engine, Run
from benchmarks.peers.meter import Command

LENGTH, BATCH = 30, 512
PATIENCE_S = 900.0
LOOK_S = 0.1


@dataclass(frozen=True)
class Job:
    """What each engine computes.

    Args:
        column: the value that it writes for each reading with 29 before it.
        feed: creates a topic of a name with so many messages; returns its name.
        truth: number of readings -> `unit`, `cycle`, `expected`.
        relative: by how much of itself a value may differ.
        limits: what a single step of it can do at most.
        share: of the readings asked for, as many messages it takes.
    """

    name: str
    column: str
    feed: Callable[[Bench, str, int], str]
    truth: Callable[[int], pl.DataFrame]
    limits: Callable[[Bench, str, int], dict[str, float]]
    relative: float = 1e-4
    share: float = 1.0


@dataclass(frozen=True)
class Result:
    """What one run showed.

    Args:
        rate: rows/s from the first visible row to the last.
        cpu_s: processor time, per million readings.
        start_s: from the command to the first visible row.
        wrong: rows that are missing, there twice, or have another value.
    """

    rate: float
    cpu_s: float
    memory: int
    start_s: float
    wrong: int


def _means(records: int) -> pl.DataFrame:
    readings = pl.concat([frame.select("unit", "cycle", *SENSORS) for frame in _limited(records)])
    value = pl.mean_horizontal(SENSORS).rolling_mean(LENGTH).over("unit")
    return readings.select("unit", "cycle", expected=value).drop_nulls("expected")


def _ruls(records: int) -> pl.DataFrame:
    model = Recurrent()
    features = list(model.features)
    readings = pl.concat([frame.select("unit", "cycle", *features) for frame in _limited(records)])
    readings = readings.sort("unit", maintain_order=True)
    rank = readings.select(pl.int_range(pl.len()).over("unit")).to_series().to_numpy()
    ends = np.flatnonzero(rank >= LENGTH - 1)
    values = torch.from_numpy(readings.select(features).to_numpy().astype(np.float32))
    windows = values.unfold(0, LENGTH, 1).transpose(1, 2)
    chosen = torch.from_numpy(ends - LENGTH + 1).split(BATCH)
    rul = torch.cat([model(windows.index_select(0, part))["rul"] for part in chosen])
    return readings[ends].select("unit", "cycle", expected=pl.Series(rul.numpy()).cast(pl.Float64))


def _seconds(records: int) -> pl.DataFrame:
    return pl.concat([frame.select("unit", "cycle", expected="s2") for frame in _limited(records)])


JOBS = {
    job.name: job
    for job in (
        Job("windows", "mean", Bench.topic, _means, limits.of_readings),
        Job("arrow", "mean", partial(Bench.topic, format="arrow"), _means, limits.of_messages),
        Job("rul", "rul", Bench.topic, _ruls, limits.of_network, 1e-3),
        Job("frames", "mean", frames.feed, frames.truth, frames.limits, 1e-3, share=0.01),
        Job("once", "s2", Bench.topic, _seconds, limits.none),
    )
}


def measure(job: Job, engine: Engine, run: Run, truth: pl.DataFrame, records: int) -> Result:
    """Run an engine until all rows are there."""
    run.out.mkdir(parents=True)
    command = Command(engine.commands[job.name](run), run.folder / "log.txt", run.env, run.folder)
    first_at, first, rows = 0.0, 0, 0
    try:
        while not first or rows < len(truth):
            rows, now = engine.written(run.out), time.monotonic()
            if rows and not first:
                first_at, first = now, rows
            if not command.running or now - command.started > PATIENCE_S:
                print(f"{engine.name} did not finish:", *command.log.read_text().splitlines()[-5:], sep="\n")
                break
            time.sleep(LOOK_S)
    finally:
        command.stop()
    rate = (rows - first) / (now - first_at) if rows > first else 0.0
    start = first_at - command.started if first else math.inf
    wrong = _wrong(job, engine, run, truth) if rows else len(truth)
    return Result(rate, command.cpu_s * 1e6 / records, command.memory, start, wrong)


def _wrong(job: Job, engine: Engine, run: Run, truth: pl.DataFrame) -> int:
    rows = engine.rows(run.out, ("unit", "cycle", job.column))
    joined = rows.join(truth, on=["unit", "cycle"], how="full", coalesce=True)
    close = (pl.col(job.column) - pl.col("expected")).abs() <= job.relative * pl.col("expected").abs()
    right = joined.filter(close.fill_null(False)).unique(["unit", "cycle"])
    return max(len(joined), len(truth)) - len(right)


def compare(job: Job, bench: Bench, engines: Sequence[Engine], folder: Path, records: int, rounds: int) -> None:
    """Run all engines in turn, and print a table of medians."""
    records = round(records * job.share)
    engines, truth = [e for e in engines if job.name in e.commands], job.truth(records)
    results: dict[str, list[Result]] = {engine.name: [] for engine in engines}
    most: dict[str, list[float]] = {}
    topic = job.feed(bench, f"readings-{job.name}", records)
    for number in range(rounds):
        for limit, rate in job.limits(bench, topic, records).items():
            most.setdefault(limit, []).append(rate)
            print(f"{job.name}, {limit}: {rate:,.0f}/s", flush=True)
        for engine in engines:
            place = folder / f"{job.name}-{number}-{re.sub('[^a-z]+', '-', engine.name.lower())}"
            run = Run(bench.kafka["bootstrap_servers"], topic, place)
            results[engine.name].append(measure(job, engine, run, truth, records))
            print(f"{job.name}, {engine.name}: {results[engine.name][-1]}", flush=True)
    print(f"\n| {job.name} | rows/s after the first | CPU s per million | memory, MB | first row, s | wrong rows |")
    print("|---|---|---|---|---|---|")
    for limit, rates in most.items():
        print(f"| {limit} | {statistics.median(rates):,.0f} | | | | |")
    for name, each in results.items():
        rate, cpu, memory, start = (
            statistics.median(getattr(r, field) for r in each) for field in ("rate", "cpu_s", "memory", "start_s")
        )
        wrong = max(r.wrong for r in each)
        print(f"| {name} | {rate:,.0f} | {cpu:.0f} | {memory / 1e6:,.0f} | {start:.1f} | {wrong} |")
