"""Measure the cost of the engine as ratios of alternating runs on this machine, with Apache Kafka.

    python -m benchmarks.engine [--records 300000] [--rounds 3] [--only trivial,rul,latency,checkpoints]

- trivial: JSON of 24 sensors through a pipeline without stages, against a bare kafka-python poll loop on the same topic.
- rul: the same with the RUL network, against the network alone on ready windows of the same batch size. It runs with the shipped
  weights (24 thousand parameters), and with random weights at the paper's widths (some 500 thousand), where the network is the
  bottleneck. Both runs have the first core to themselves and a worker's glibc settings; reader, broker and everything else share
  the other cores.
- latency: from produce to a `read_committed` subscriber at 5,000 messages per second, compared with a bare kafka-python loop
  that relays the same messages at least once, without transactions.
- checkpoints: the RUL job with a checkpoint every 2 s, against none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
import psutil
import pyarrow as pa
import ray
import torch
from kafka import KafkaProducer, TopicPartition

from benchmarks.network import example, rate
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.rul.config import NetworkSize, RulConfig
from tocsin.models.rul.model import FD001, Parts, RulModel, load
from tocsin.models.rul.simulation.fleet import live
from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.control.launch import deploy
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Batch, Commit, Pipeline
from tocsin.pipelines.runtime.engine.plan import Model, Plan, store_model
from tocsin.pipelines.runtime.kafka import clients, feeder
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.process import KEEP_MEMORY

ROOT = str(Path(__file__).parents[1])
SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
CORES = os.sched_getaffinity(0)
FIRST = min(CORES)


def trivial(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Decode 24 sensors and keep one; with the option `alerts`, one reading in a hundred raises an alert."""
    fields = [("unit", pa.int64()), ("cycle", pa.int64()), *((s, pa.float64()) for s in SENSORS)]
    raises_alert = (pl.col("cycle") + pl.col("unit")) % 100 == 0
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(n, t, nullable=False) for n, t in fields]),
        key="unit",
        stages=[],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("s2", pa.float64())]),
        rules=[AlertRule(name="hundredth", severity="info", when=raises_alert, data=["cycle"])]
        if options.get("alerts")
        else [],
        batch=Batch(rows=5000),
        commit=Commit(size="256MB"),
    )


class Bench:
    """The broker, and the folder with a lake per job, for one run of the benchmark."""

    def __init__(self, folder: Path, server: KafkaServer) -> None:
        self.kafka = {"bootstrap_servers": server.bootstrap_servers}
        self._folder, self._runs = folder, 0

    def topic(self, name: str, rows: int, format: Literal["json", "arrow"] = "json") -> str:
        """Create a topic with four partitions, and feed it `rows` readings of a fleet. Returns its name."""
        self.provision(name)
        feeder.feed(_limited(rows), kafka=self.kafka, topic=name, key="unit", format=format)
        return name

    def provision(self, name: str) -> None:
        with clients.admin(self.kafka) as admin:
            admin.create_topics({name: {"num_partitions": 4, "replication_factor": 1}}, wait_for_metadata=True)

    def deploy(self, factory: str, topic: str, weights: Path = FD001, **options: Any) -> tuple[str, Lake, Any]:
        """Start a job that begins at the earliest record. Returns its name, lake and supervisor."""
        self._runs += 1
        name = f"{topic}-{self._runs}"
        lake = Lake(str(self._folder / name))
        ref = store_model(lake, weights, name="rul", version="1") if "rul" in factory else None
        plan = Plan(factory, {"name": name, "topic": topic, **options}, ref, "cpu")
        partitions = provision(self.kafka, plan.build(lake), shards=1)
        deployment = Deployment(plan=plan, lake=lake, kafka=self.kafka, partitions=partitions, env={"PYTHONPATH": ROOT})
        return name, lake, deploy(deployment)

    def rate(self, factory: str, topic: str, readings: int, *, own_core: bool = False, **options: Any) -> float:
        """Return results per second from the end of the first step to the end of the last, by the job's `processed_at`."""
        name, lake, supervisor = self.deploy(factory, topic, **options)
        while (read := sum(_read(supervisor).values())) < readings:
            if own_core and read:
                own_core = _shard_alone_on(FIRST, ray.get(supervisor.status.remote())["shards"][0]["pid"])
            time.sleep(0.5)
        ray.get(supervisor.stop.remote())
        ray.kill(supervisor)
        steps = lake.scan(name).group_by("processed_at").len().sort("processed_at").collect()
        seconds = (steps["processed_at"][-1] - steps["processed_at"][0]).total_seconds()
        return float(steps["len"][:-1].sum() / seconds)

    def bare(self, topic: str, rows: int) -> float:
        """Return records per second of a poll loop that does nothing with them."""
        consumer = clients.consumer(self.kafka, max_poll_records=5000, max_partition_fetch_bytes=8 << 20)
        assigned = [TopicPartition(topic, p) for p in range(4)]
        consumer.assign(assigned)
        consumer.seek_to_beginning(*assigned)
        seen, started = 0, 0.0
        while seen < rows:
            for records in consumer.poll(timeout_ms=1000).values():
                started = started or time.perf_counter()
                seen += len(records)
        consumer.close()
        return seen / (time.perf_counter() - started)


