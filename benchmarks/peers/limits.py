"""What the single steps of a job can do at most, each alone: fetching, decoding, the network, Parquet."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from confluent_kafka import OFFSET_BEGINNING, Consumer
from confluent_kafka import TopicPartition as NativePartition
from kafka import TopicPartition

from benchmarks.engine import SENSORS, Bench
from benchmarks.network import BATCH, Recurrent, rate
from tocsin.pipelines.runtime.kafka import clients

MOST = 200
"""Polls that are kept to decode them."""


def none(bench: Bench, topic: str, records: int) -> dict[str, float]:
    """No limits: two runs are compared."""
    return {}


def of_readings(bench: Bench, topic: str, records: int) -> dict[str, float]:
    """Rows/s of each step for JSON readings."""
    fetched, polls = _librdkafka(bench, topic, records, 5000)
    schema = {"unit": pl.Int64, "cycle": pl.Int64, **dict.fromkeys(SENSORS, pl.Float64)}
    return {
        "fetch alone, librdkafka": fetched,
        "fetch alone, kafka-python": bench.bare(topic, records),
        "decoding alone": _each(polls, lambda values: len(pl.read_ndjson(b"\n".join(values), schema=schema))),
        "Parquet alone": _parquet(),
    }


def of_messages(bench: Bench, topic: str, records: int) -> dict[str, float]:
    """Rows/s of each step for Arrow messages."""
    fetched, polls = _librdkafka(bench, topic, _messages(bench, topic), 50)
    rows = [[pa.ipc.open_stream(value).read_all().num_rows for value in values] for values in polls]
    per_message = float(np.mean(np.concatenate(rows)))
    return {
        "fetch alone, librdkafka": fetched * per_message,
        "decoding alone": _each(
            polls, lambda values: sum(pa.ipc.open_stream(value).read_all().num_rows for value in values)
        ),
        "Parquet alone": _parquet(),
    }


def of_network(bench: Bench, topic: str, records: int) -> dict[str, float]:
    """Windows/s of the network alone, in one thread."""
    return {"the network alone": rate(Recurrent(), torch.randn(BATCH, 30, len(Recurrent.features)))}


def _messages(bench: Bench, topic: str) -> int:
    with clients.consumer(bench.kafka) as consumer:
        partitions = [TopicPartition(topic, p) for p in clients.partitions_of(consumer, topic)]
        return sum(consumer.end_offsets(partitions).values())


def _librdkafka(bench: Bench, topic: str, messages: int, poll: int) -> tuple[float, list[list[bytes]]]:
    """Messages/s of a client that only fetches, and its first polls."""
    consumer = Consumer({"bootstrap.servers": bench.kafka["bootstrap_servers"], "group.id": "none"})
    with clients.admin(bench.kafka) as admin:
        count = clients.partitions(admin, [topic])[topic]
    consumer.assign([NativePartition(topic, p, OFFSET_BEGINNING) for p in range(count)])
    seen, started, kept = 0, 0.0, list[list[bytes]]()
    while seen < messages:
        values = [value for message in consumer.consume(poll, 1.0) if (value := message.value())]
        started = started or time.perf_counter()
        seen += len(values)
        if len(kept) < MOST:
            kept.append(values)
    consumer.close()
    return seen / (time.perf_counter() - started), kept


def _each(polls: Sequence[list[bytes]], rows: Callable[[list[bytes]], int]) -> float:
    """Rows/s of a function of polls."""
    started = time.perf_counter()
    return sum(rows(values) for values in polls if values) / (time.perf_counter() - started)


def _parquet(rows: int = 500_000) -> float:
    """Rows/s of a Parquet writer, with the jobs' three columns."""
    table = pa.table(
        {"unit": np.arange(rows) % 500, "cycle": np.arange(rows) // 500, "mean": np.random.default_rng(0).random(rows)}
    )
    started = time.perf_counter()
    pq.write_table(table, io.BytesIO())
    return rows / (time.perf_counter() - started)
