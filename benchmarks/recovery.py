"""Measure recovery with Apache Kafka: from a SIGKILL to the next committed row and alert, and a shard's recovery by state size.

    python -m benchmarks.recovery [--only kills,takeover] [--rounds 10] [--keys 1000,100000,1000000]

- kills: a pipeline under `tocsin run` with 200 readings per second, a checkpoint every second, and an alert for every reading.
  Each part is killed in turn: worker, reader, supervisor, broker (restarted at once), and Ray with all its processes, as when a
  machine is lost (`tocsin run` is started again at once). Both times are observed from outside, for readings sent after the
  kill: the first row by the file in the table's log that commits it, the first alert by its arrival at a `read_committed`
  subscriber.
- takeover: a shard with a window of 30 x 24 float32 per key is abandoned after a checkpoint. The time is that of the next owner's
  recovery: fence, take ownership, restore, re-run the steps in the journal. It does not include the start of a process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import psutil
import pyarrow as pa
from kafka import KafkaProducer

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Pipeline
from tocsin.pipelines.runtime.engine.plan import Model, Plan
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients, feeder
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

SENSORS = [f"s{i}" for i in range(24)]
TOUCHED = 1000
"""Number of keys that get a reading between two checkpoints."""


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """A pipeline that builds windows and does not use them."""
    fields = [("unit", pa.int64()), ("cycle", pa.int64()), *((s, pa.float32()) for s in SENSORS)]
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(n, t, nullable=False) for n, t in fields]),
        key="unit",
        stages=[Reorder(by="cycle"), SlidingWindow(30, SENSORS)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64())]),
    )


def _readings(keys: int, cycle: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(cycle)
    for start in range(0, keys, 10_000):
        units = np.arange(start, min(start + 10_000, keys))
        values = rng.random((24, len(units)), np.float32)
        yield pa.record_batch([units, np.full(len(units), cycle), *values], names=["unit", "cycle", *SENSORS])


def _shard(plan: Plan, lake: Lake, kafka: Mapping[str, Any]) -> Shard:
    declared = plan.build(lake)
    codec = Codec(topic=declared.topic, schema=declared.schema)
    return Shard(ShardConfig(plan, lake, kafka, 0, [0]), Reader(kafka, declared.topic, [0], codec, declared.batch.rows))


def _read(shard: Shard, end: int) -> None:
    while shard.facts()["read"][0] < end:
        shard.turn()


def measure(keys: int, kafka: Mapping[str, Any], folder: Path) -> str:
    """Measure one number of keys. Returns a line of the report."""
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
    """Return the only partition of a topic."""
    from kafka import TopicPartition

    return [TopicPartition(topic, 0)]


NAME, TOPIC = "recovery", "sensors.recovery"
RATE, UNITS = 200, 20
REST_S = 5.0
PATIENCE_S = 300.0
PARTS = {"worker": "ray::Worker", "reader": "ray::Reader", "supervisor": "ray::Supervisor"}
"""The titles that Ray gives to the processes of each part."""


def alerting(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """A pipeline in which each reading raises or clears its unit's alert."""
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(n, pa.int64(), nullable=False) for n in ("unit", "cycle")]),
        key="unit",
        stages=[Reorder(by="cycle")],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64())]),
        rules=[AlertRule(name="odd", severity="info", when=pl.col("cycle") % 2 == 1, clear=pl.col("cycle") % 2 == 0)],
    )