def paper_sized(folder: Path) -> Path:
    """Save a model of the paper's widths with random weights: only its cost is meaningful, not its output."""
    sizes = NetworkSize(conv=(64, 128), lstm=128, attention=64, head=(64, 32))
    config = replace(RulConfig.load(FD001), model="recurrent", network=sizes)
    parts = Parts(config)
    parts.scaling = load(FD001, "cpu").parts.scaling
    RulModel(config, parts, torch.device("cpu")).save(folder)
    return folder


def _shard_alone_on(core: int, pid: int) -> bool:
    """Pin a worker's busiest thread, which is the shard's, to a core. Returns False: it need not be pinned again."""
    busiest = max(psutil.Process(pid).threads(), key=lambda thread: thread.user_time)
    os.sched_setaffinity(busiest.id, {core})
    return False


@ray.remote(num_cpus=0, max_calls=1)
def network_alone(weights: Path) -> float:
    """Return rows per second of a network on ready tensors, on its own core, with a worker's memory settings."""
    os.sched_setaffinity(0, {FIRST})
    model = load(weights, device="cpu")
    return rate(model, *example(model))


def latency(bench: Bench, topic: str, rate: int, seconds: float) -> dict[str, float]:
    """Measure the milliseconds from a reading's produce time to the arrival of its alert at a subscriber."""
    bench.provision(topic)
    name, _, supervisor = bench.deploy("benchmarks.engine:trivial", topic, alerts=True)
    while not _read(supervisor):
        time.sleep(0.2)
    found = _ages(bench, topic, f"alerts.{name}", rate, seconds)
    ray.get(supervisor.stop.remote())
    ray.kill(supervisor)
    return found


def relayed_latency(bench: Bench, topic: str, rate: int, seconds: float) -> dict[str, float]:
    """Measure the same for a bare loop that relays one reading in a hundred at least once: no state, table or transaction."""
    alerts = f"{topic}.alerts"
    bench.provision(topic)
    bench.provision(alerts)
    relay = _relay.remote(bench.kafka, topic, alerts)
    time.sleep(5)  # until the relay's process has started
    found = _ages(bench, topic, alerts, rate, seconds)
    ray.cancel(relay, force=True)
    return found


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def _relay(kafka: dict[str, Any], topic: str, alerts: str) -> None:
    consumer = clients.consumer(kafka, fetch_max_wait_ms=100)
    assigned = [TopicPartition(topic, p) for p in range(4)]
    consumer.assign(assigned)
    consumer.seek_to_beginning(*assigned)
    producer = KafkaProducer(**kafka, acks="all", linger_ms=0)
    while True:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                reading = orjson.loads(record.value)
                if (reading["cycle"] + reading["unit"]) % 100 == 0:
                    raised_at = datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat().encode()
                    producer.send(alerts, record.value, headers=[("ce_time", raised_at), ("ce_type", b"raised")])


