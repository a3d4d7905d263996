"""Tocsin: the RUL network on each engine's last 30 readings."""

import pyarrow as pa

from benchmarks.peers.jobs.tocsin_windows import INTEGERS, NUMBERS
from tocsin.models.rul.model import load
from tocsin.pipelines.runtime import Pipeline
from tocsin.pipelines.runtime.stages import Infer, SlidingWindow


def pipeline(options, model):
    network = load(device="cpu")
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(name, kind, nullable=False) for name, kind in (INTEGERS | NUMBERS).items()]),
        key="unit",
        stages=[SlidingWindow(30, network.config.features), Infer(network)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("rul", pa.float32())]),
    )
