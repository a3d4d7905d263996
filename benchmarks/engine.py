"""What the engine costs: ratios of runs side by side on this machine, on Apache Kafka.

    python -m benchmarks.engine [--records 300000] [--rounds 3] [--only trivial,rul,latency,checkpoints]

- trivial: JSON of 24 sensors through a stage that does nothing, against a bare kafka-python poll loop on the same topic
- rul: the same with the RUL network, against the network alone on ready windows of the same batch size: the shipped weights
  (24 thousand parameters), and random ones at the paper's widths (some 500 thousand), for a network that is the bottleneck
- latency: from produce to a `read_committed` subscriber at 5,000 messages a second
- checkpoints: the RUL job with a checkpoint every 2 s, against none
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
import torch

from deploy.kafka.server import KafkaServer
from models.rul.config import NetworkSize, RulConfig
from models.rul.fleet import live
from models.rul.model import FD001, RulModel, build, load
from pipelines.runtime import clients, feeder
from pipelines.runtime.cluster import connect
from pipelines.runtime.lake import Lake
from pipelines.runtime.pipeline import AlertRule, Batch, Commit, Pipeline
from pipelines.runtime.plan import Model, Plan, store_model
from pipelines.runtime.provision import provision
from pipelines.runtime.supervisor import Deployment, deploy

ROOT = str(Path(__file__).parents[1])
SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
NETWORK_BATCH = 512


def trivial(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """24 sensors decoded, one kept; one reading in a hundred rings when `alarms` is set."""
    fields = [("unit", pa.int64()), ("cycle", pa.int64()), *((s, pa.float64()) for s in SENSORS)]
    rings = (pl.col("cycle") + pl.col("unit")) % 100 == 0
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(n, t, nullable=False) for n, t in fields]),
        key="unit",
        stages=[],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("s2", pa.float64())]),
        rules=[AlertRule(name="hundredth", severity="info", when=rings, data=["cycle"])]
        if options.get("alarms")
        else [],
        batch=Batch(rows=options.get("rows", 5000)),
        commit=Commit(every=options.get("every", "5s"), size="256MB"),
    )


class Bench:
    """A broker, a Ray cluster and a lake for one run of the benchmark."""

    def __init__(self, folder: Path, server: KafkaServer) -> None:
        self.kafka = {"bootstrap_servers": server.bootstrap_servers}
        self._folder, self._runs = folder, 0

    def topic(self, name: str, rows: int) -> str:
        """A topic with so many readings of a fleet, four partitions, JSON."""
        self.provision(name)
        feeder.feed(_limited(rows), kafka=self.kafka, topic=name, key="unit")
        return name

    def provision(self, name: str) -> None:
        with clients.admin(self.kafka) as admin:
            admin.create_topics({name: {"num_partitions": 4, "replication_factor": 1}}, wait_for_metadata=True)

    def deploy(self, factory: str, topic: str, weights: Path = FD001, **options: Any) -> tuple[str, Lake, Any]:
        """Start a job that begins at the earliest record; its name, lake and supervisor."""
        self._runs += 1
        name = f"{topic}-{self._runs}"
        lake = Lake(str(self._folder / name))
        ref = store_model(lake, weights, name="rul", version="1") if "rul" in factory else None
        plan = Plan(factory, {"name": name, "topic": topic, **options}, ref, "cpu")
        partitions = provision(self.kafka, plan.build(lake), shards=1)
        deployment = Deployment(
            name=name, plan=plan, lake=lake, kafka=self.kafka, partitions=partitions, env={"PYTHONPATH": ROOT}
        )
        return name, lake, deploy(deployment)

    def rate(self, factory: str, topic: str, readings: int, **options: Any) -> float:
        """Readings a second from the end of the first step to the last one, as the job's own clock saw it."""
        name, lake, supervisor = self.deploy(factory, topic, **options)
        while sum(_read(supervisor).values()) < readings:
            time.sleep(0.5)
        ray.get(supervisor.stop.remote())
        ray.kill(supervisor)
        steps = pl.scan_delta(lake.uri(name)).group_by("processed_at").len().sort("processed_at").collect()
        seconds = (steps["processed_at"][-1] - steps["processed_at"][0]).total_seconds()
        return float(steps["len"][:-1].sum() / seconds)

    def bare(self, topic: str, rows: int) -> float:
        """Records a second of a poll loop that does nothing with them."""
        from kafka import TopicPartition

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
    """A model of the paper's widths with random weights: its verdicts mean nothing, its cost does."""
    sizes = NetworkSize(conv=(64, 128), lstm=128, attention=64, head=(64, 32))
    config = replace(RulConfig.load(FD001), network=sizes)
    RulModel(config, build(config), torch.device("cpu")).save(folder)
    return folder


