"""Bytewax: the mean over each engine's last 30 readings."""

import os
from collections import deque

import bytewax.operators as op
import orjson
import parquet_files
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

LENGTH = 30


class Parquet(StatelessSinkPartition):
    """A file for each batch."""

    def write_batch(self, rows):
        parquet_files.write(rows)


class ParquetSink(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Parquet()


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
