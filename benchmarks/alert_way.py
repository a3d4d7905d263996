"""Where an alert's time goes, from a reading's Kafka timestamp to a subscriber, stage by stage.

    OMP_NUM_THREADS=1 python -m benchmarks.alert_way [--rate 5000] [--seconds 20] [--client librdkafka]

A shard, its reader and the subscriber run in this process, the broker and the producer in others. One reading in a hundred raises
an alert. The stages of each alert add up to its age:

- produce: the producer's batch, the broker, and the fetch up to the reader;
- decode: the reader's poll;
- hand over: until the shard takes the poll;
- wait: until its step begins, because of the step's `wait` or of the step before it;
- step: the step;
- begin: until its transaction begins, because of the transaction before it;
- transaction: until the broker has acknowledged the commit;
- deliver: until the subscriber has the alert. Negative: before the acknowledgement.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
import torch
from kafka import TopicPartition

from benchmarks.engine import Bench, _limited
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.engine.shard import Shard
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.kafka import clients, feeder
from tocsin.pipelines.runtime.kafka.reader import Poll, Reader
from tocsin.pipelines.runtime.kafka.reader_thread import ReaderThread
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.process import begin

STAGES = ("produce", "decode", "hand over", "wait", "step", "begin", "transaction", "deliver")
TOPIC = "live"
FACTORY = "benchmarks.peers.jobs.tocsin_alerts:pipeline"


class Way:
    """The times at which each alert reached each stage, seconds since the epoch."""

    def __init__(self) -> None:
        self.times: dict[tuple[int, int], list[float]] = {}
        self._due = list[tuple[int, int]]()
        self._fetched = self._decoded = 0.0

    def of(self, reader: Reader, source: ReaderThread, shard: Shard) -> None:
        """Note the times of a shard's alerts from now on."""
        polls = dict[int, tuple[float, float, float]]()  # the poll's first moment, its end, and when it was handed over

        def read(original: Callable[..., Any], *given: Any) -> Any:
            began = time.time()
            decoded = original(*given)
            if decoded is not None:
                polls[id(decoded)] = (began, time.time(), 0.0)
            return decoded

        def taken(original: Callable[..., Poll | None], *given: Any) -> Poll | None:
            if poll := original(*given):
                self._note(poll, *polls.pop(id(poll))[:2], time.time())
            return poll

        def step(original: Callable[..., Any], batch: Any) -> Any:
            began = time.time()
            original(batch)
            ended = time.time()
            for alert in (due := self._alerts(batch.table)):
                self.times[alert] += [began, ended]
            self._due += due

        def publish(original: Callable[..., Any], *mark: Any) -> Any:
            due, self._due = self._due, []
            publisher = shard._recovered.publisher
            commit = type(publisher)._commit

            def timed(*given: Any) -> None:
                began = time.time()
                commit(publisher, *given)
                ended = time.time()
                for alert in due:
                    self.times[alert] += [began, ended]

            publisher.settle(wait=True)
            publisher._commit = timed  # type: ignore[method-assign]
            original(*mark)

        for holder, name, new in (
            (reader, "_decoded", read),
            (source, "poll", taken),
            (shard, "_step", step),
            (shard, "_publish", publish),
        ):
            original = getattr(holder, name)
            setattr(holder, name, lambda *given, o=original, n=new: n(o, *given))

    def _note(self, poll: Poll, *moments: float) -> None:
        stamps = poll.table.column("_timestamp").cast("int64").to_numpy() / 1000
        alerts = self._alerts(poll.table)
        due = np.flatnonzero(self._raises(poll.table))
        for alert, row in zip(alerts, due.tolist(), strict=True):
            self.times[alert] = [float(stamps[row]), *moments]

    @staticmethod
    def _raises(table: Any) -> np.ndarray:
        total = pc.add(table.column("unit"), table.column("cycle")).to_numpy()
        return np.asarray(total % 100 == 0)

    def _alerts(self, table: Any) -> list[tuple[int, int]]:
        rows = np.flatnonzero(self._raises(table))
        unit, cycle = (table.column(name).to_numpy()[rows].tolist() for name in ("unit", "cycle"))
        return [*zip(unit, cycle, strict=True)]


def _subscribe(kafka: Mapping[str, Any], topic: str, seen: dict[tuple[int, int], float], stop: threading.Event) -> None:
    consumer = clients.consumer(kafka, fetch_max_wait_ms=50)
    assigned = [TopicPartition(topic, p) for p in clients.partitions_of(consumer, topic)]
    consumer.assign(assigned)
    consumer.seek_to_end(*assigned)
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=50).values():
            now = time.time()
            for record in records:
                if dict(record.headers)["ce_type"].endswith(b"raised"):
                    seen[int(record.key), orjson.loads(record.value)["cycle"]] = now
    consumer.close()


def _feed(kafka: Mapping[str, Any], rate: int, seconds: float) -> None:
    feeder.feed(_limited(int(rate * seconds)), kafka={**kafka, "linger_ms": 0}, topic=TOPIC, key="unit", rate=rate)


def measure(kafka: dict[str, Any], lake: Lake, rate: int, seconds: float) -> np.ndarray:
    """Return the seconds that each alert spent in each stage, `[alerts, stages]`."""
    plan = Plan(FACTORY, {"name": TOPIC, "topic": TOPIC}, None, "cpu")
    pipeline = plan.build(lake)
    provision(kafka, pipeline, shards=1)
    reader = Reader(kafka, TOPIC, range(4), Codec.of(pipeline), pipeline.batch.rows)
    source = ReaderThread(reader, pipeline.batch.rows // 2)
    shard = Shard(ShardConfig(plan, lake, kafka, 0, range(4)), source)
    way, seen, stop = Way(), dict[tuple[int, int], float](), threading.Event()
    way.of(reader, source, shard)
    threads = [
        threading.Thread(target=shard.run, args=(stop,)),
        threading.Thread(target=_subscribe, args=(kafka, pipeline.alerts, seen, stop)),
    ]
    for thread in threads:
        thread.start()
    feed = multiprocessing.get_context("spawn").Process(target=_feed, args=(kafka, rate, seconds))
    feed.start()
    feed.join()
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join()
    whole = [[*times, seen[alert]] for alert, times in way.times.items() if len(times) == len(STAGES) and alert in seen]
    return np.diff(np.array(whole[len(whole) // 5 :]), axis=1)


def main() -> None:
    """Print the median and the 99th percentile of each stage, and of the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--client", default="librdkafka")
    args = parser.parse_args()
    begin({})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, KafkaServer(data=Path(folder) / "kafka") as server:
        Bench(Path(folder), server).provision(TOPIC)
        kafka = {"bootstrap_servers": server.bootstrap_servers, "client": args.client}
        spent = measure(kafka, Lake(str(Path(folder) / "lake")), args.rate, args.seconds) * 1000
    print(f"{len(spent)} alerts at {args.rate} readings/s, ms\n\n| | p50 | p99 |\n|---|---|---|")
    for name, column in [*zip(STAGES, spent.T, strict=True), ("whole", spent.sum(axis=1))]:
        print(f"| {name} | {np.percentile(column, 50):.1f} | {np.percentile(column, 99):.1f} |")


if __name__ == "__main__":
    main()
