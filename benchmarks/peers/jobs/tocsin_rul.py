"""Tocsin: a recurrent RUL network on each engine's last 30 readings."""

import pyarrow as pa

from benchmarks.network import Recurrent
from benchmarks.peers.jobs.tocsin_windows import INTEGERS, NUMBERS
from tocsin.pipelines.runtime import Pipeline
from tocsin.pipelines.runtime.stages import Infer, SlidingWindow


def pipeline(options, model):
    network = Recurrent()
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(name, kind, nullable=False) for name, kind in (INTEGERS | NUMBERS).items()]),
        key="unit",
        stages=[SlidingWindow(30, network.features), Infer(network)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("rul", pa.float32())]),
    )
