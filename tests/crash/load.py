"""Messages for the crash tests' job: readings of many units, some in Arrow batches, some late, repeated or broken."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
from kafka import KafkaProducer

from tests.crash.job import SCHEMA

ARROW = [("content-type", b"application/vnd.apache.arrow.stream")]
STEP_MS = 10


class Message(NamedTuple):
    """One message, before Kafka gives it an offset."""

    partition: int
    value: bytes | None
    headers: list[tuple[str, bytes]]
    at_ms: int
    key: bytes | None = None


def reading(unit: int, cycle: int, heat: float, load: float = 1.0) -> dict[str, Any]:
    """Return one reading."""
    return {"unit": unit, "cycle": cycle, "heat": heat, "load": load}


def arrow(readings: list[dict[str, Any]]) -> bytes:
    """Encode readings as one Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(readings, schema=SCHEMA))
    return sink.getvalue().to_pybytes()


def messages(seed: int, *, units: int = 20, partitions: int = 2) -> Iterator[Message]:
    """Yield endless messages; a unit stays on its partition.

    Heats lie on a grid that misses every alert level by 0.0005, so that float32 and float64 agree on which side a heat is.
    """
    rng, cycles = random.Random(seed), [0] * units
    at_ms = int(time.time() * 1000) - 3_600_000  # timestamps run ahead of the clock; the broker refuses the far future

    def ahead(unit: int) -> dict[str, Any]:
        cycles[unit] += 1
        return reading(unit, cycles[unit], rng.randrange(100) / 100 + 0.0005, float(rng.randrange(1000)))

    while True:
        at_ms += STEP_MS
        unit, chance = rng.randrange(units), rng.random()
        partition = unit % partitions
        if chance < 0.08:
            mates = [rng.randrange(partition, units, partitions) for _ in range(rng.randrange(2, 9))]
            yield Message(partition, arrow([ahead(u) for u in mates]), ARROW, at_ms)
        elif chance < 0.10 and cycles[unit] > 2:
            old = reading(unit, cycles[unit] - rng.randrange(2), 0.9995)
            yield Message(partition, json.dumps(old).encode(), [], at_ms)
        elif chance < 0.11:
            yield Message(partition, b"not a reading", [], at_ms)
        else:
            yield Message(partition, json.dumps(ahead(unit)).encode(), [], at_ms)


class Load:
    """Sends `rate` messages per second, each as `change` returns it, from a thread while in the `with` block."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str,
        *,
        rate: int,
        seed: int,
        partitions: int = 2,
        change: Callable[[Message], Message] = lambda m: m,
    ) -> None:
        self._producer = KafkaProducer(**kafka, acks="all", linger_ms=5, delivery_timeout_ms=120_000)
        self._topic, self.rate, self._messages = topic, rate, map(change, messages(seed, partitions=partitions))
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Load:
        self._sent = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()
        self._producer.close(timeout=60)
        assert not self._sent.exception(), self._sent.exception()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            for _ in range(self.rate // 20):
                m = next(self._messages)
                self._producer.send(
                    self._topic, m.value, partition=m.partition, headers=m.headers, timestamp_ms=m.at_ms
                )
