"""Throughput: readings to windows to Parquet, each row checked."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.engine import SENSORS, Bench, _limited
from benchmarks.peers.engines import CLIENTS, Engine, Run
from benchmarks.peers.meter import Command
from tocsin.pipelines.runtime.kafka import clients

LENGTH = 30
PATIENCE_S = 900.0
LOOK_S = 0.1


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


def expected(records: int) -> pl.DataFrame:
    """The rows that every engine should write."""
    readings = pl.concat([frame.select("unit", "cycle", *SENSORS) for frame in _limited(records)])
    value = pl.mean_horizontal(SENSORS).rolling_mean(LENGTH).over("unit")
    return readings.select("unit", "cycle", expected=value).drop_nulls("expected")


def measure(engine: Engine, run: Run, truth: pl.DataFrame, records: int) -> Result:
    """Run an engine until all rows are there."""
    assert engine.windows
    run.out.mkdir(parents=True)
    command = Command(engine.windows(run), run.folder / "log.txt", run.env, run.folder)
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
    return Result(rate, command.cpu_s * 1e6 / records, command.memory, start, _wrong(engine, run, truth))


def _wrong(engine: Engine, run: Run, truth: pl.DataFrame) -> int:
    joined = engine.rows(run.out).join(truth, on=["unit", "cycle"], how="full", coalesce=True)
    close = (pl.col("mean") - pl.col("expected")).abs() <= 1e-4 * pl.col("expected").abs()
    right = joined.filter(close.fill_null(False)).unique(["unit", "cycle"])
    return max(len(joined), len(truth)) - len(right)


def fetch_alone(bench: Bench, topic: str, records: int, client: str) -> float:
    """Records per second of a client that only fetches."""
    if client == "kafka-python":
        return bench.bare(topic, records)
    from confluent_kafka import OFFSET_BEGINNING, Consumer
    from confluent_kafka import TopicPartition as NativePartition

    consumer = Consumer({"bootstrap.servers": bench.kafka["bootstrap_servers"], "group.id": "none"})
    with clients.admin(bench.kafka) as admin:
        count = clients.partitions(admin, [topic])[topic]
    consumer.assign([NativePartition(topic, p, OFFSET_BEGINNING) for p in range(count)])
    seen, started = 0, 0.0
    while seen < records:
        values = [message.value() for message in consumer.consume(5000, 1.0)]
        started = started or time.perf_counter()
        seen += len(values)
    consumer.close()
    return seen / (time.perf_counter() - started)


def compare(bench: Bench, chosen: Sequence[Engine], folder: Path, records: int, rounds: int) -> None:
    """Run all engines in turn, and print a table of medians."""
    truth = expected(records)
    results: dict[str, list[Result]] = {engine.name: [] for engine in chosen}
    limits: dict[str, list[float]] = {client: [] for client in CLIENTS}
    topic = bench.topic("readings", records)
    for number in range(rounds):
        for client, rates in limits.items():
            rates.append(fetch_alone(bench, topic, records, client))
            print(f"fetch alone, {client}: {rates[-1]:,.0f} records/s", flush=True)
        for engine in chosen:
            place = folder / f"windows-{number}-{re.sub('[^a-z]+', '-', engine.name.lower())}"
            results[engine.name].append(
                measure(engine, Run(bench.kafka["bootstrap_servers"], topic, place), truth, records)
            )
            print(f"{engine.name}: {results[engine.name][-1]}", flush=True)
    print("\n| | rows/s after the first | CPU s per million | memory, MB | first row, s | wrong rows |")
    print("|---|---|---|---|---|---|")
    for client, rates in limits.items():
        print(f"| fetch alone, {client} | {statistics.median(rates):,.0f} | | | | |")
    for name, each in results.items():
        rate, cpu, memory, start = (
            statistics.median(getattr(r, field) for r in each) for field in ("rate", "cpu_s", "memory", "start_s")
        )
        print(
            f"| {name} | {rate:,.0f} | {cpu:.0f} | {memory / 1e6:,.0f} | {start:.1f} | {max(r.wrong for r in each)} |"
        )
