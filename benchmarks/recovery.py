"""What a takeover costs by the size of the state, and what a checkpoint writes, on Apache Kafka.

    python -m benchmarks.recovery [--keys 1000,100000,1000000]

A shard with windows of 30 x 24 float32 for each key is left without a word after a checkpoint; timed is the next one's
takeover: fence, own, restore, re-run what the journal says. A process's own start (Python, torch: 2 to 4 s) comes on top.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deploy.kafka.server import KafkaServer
from pipelines.runtime import clients, feeder
from pipelines.runtime.codec import Codec
from pipelines.runtime.lake import Lake
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.plan import Model, Plan
from pipelines.runtime.provision import provision
from pipelines.runtime.reader import Reader
from pipelines.runtime.shard import Shard
from pipelines.runtime.spec import Spec
from pipelines.runtime.stages import Last, Sorted

SENSORS = [f"s{i}" for i in range(24)]
TOUCHED = 1000
"""Keys that have a reading between the last two checkpoints."""


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Windows, and nothing made of them."""
    fields = [("unit", pa.int64()), ("cycle", pa.int64()), *((s, pa.float32()) for s in SENSORS)]
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(n, t, nullable=False) for n, t in fields]),
        key="unit",
        stages=[Sorted(by="cycle"), Last(30, SENSORS)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64())]),
    )


def _readings(keys: int, cycle: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(cycle)
    for start in range(0, keys, 10_000):
        units = np.arange(start, min(start + 10_000, keys))
        values = rng.random((24, len(units)), np.float32)
        yield pa.record_batch([units, np.full(len(units), cycle), *values], names=["unit", "cycle", *SENSORS])


def _shard(plan: Plan, lake: Lake, kafka: Mapping[str, Any]) -> Shard:
    made = plan.build(lake)
    codec = Codec(topic=made.topic, schema=made.schema)
    return Shard(Spec(plan, lake, kafka, 0, [0]), Reader(kafka, made.topic, [0], codec, made.batch.rows))


def _read(shard: Shard, end: int) -> None:
    while shard.facts()["read"][0] < end:
        shard.turn()


def measure(keys: int, kafka: Mapping[str, Any], folder: Path) -> str:
    """One line of the report."""
    lake, topic = Lake(str(folder / f"lake-{keys}")), f"state-{keys}"
    plan = Plan("benchmarks.recovery:pipeline", {"name": topic, "topic": topic, "every": "1h", "size": "10GB"})
    provision(kafka, plan.build(lake), shards=1, create_input=1)
    shard, sizes = _shard(plan, lake, kafka), []
    for cycle, touched in enumerate((keys, TOUCHED, TOUCHED)):
        feeder.feed(_readings(touched, cycle), kafka=kafka, topic=topic, key="unit", format="arrow")
        with clients.consumer(kafka) as consumer:
            (end,) = consumer.end_offsets(assigned(topic)).values()
        _read(shard, end)
        shard.checkpoint()
        newest = max((folder / f"lake-{keys}" / "_state" / topic / "0").iterdir(), key=lambda p: int(p.name))
        sizes.append(sum(file.stat().st_size for file in newest.iterdir()))
    del shard
    gc.collect()
    began = time.perf_counter()
    successor = _shard(plan, lake, kafka)
    seconds = time.perf_counter() - began
    successor.close()
    return f"| {keys:,} | {sizes[1] / 1e6:,.1f} | {sizes[2] / 1e6:,.1f} | {seconds:.1f} |"


def assigned(topic: str) -> list[Any]:
    """Its one partition."""
    from kafka import TopicPartition

    return [TopicPartition(topic, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="1000,100000,1000000")
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        kafka = {"bootstrap_servers": server.bootstrap_servers}
        print(
            f"| keys | full snapshot, MB | a checkpoint with {TOUCHED} keys touched, MB | takeover, s |\n|---|---|---|---|"
        )
        for keys in map(int, parser.parse_args().keys.split(",")):
            print(measure(keys, kafka, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