class Running:
    """`tocsin run` under load: kills its parts, and observes rows and alerts from outside."""

    def __init__(self, folder: Path, server: KafkaServer) -> None:
        self._folder, self._server = folder, server
        self._kafka = {"bootstrap_servers": server.bootstrap_servers}
        (folder / "tocsin.toml").write_text(
            f"""
            kafka.bootstrap_servers = "{server.bootstrap_servers}"
            lake.path = "{folder / "lake"}"
            lake.alerts = false
            mlflow.enabled = false
            ray.num_cpus = 0
            [pipelines.{NAME}]
            factory = "benchmarks.recovery:alerting"
            topic = "{TOPIC}"
            every = "1s"
            """
        )
        self._stopped = threading.Event()
        self._killed_at, self._alert_at = 0.0, 0.0
        with clients.admin(self._kafka) as admin:
            admin.create_topics({TOPIC: {"num_partitions": 1}, f"alerts.{NAME}": {"num_partitions": 1}})
        for work in (self._feed, self._listen):
            threading.Thread(target=work, daemon=True).start()
        self.start()

    def start(self) -> None:
        """Start `tocsin run`."""
        command = [sys.executable, "-m", "tocsin", "run", NAME]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with (self._folder / "said").open("a") as output:
            self._process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=output, stderr=output)

    def kill(self, part: str) -> float:
        """SIGKILL a part, and restart at once what nothing else restarts. Returns the time of the kill, s since the epoch."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        titled = [p for p in children if (p.cmdline() or [""])[0].startswith(PARTS.get(part, "none"))]
        self._alert_at, self._killed_at = 0.0, time.time()
        if part == "broker":
            self._server.kill()
            self._server.restart()
        elif part == "Ray":
            self._end(children)
            self.start()
        else:
            max(titled, key=lambda p: p.create_time()).kill()
        return self._killed_at

    def recovers(self, at: float) -> tuple[float, float]:
        """Return the seconds from `at` to the next committed row and to the next alert of readings that were sent after `at`."""
        row, alert = 0.0, 0.0
        give_up = time.time() + PATIENCE_S
        while not (row and alert):
            if time.time() > give_up:
                raise TimeoutError(
                    f"expected rows and alerts within {PATIENCE_S:g} s, got {(self._folder / 'said').read_text()}"
                )
            row = row or self._committed_after(at)
            alert = self._alert_at
            time.sleep(0.01)
        return row - at, alert - at

    def close(self) -> None:
        """Kill the command and all its processes."""
        self._stopped.set()
        self._end(psutil.Process(self._process.pid).children(recursive=True))

    def _end(self, children: list[psutil.Process]) -> None:
        self._process.kill()
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _committed_after(self, at: float) -> float:
        """Return when the first row of a reading sent after `at` was committed, or 0 if none has been."""
        for file in sorted((self._folder / "lake" / NAME / "_delta_log").glob("*.json")):
            if (committed_at := file.stat().st_mtime) > at:
                actions = [orjson.loads(line) for line in file.read_bytes().splitlines()]
                stats = [orjson.loads(a["add"]["stats"]) for a in actions if "add" in a]
                if any(_since(found["maxValues"]["event_time"]) > at for found in stats):
                    return committed_at
        return 0.0

    def _feed(self) -> None:
        producer = KafkaProducer(**self._kafka, acks="all", delivery_timeout_ms=600_000, reconnect_backoff_max_ms=200)
        sent, began = 0, time.monotonic()
        while not self._stopped.wait(0.01):
            for n in range(sent, round((time.monotonic() - began) * RATE)):
                value = orjson.dumps({"unit": n % UNITS, "cycle": n // UNITS + 1})
                producer.send(TOPIC, key=str(n % UNITS).encode(), value=value)
                sent = n + 1

    def _listen(self) -> None:
        """Record the arrival of the first alert of a reading that was sent after a kill."""
        options = {"reconnect_backoff_max_ms": 200, "fetch_max_wait_ms": 20}
        with contextlib.closing(clients.consumer(self._kafka, **options)) as consumer:
            (tp,) = assigned(f"alerts.{NAME}")
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            while not self._stopped.is_set():
                for records in consumer.poll(timeout_ms=50).values():
                    newest = _since(dict(records[-1].headers)["ce_time"].decode())
                    if not self._alert_at and newest > self._killed_at:
                        self._alert_at = time.time()


def _since(text: str) -> float:
    """Return a time in s since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def kills(rounds: int) -> None:
    """Kill each part `rounds` times, and print the recovery times."""
    times: dict[str, list[tuple[float, float]]] = {part: [] for part in (*PARTS, "broker", "Ray")}
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        running = Running(Path(folder), server)
        try:
            running.recovers(time.time())
            for _ in range(rounds):
                for part, found in times.items():
                    time.sleep(REST_S + np.random.default_rng().random())
                    found.append(running.recovers(running.kill(part)))
                    print(f"{part}: row {found[-1][0]:.1f} s, alert {found[-1][1]:.1f} s", file=sys.stderr, flush=True)
        finally:
            running.close()
    print(
        f"| killed, {rounds} times each | next committed row, s: p50 / max | next alert, s: p50 / max |\n|---|---|---|"
    )
    for part, found in times.items():
        rows, alerts = zip(*found, strict=True)
        print(f"| {part} | {_spread(rows)} | {_spread(alerts)} |", flush=True)


def _spread(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.1f} / {max(seconds):.1f}"


def takeovers(sizes: list[int]) -> None:
    """Print the time of a recovery by the number of keys."""
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        kafka = {"bootstrap_servers": server.bootstrap_servers}
        print(
            f"| keys | full snapshot, MB | a checkpoint with {TOUCHED} keys touched, MB | takeover, s |\n|---|---|---|---|"
        )
        for keys in sizes:
            print(measure(keys, kafka, Path(folder)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="kills,takeover")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keys", default="1000,100000,1000000")
    args = parser.parse_args()
    if "kills" in args.only:
        kills(args.rounds)
    if "takeover" in args.only:
        takeovers([*map(int, args.keys.split(","))])


if __name__ == "__main__":
    main()
