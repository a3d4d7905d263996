"""Latency: from a reading's Kafka timestamp to a `read_committed` subscriber that has its alert, at a steady rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine import Bench, _ages
from benchmarks.peers.engines import Engine, Run
from benchmarks.peers.meter import Command

WARM_S = 20.0
PERCENTILES = ("p50", "p95", "p99")


def measure(bench: Bench, engine: Engine, folder: Path, topic: str, rate: int, seconds: float) -> dict[str, float]:
    """Start an engine, feed its topic at a rate, and time its alerts."""
    for name in (topic, f"alerts.{topic}", f"alerts.{topic}.journal"):
        bench.provision(name)
    run = Run(bench.kafka["bootstrap_servers"], topic, folder)
    run.out.mkdir(parents=True)
    command = Command(engine.commands["alerts"](run), folder / "log.txt", run.env, folder)
    try:
        time.sleep(WARM_S)
        return _ages(bench, topic, f"alerts.{topic}", rate, seconds)
    finally:
        command.stop()


def compare(bench: Bench, engines: Sequence[Engine], folder: Path, rates: Sequence[int], rounds: int) -> None:
    """Measure all engines in turn, and print a table of medians."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for rate in rates:
            for i, engine in enumerate(engines):
                topic = f"live-{number}-{rate}-{i}"
                ages = measure(bench, engine, folder / topic, topic, rate, 20)
                found.setdefault((engine.name, rate), []).append(ages)
                print(f"{engine.name}, {rate} readings/s: {ages}", flush=True)
    print("\n| | readings/s | p50, ms | p95 | p99 |\n|---|---|---|---|---|")
    for (name, rate), each in found.items():
        ages = " | ".join(f"{statistics.median(one[p] for one in each):.0f}" for p in PERCENTILES)
        print(f"| {name} | {rate:,} | {ages} |")
