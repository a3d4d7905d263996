"""Tocsin: the mean over each engine's last 30 readings."""

import pyarrow as pa

from tocsin.pipelines.runtime import Pipeline
from tocsin.pipelines.runtime.stages import Infer, SlidingWindow

SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
INTEGERS, NUMBERS = dict.fromkeys(("unit", "cycle"), pa.int64()), dict.fromkeys(SENSORS, pa.float64())


def mean(window):
    """`[B, 30, 24]` -> `[B]`."""
    return {"mean": window.mean((1, 2))}


def pipeline(options, model):
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(name, kind, nullable=False) for name, kind in (INTEGERS | NUMBERS).items()]),
        key="unit",
        stages=[SlidingWindow(30, SENSORS), Infer(mean)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("mean", pa.float32())]),
    )
