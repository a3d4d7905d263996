"""Bytewax: the same for Arrow messages, each a stream of many readings."""

import os

import bytewax.operators as op
import pyarrow as pa
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax_windows import ParquetSink, row, windowed


def decode(message):
    """The readings of a message, each under its unit."""
    columns = pa.ipc.open_stream(message.value).read_all().to_pydict()
    units, cycles = columns.pop("unit"), columns.pop("cycle")
    for unit, cycle, values in zip(units, cycles, zip(*columns.values(), strict=True), strict=True):
        yield str(unit), (cycle, sum(values) / len(values))


flow = Dataflow("arrow")
messages = kop.input("in", flow, brokers=[os.environ["KAFKA"]], topics=[os.environ["TOPIC"]], batch_size=50)
means = op.stateful_map("window", op.flat_map("decode", messages.oks, decode), windowed)
op.output("out", op.filter_map("rows", means, row), ParquetSink())