def _ages(bench: Bench, topic: str, alerts: str, rate: int, seconds: float) -> dict[str, float]:
    """Feed a topic at a rate. Returns the number of its alerts and percentiles of their age in ms, without the first fifth."""
    stop, ages = threading.Event(), list[float]()
    listener = threading.Thread(target=_listen, args=(bench, alerts, stop, ages))
    listener.start()
    feeder.feed(_limited(int(rate * seconds)), kafka=bench.kafka | {"linger_ms": 0}, topic=topic, key="unit", rate=rate)
    time.sleep(2)
    stop.set()
    listener.join()
    warm = np.array(ages[len(ages) // 5 :])
    return {"alerts": len(warm), **{f"p{q}": round(float(np.percentile(warm, q)), 1) for q in (50, 95, 99)}}


def _listen(bench: Bench, topic: str, stop: threading.Event, ages: list[float]) -> None:
    consumer = clients.consumer(bench.kafka, fetch_max_wait_ms=50)
    assigned = [TopicPartition(topic, p) for p in clients.partitions_of(consumer, topic)]
    consumer.assign(assigned)
    consumer.seek_to_beginning(*assigned)
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=50).values():
            now = time.time()
            for record in records:
                headers = dict(record.headers)
                raised_at = datetime.fromisoformat(headers["ce_time"].decode())
                if headers["ce_type"].endswith(b"raised"):
                    ages.append((now - raised_at.timestamp()) * 1000)
    consumer.close()


def _read(supervisor: Any) -> dict[int, int]:
    shards = ray.get(supervisor.status.remote())["shards"]
    return shards[0]["facts"].get("read", {}) if shards else {}


def _limited(rows: int) -> Any:
    """Yield `rows` readings of a fleet of 500 engines, none of which fails within 200 cycles."""
    for cycle in live(engines=500, seed=1, soonest=100_000 // 500):
        yield cycle.drop("rul").head(rows)
        rows -= len(cycle)
        if rows <= 0:
            return


def beside(rounds: int, ours: Callable[[], float], other: Callable[[], float]) -> tuple[float, float, float]:
    """Return the median rates of both and the median ratio of the pairs. They run in turn, since the machine's speed drifts."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), statistics.median(a / b for a, b in pairs))


def main() -> None:
    """Run the selected benchmarks and print one line per result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="trivial,rul,latency,checkpoints")
    args = parser.parse_args()
    selected = args.only.split(",")
    if "rul" in selected:
        os.sched_setaffinity(0, CORES - {FIRST} or CORES)  # inherited by every process started from here on
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        connect("local", env={**KEEP_MEMORY, "PYTHONPATH": ROOT})
        bench = Bench(Path(folder), server)
        rows, few = args.records, args.records // 3
        bench.topic("readings", rows)
        bench.topic("few", few)
        if "trivial" in selected:
            for step in (5000, 20_000):
                ours, bare, ratio = beside(
                    args.rounds,
                    lambda step=step: bench.rate("benchmarks.engine:trivial", "readings", rows, rows=step),
                    lambda: bench.bare("readings", rows),
                )
                print(
                    f"trivial, {step} a step: {ours:,.0f} readings/s; bare poll loop {bare:,.0f}; ratio {ratio:.2f}",
                    flush=True,
                )
        if "rul" in selected:
            for name, weights in (("shipped", FD001), ("paper-sized", paper_sized(Path(folder) / "paper"))):
                ours, alone, ratio = beside(
                    args.rounds,
                    lambda weights=weights: bench.rate(
                        "tocsin.pipelines.rul:pipeline", "few", few, own_core=True, weights=weights
                    ),
                    lambda weights=weights: ray.get(network_alone.remote(weights)),
                )
                print(f"RUL, {name} network: {ours:,.0f} windows/s; alone {alone:,.0f}; ratio {ratio:.2f}", flush=True)
        if "latency" in selected:
            for n in range(args.rounds):
                ours, bare = latency(bench, f"live{n}", 5000, 20), relayed_latency(bench, f"bare{n}", 5000, 20)
                print(f"alert latency at 5,000 messages/s, ms: {ours}; a bare relay {bare}", flush=True)
        if "checkpoints" in selected:
            every, never, ratio = beside(
                args.rounds,
                lambda: bench.rate("tocsin.pipelines.rul:pipeline", "few", few, every="2s"),
                lambda: bench.rate("tocsin.pipelines.rul:pipeline", "few", few, every="1h"),
            )
            print(f"checkpoints every 2 s: {every:,.0f} windows/s; none {never:,.0f}; ratio {ratio:.2f}", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
