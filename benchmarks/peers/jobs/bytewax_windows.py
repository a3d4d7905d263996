"""Bytewax: the mean over each engine's last 30 readings."""

import os
import time
from collections import deque
from pathlib import Path

import bytewax.operators as op
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

LENGTH = 30


class Parquet(StatelessSinkPartition):
    """A file for each batch."""

    def __init__(self, path):
        self._path = path

    def write_batch(self, rows):
        path = f"{self._path}/{time.time_ns()}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), f"{path}.part")
        Path(f"{path}.part").rename(path)


class ParquetSink(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Parquet(os.environ["OUT"])


def decode(message):
    reading = orjson.loads(message.value)
    unit, cycle = reading.pop("unit"), reading.pop("cycle")
    return str(unit), (cycle, sum(reading.values()) / len(reading))


def windowed(window, reading):
    cycle, value = reading
    window = deque(maxlen=LENGTH) if window is None else window
    window.append(value)
    return window, (cycle, sum(window) / LENGTH if len(window) == LENGTH else None)


def row(item):
    unit, (cycle, mean) = item
    return None if mean is None else {"unit": int(unit), "cycle": cycle, "mean": mean}


flow = Dataflow("windows")
messages = kop.input("in", flow, brokers=[os.environ["KAFKA"]], topics=[os.environ["TOPIC"]], batch_size=5000)
readings = op.map("decode", messages.oks, decode)
means = op.stateful_map("window", readings, windowed)
op.output("out", op.filter_map("rows", means, row), ParquetSink())
