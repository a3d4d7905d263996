"""Tocsin: an encoder on each frame."""

import pyarrow as pa

from benchmarks.peers.jobs.frames_network import CONFIG, mean
from tocsin.pipelines.runtime import Batch, Pipeline, frame_fields
from tocsin.pipelines.runtime.stages import Infer, Pixels


def pipeline(options, model):
    _, pixels = frame_fields(CONFIG.height, CONFIG.width)
    facts = [
        pa.field(name, pa.int64(), nullable=False, metadata={"from": f"header:{name}"}) for name in ("unit", "cycle")
    ]
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([*facts, pixels]),
        key="unit",
        stages=[Pixels(pixels), Infer(mean, tensor="pixels", batch=32)],
        results=pa.schema([("unit", pa.int64()), ("cycle", pa.int64()), ("mean", pa.float32())]),
        batch=Batch(rows=64),
    )
