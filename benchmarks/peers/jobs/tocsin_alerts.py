"""Tocsin: each hundredth reading raises an alert."""

import polars as pl
import pyarrow as pa

from benchmarks.peers.jobs.tocsin_windows import INTEGERS, NUMBERS
from tocsin.pipelines.runtime import AlertRule, Pipeline


def pipeline(options, model):
    hundredth = (pl.col("cycle") + pl.col("unit")) % 100 == 0
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([pa.field(name, kind, nullable=False) for name, kind in (INTEGERS | NUMBERS).items()]),
        key="unit",
        stages=[],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("s2", pa.float64())]),
        rules=[AlertRule(name="hundredth", severity="info", when=hundredth, data=["cycle"])],
    )
