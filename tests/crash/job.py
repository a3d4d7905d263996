"""The pipelines of the crash tests: every kind of state and alert without a model file, one of frames, and one by event time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.parts.intervals import Nearby
from tocsin.pipelines.runtime.declare.context import ContextTopic
from tocsin.pipelines.runtime.declare.pipeline import AlertRule, Batch, Commit, Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.formats.jpeg import frame_fields
from tocsin.pipelines.runtime.stages.frames import Gaps, Keep, Pixels
from tocsin.pipelines.runtime.stages.in_context import InContext
from tocsin.pipelines.runtime.stages.inactivity import Inactivity
from tocsin.pipelines.runtime.stages.infer import Encode, Infer
from tocsin.pipelines.runtime.stages.reorder import Reorder
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("heat", pa.float64(), nullable=False),
        pa.field("load", pa.float64(), nullable=False),
    ]
)
WINDOW = 3
HIGH, LOW, HOLD, COOLDOWN_S = 0.75, 0.25, 2, 3


def wear(window: Tensor) -> Mapping[str, Tensor]:
    """Return a weighted mean of the heats in a window, and the loads in it."""
    weights = torch.tensor([0.2, 0.3, 0.5])
    return {"score": (window[:, :, 0] * weights).sum(1), "loads": window[:, :, 1]}


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create the pipeline of readings.

    Args:
        options: name, topic, lateness, `patience` (how long readings wait for later ones), silence, `high` (level of the first
            rule), `hang` (it hangs while this file exists), `slow` (ms per row) and `slow_while` (slow only while this file
            exists), `extra` result columns.
    """

    def judge(window: Tensor) -> Mapping[str, Tensor]:
        while "hang" in options and Path(options["hang"]).exists():
            time.sleep(0.05)
        if "slow" in options and Path(options.get("slow_while", "/")).exists():
            time.sleep(len(window) * options["slow"] / 1000)
        return wear(window)

    silence = options.get("silence", "9999d")  # so long because the load's timestamps are old
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=SCHEMA,
        key="unit",
        stages=[
            Reorder(by="cycle", late=options.get("late", 0), wait=options.get("patience", "10s")),
            SlidingWindow(WINDOW, ["heat", "load"]),
            Infer(judge),
            Inactivity(silence),
        ],
        results=pa.schema(
            [
                ("unit", pa.int64()),
                ("cycle", pa.int64()),
                ("score", pa.float32()),
                ("loads", pa.list_(pa.float32())),
                ("silent", pa.bool_()),
                *((name, pa.float64()) for name in options.get("extra", ())),
            ]
        ),
        rules=[
            AlertRule(
                name="hot",
                severity="warning",
                when=pl.col("score") > options.get("high", HIGH),
                clear=pl.col("score") < LOW,
                data=["unit", "cycle", "score"],
            ),
            AlertRule(
                name="steady", severity="critical", when=pl.col("score") > 0.5, hold=HOLD, cooldown=f"{COOLDOWN_S}s"
            ),
            AlertRule(name="silent", severity="warning", when=pl.col("silent")),
        ],
        batch=Batch(rows=64),
        commit=Commit(every="300ms"),
    )


HEIGHT, WIDTH = 12, 16
FRAME = [
    pa.field("camera", pa.string(), nullable=False, metadata={"from": "header:camera"}),
    pa.field("sequence", pa.int64(), nullable=False, metadata={"from": "header:sequence"}),
    pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"from": "header:time"}),
]


class Changes(Stage):
    """Adds `change`, the difference in lightness to the camera's previous frame, and `jump`, whether it exceeds `JUMP`."""

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"before": Cell(fill=-1)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        before = state.cell("before")
        light, change = rows.tensors["light"], torch.zeros(len(rows))
        for index in rows.rounds():
            known = before[rows.slots[index]]
            change[index] = torch.where(known < 0, 0, light[index] - known)
            before[rows.slots[index]] = light[index]
        jump = change.abs() > JUMP
        return rows.with_columns({"change": pa.array(change.numpy()), "jump": pa.array(jump.numpy())})


JUMP = 60.0


def filmed(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create the pipeline of frames: a row per frame. One that differs much from the previous one raises an alert and is kept."""
    frame = frame_fields(HEIGHT, WIDTH, roots=options.get("roots", ()))
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=pa.schema([*FRAME, *frame]),
        key="camera",
        event_time="time",
        stages=[
            Reorder(),
            Gaps(by="sequence"),
            Pixels(frame[1]),
            Encode(lambda pixels: {"light": pixels.float().mean((1, 2, 3))}),
            Changes(),
            Keep(when="jump", folder=f"frames/{options['name']}", suffix=".jpg", into="frame"),
        ],
        results=pa.schema(
            [
                ("camera", pa.string()),
                ("sequence", pa.int64()),
                ("missed", pa.int64()),
                ("change", pa.float32()),
                ("frame", pa.string()),
            ]
        ),
        rules=[AlertRule(name="jump", severity="warning", when=pl.col("change").abs() > JUMP)],
        files={"frame": "jpeg"},
        batch=Batch(rows=16),
        commit=Commit(every=options.get("every", "300ms")),
    )


TIMED = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("heat", pa.float64(), nullable=False),
        pa.field("note", pa.string()),
    ]
)


def timed(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """Create the pipeline by event time: a row per reading, in order of event time. `options`: name, topic."""
    return Pipeline(
        name=options["name"],
        topic=options["topic"],
        schema=TIMED,
        key="unit",
        event_time="at",
        stages=[Reorder(late="2s", wait="1s")],
        results=pa.schema([("unit", pa.string()), ("heat", pa.float64()), ("note", pa.string())]),
        rules=[AlertRule(name="hot", severity="warning", when=pl.col("heat") > HIGH)],
        commit=Commit(every="300ms"),
    )


KINDS, NUMBERS, HORIZON = ("maintenance", "load"), ("load",), 1800
"""Of the context of `scheduled`, and how many seconds its rows look around."""


def around(slots: Tensor) -> dict[str, Tensor]:
    """A model of the slots of `Nearby`: how many intervals are near, and in how many seconds the next one begins."""
    is_near = ~slots[..., 0].isinf()
    coming = slots[..., 0].masked_fill(slots[..., 0] <= 0, math.inf)
    nearest = torch.cat([torch.full((len(slots), 1), math.inf), coming], dim=1)
    return {"near": is_near.sum(1).double(), "soon": nearest.amin(1).double()}


def scheduled(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """As `timed`, with a context: nothing rings during maintenance, and rows have the planned load, and what is near to them."""
    declared = timed(options, model)
    results = [("maintenance", pa.bool_()), ("load", pa.float64()), ("context", pa.string())]
    results += [("near", pa.float64()), ("soon", pa.float64())]
    return replace(
        declared,
        stages=[
            *declared.stages,
            Nearby(KINDS, NUMBERS, unit=1000, horizon=HORIZON),
            Infer(around, tensor="slots"),
            InContext(["maintenance"], {"load": ("load", "load")}),
        ],
        results=pa.schema([*declared.results, *results]),
        rules=[
            AlertRule(
                name="hot",
                severity="warning",
                when=(pl.col("heat") > HIGH) & ~pl.col("maintenance").fill_null(False),
                data=["unit", "heat", "context"],
            )
        ],
        context=ContextTopic(kinds=KINDS, numbers=NUMBERS),
    )
