"""What a change of the model costs on a running stream: the age of alerts while shards swap, against all other times.

    OMP_NUM_THREADS=1 python -m benchmarks.swap [--rate 5000] [--seconds 90] [--every 8]

The pipeline `rul` runs on Ray and Apache Kafka, and follows an alias of a real MLflow server. A fleet whose machines live for 60
cycles raises and clears alerts all the time. Every few seconds the alias moves to the other of two versions. An alert belongs to a
swap from a second before to a second after the first alert of the new version. Ages are from Kafka's timestamp to a subscriber that
reads committed alerts only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import ray
from kafka import KafkaProducer

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.models.promotion import promote
from tocsin.models.registry import register
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines.query import alerts
from tocsin.pipelines.runtime.control.deployment import Deployment, provisioned
from tocsin.pipelines.runtime.control.launch import deploy
from tocsin.pipelines.runtime.control.ray_client import connect
from tocsin.pipelines.runtime.engine.plan import Plan, store_model
from tocsin.pipelines.runtime.lake.storage import Lake

ROOT = str(Path(__file__).parents[1])
NAME, TOPIC = "swapped", "sensors.swapped"
LIFE, UNITS = 60, 500
WARM_S, NEAR_S = 20.0, 1.0


def send(bootstrap: str, rate: int, seconds: float) -> None:
    """Send the last cycles of engines' lives again and again, each engine at another one, at a steady rate."""
    lives = run_to_failure(engines=UNITS, seed=0).filter(pl.col("rul") < LIFE)
    lives = lives.with_columns(cycle=LIFE - pl.col("rul")).drop("rul").sort("cycle", "unit")
    readings = [orjson.dumps(row) for row in lives.iter_rows(named=True)]  # cycle by cycle, all engines
    shifted = [readings[(cycle + unit) % LIFE * UNITS + unit] for cycle in range(LIFE) for unit in range(UNITS)]
    producer, began, sent = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=2), time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        while sent < rate * elapsed:
            producer.send(TOPIC, shifted[sent % len(shifted)], str(sent % UNITS).encode(), partition=0)
            sent += 1
        time.sleep(0.002)
    producer.close()


def subscribe(kafka: dict[str, str], ages: list[tuple[float, float, str]]) -> None:
    """Append the arrival, the age (s) and the model version of each alert."""
    for alert in alerts(NAME, kafka=kafka, follow=True):
        now = time.time()
        ages.append((now, now - alert.time.timestamp(), str(alert.data["model_version"])))


@contextmanager
def tracking(folder: Path, port: int) -> Iterator[str]:
    """Run an MLflow server; yields its address."""
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def report(ages: list[tuple[float, float, str]], begin: float) -> str:
    """The percentiles of ages near swaps and elsewhere, ms, and their ratios."""
    at, age, version = (np.array(column) for column in zip(*(row for row in ages if row[0] > begin), strict=True))
    swaps = at[1:][version[1:] != version[:-1]]
    near = (np.abs(at[:, None] - swaps) < NEAR_S).any(1)
    (p50, p99), (swap50, swap99) = (np.percentile(age[part] * 1000, (50, 99)) for part in (~near, near))
    counted = f"{len(swaps)} swaps; alerts: {near.sum():,} near one, {(~near).sum():,} elsewhere"
    return (
        f"{counted}; p50 {swap50:.0f} / {p50:.0f} ms, ratio {swap50 / p50:.2f}; p99 {swap99:.0f} / {p99:.0f} ms, ratio "
        f"{swap99 / p99:.2f}"
    )


def main() -> None:
    """Run the stream, swap, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--every", type=float, default=8)
    parser.add_argument("--port", type=int, default=25_317, help="of the MLflow server")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as temporary,
        KafkaServer(data=Path(temporary, "kafka")) as server,
        tracking(Path(temporary), args.port) as uri,
    ):
        folder, kafka = Path(temporary), {"bootstrap_servers": server.bootstrap_servers}
        other = load(FD001, "cpu")
        for weights in other.parts.network.parameters():
            weights.mul_(0.99)
        other.save(folder / "other")
        for weights in (FD001, folder / "other"):
            register(weights, name=NAME, domain="rul", params={}, metrics=[], tracking_uri=uri, alias="champion")
        connect("local", env={"PYTHONPATH": ROOT})
        lake = Lake(str(folder / "lake"))
        model = store_model(lake, folder / "other", name=NAME, version="2")
        options = {"name": NAME, "topic": TOPIC, "restart": 1, "hysteresis": 0}
        plan = Plan("tocsin.pipelines.rul:pipeline", options, model)
        followed = {"tracking": (uri, NAME), "follows": f"{NAME}@champion", "follow_s": 0.5}
        wanted = Deployment(plan, lake, kafka, env={"PYTHONPATH": ROOT}, **followed)
        deploy(replace(provisioned(wanted, alerts=False, create_input=1)))
        ages = list[tuple[float, float, str]]()
        threading.Thread(target=subscribe, args=(kafka, ages), daemon=True).start()
        total = WARM_S + args.seconds
        sender = multiprocessing.get_context("spawn").Process(
            target=send, args=(kafka["bootstrap_servers"], args.rate, total)
        )
        sender.start()
        time.sleep(WARM_S)
        begin, end, version = time.time(), time.time() + args.seconds, 2
        while time.time() + args.every < end:
            time.sleep(args.every)
            version = 3 - version
            promote(f"{NAME}/{version}", tracking_uri=uri)
        sender.join()
        print(f"{args.rate:,} readings/s: {report(ages, begin)}", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