def network_alone(weights: Path, seconds: float = 6.0) -> float:
    """Windows a second of a network on ready windows, one thread as in a worker."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    judge = load(weights, device="cpu")
    mean, scale = torch.tensor(judge.config.mean), torch.tensor(judge.config.scale)
    windows = torch.randn(NETWORK_BATCH, judge.config.window, len(mean)) * scale + mean
    judge(windows)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        judge(windows)
        done += NETWORK_BATCH
    return done / (time.perf_counter() - started)


def latency(bench: Bench, rate: int, seconds: float) -> dict[str, float]:
    """Milliseconds from a reading's produce time to its alarm at a subscriber."""
    bench.provision("live")
    _, _, supervisor = bench.deploy("benchmarks.engine:trivial", "live", alarms=True)
    while not _read(supervisor):
        time.sleep(0.2)
    (alerts,) = [t for t in _topics(bench) if t.startswith("alerts.live")]
    stop, ages = threading.Event(), list[float]()
    listener = threading.Thread(target=_listen, args=(bench, alerts, stop, ages))
    listener.start()
    feeder.feed(
        _limited(int(rate * seconds)), kafka=bench.kafka | {"linger_ms": 0}, topic="live", key="unit", rate=rate
    )
    time.sleep(2)
    stop.set()
    listener.join()
    ray.get(supervisor.stop.remote())
    ray.kill(supervisor)
    warm = np.array(ages[len(ages) // 5 :])
    return {"alarms": len(warm), **{f"p{q}": float(np.percentile(warm, q)) for q in (50, 95, 99)}}


def _listen(bench: Bench, topic: str, stop: threading.Event, ages: list[float]) -> None:
    from kafka import TopicPartition

    consumer = clients.consumer(bench.kafka, fetch_max_wait_ms=50)
    assigned = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(assigned)
    consumer.seek_to_beginning(*assigned)
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=50).values():
            now = time.time()
            for record in records:
                headers = dict(record.headers)
                rang = pl.Series([headers["ce_time"].decode()]).str.to_datetime(time_zone="UTC")[0]
                if headers["ce_type"].endswith(b"raised"):
                    ages.append((now - rang.timestamp()) * 1000)
    consumer.close()


def _topics(bench: Bench) -> list[str]:
    with clients.admin(bench.kafka) as admin:
        return list(admin.list_topics())


def _read(supervisor: Any) -> dict[int, int]:
    shards = ray.get(supervisor.status.remote())["shards"]
    return shards[0]["facts"].get("read", {}) if shards else {}


def _limited(rows: int) -> Any:
    """So many readings of a fleet of 500 engines that last."""
    for cycle in live(engines=500, seed=1, soonest=100_000 // 500):
        yield cycle.drop("rul").head(rows)
        rows -= len(cycle)
        if rows <= 0:
            return


def beside(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float, float]:
    """Median rates of both and the median of the pairs' ratios; turn by turn, for the machine's speed drifts."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), statistics.median(a / b for a, b in pairs))


def main() -> None:
    """Run what was asked for and print one line each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--records", type=int, default=300_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", default="trivial,rul,latency,checkpoints")
    args = options.parse_args()
    wanted = args.only.split(",")
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        connect("local", env={"PYTHONPATH": ROOT})
        bench = Bench(Path(folder), server)
        rows, few = args.records, args.records // 3
        bench.topic("readings", rows)
        bench.topic("few", few)
        if "trivial" in wanted:
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
        if "rul" in wanted:
            for name, weights in (("shipped", FD001), ("paper-sized", paper_sized(Path(folder) / "paper"))):
                ours, alone, ratio = beside(
                    args.rounds,
                    lambda weights=weights: bench.rate("pipelines.rul:pipeline", "few", few, weights=weights),
                    lambda weights=weights: network_alone(weights),
                )
                print(f"RUL, {name} network: {ours:,.0f} windows/s; alone {alone:,.0f}; ratio {ratio:.2f}", flush=True)
        if "latency" in wanted:
            print("alarm latency at 5,000 messages/s, ms:", latency(bench, 5000, 30), flush=True)
        if "checkpoints" in wanted:
            every, never, ratio = beside(
                args.rounds,
                lambda: bench.rate("pipelines.rul:pipeline", "few", few, every="2s"),
                lambda: bench.rate("pipelines.rul:pipeline", "few", few, every="1h"),
            )
            print(f"checkpoints every 2 s: {every:,.0f} windows/s; none {never:,.0f}; ratio {ratio:.2f}", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
