"""Any fixed camera: is it showing what is there, or is it frozen, replayed, replaced, covered, defocused or turned away?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from pydantic import Field

from tocsin.models.domain import Shot
from tocsin.models.tampering.domain import Tampering
from tocsin.models.tampering.interval import EASE, HOLD, Interval
from tocsin.models.tampering.measures import Measured
from tocsin.models.tampering.memory import Evidence, Memory
from tocsin.models.tampering.model import TamperingModel, load
from tocsin.models.vision import flow
from tocsin.pipelines.parts.cameras import CameraOptions, reviewed
from tocsin.pipelines.parts.maps import nested
from tocsin.pipelines.runtime import (
    FACTS,
    NEVER,
    AlertRule,
    Batch,
    Cell,
    Declared,
    Model,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    frame_fields,
    replay_clip,
)
from tocsin.pipelines.runtime.stages import Gaps, Keep, Pixels, Reorder

CLEARER = 1e-3
"""By how much a frame's score must be higher for its kind to count instead: the size of a batch changes a score by less."""

RESULTS = pa.schema(
    [
        ("camera", pa.string()),
        ("sequence", pa.int64()),
        ("missed", pa.int64()),
        pa.field("score", pa.float32(), metadata={"axis": "tampering"}),
        ("tampered", pa.bool_()),
        ("kind", pa.string()),
        ("since", pa.timestamp("ms", tz="UTC")),
        ("until", pa.timestamp("ms", tz="UTC")),
        ("map", pa.list_(pa.list_(pa.float32()))),
        ("frame", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; the probability that it was tampered with, null until the camera is
known; whether it belongs to an interval of tampering; the known attack that the interval's clearest frame so far is most like, and
the time of its first frame, both only in an interval and on the first frame after it; on that frame alone, the time of the
interval's last frame; the probability at each place, in rows from the top; and the path of the frame in the lake, if it is kept."""


class TamperingOptions(CameraOptions):
    """The options of the tampering pipeline.

    Args:
        level: least score of a frame that begins an interval of tampering, 0 to 1; None: the model's own.
        ease: share of the level below which a score ends an interval that has raised an alert.
        hold: consecutive frames at the level that raise an alert; a frame below it ends an interval with fewer.
        warm: frames of a camera before its first verdict; None: the model's own.
        keep_every: of an interval's frames, one in so many is kept.
    """

    name: str = "tampering"
    topic: str = "video.cameras"
    level: float | None = Field(default=None, gt=0, lt=1)
    ease: float = Field(default=EASE, gt=0, le=1)
    hold: int = Field(default=HOLD, ge=1)
    warm: int | None = Field(default=None, ge=1)
    keep_every: int = Field(default=25, ge=1)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The tampering pipeline.

    Args:
        options: of `TamperingOptions`; all may be absent.
        model: written by `tocsin train tampering`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    model = Model.required(model, "tampering")
    network, o = model.load(load, training="tocsin train tampering"), TamperingOptions.read(options)
    fields = frame_fields(*network.size, roots=o.roots)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema([*FACTS, *fields]),
        key="camera",
        event_time="time",
        stages=[
            Reorder(late=o.late),
            Gaps(by="sequence"),
            Pixels(fields[1]),
            Measures(network),
            Compare(network),
            Verdict(
                network,
                Interval(level=o.level or network.config.level, ease=o.ease, hold=o.hold),
                warm=o.warm or network.config.warm,
                keep_every=o.keep_every,
            ),
            Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="tampered",
                severity="critical",
                when=pl.col("tampered"),
                hold=o.hold,
                data=["sequence", "score", "kind", "since", "until", "map", "frame"],
            ),
        ],
        files={"frame": "jpeg"},
        truth=reviewed("tampered"),
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
    )


class Measures(Stage):
    """Adds `tensors["appearance"]`, `["motion"]` and `["print"]`, see `Measured`, and drops the pixels."""

    def __init__(self, model: TamperingModel) -> None:
        self._model, self._lapse = model, round(1000 * model.config.lapse)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "measures")

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"grey": Cell(self._model.size, torch.uint8), "time": Cell(dtype=torch.int64, fill=NEVER)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        pixels, now = rows.tensors["pixels"], ctx.times(rows)
        shades = flow.grey(pixels, self._model.size)
        last, time, g = state.cell("grey"), state.cell("time"), rows.groups()
        before, then = g.previous(shades, last[g.slots]), g.previous(now, time[g.slots])
        last[g.slots], time[g.slots] = shades[g.newest], now[g.newest]
        known = ((then > NEVER) & (now - then <= self._lapse)).tolist()
        pictures = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        befores = [shade if valid else None for shade, valid in zip(before.numpy(), known, strict=True)]
        found = list(self._threads.map(self._model.measure, pictures, befores))
        stacked = Measured(*map(np.stack, zip(*found, strict=True))) if found else self._model.unmeasured()
        tensors = {name: torch.from_numpy(part) for name, part in stacked._asdict().items()}
        return Rows(rows.table, rows.slots, tensors)


class Compare(Stage):
    """Adds `tensors["features"]` and `["seen"]`, see `Evidence`, and drops the measures.

    A camera's frames are processed in order, and those of different cameras together.
    """

    def __init__(self, model: TamperingModel) -> None:
        self._model = model

    @property
    def state(self) -> Mapping[str, Declared]:
        blank = self._model.blank(1)._asdict()
        return {name: Cell(tuple(t.shape[1:]), t.dtype) for name, t in blank.items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        cells, seen = state.cells, torch.zeros(len(rows), dtype=torch.int64)
        features = torch.empty(len(rows), *self._model.unseen().features.shape[1:])
        for index in rows.rounds():
            slots = rows.slots[index]
            memory = Memory(**{name: cells[name][slots] for name in Memory._fields})
            measures = (rows.tensors[name][index] for name in Measured._fields)
            evidence, memory = self._model.compare(memory, *measures)
            features[index], seen[index] = evidence
            for name, values in memory._asdict().items():
                cells[name][slots] = values
        return Rows(rows.table, rows.slots, {"features": features, "seen": seen})


class Verdict(Stage):
    """Adds `score`, `tampered`, `kind`, `since`, `until` and `map`; and `keep`, true for the first and for one in so many frames of
    an interval.

    Args:
        interval: when one begins and ends.
        warm, keep_every: see `TamperingOptions`.
    """

    def __init__(self, model: TamperingModel, interval: Interval, *, warm: int, keep_every: int) -> None:
        self._model, self._interval, self._warm, self._every = model, interval, warm, keep_every

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "run": Cell(dtype=torch.int64),
            "since": Cell(dtype=torch.int64),
            "until": Cell(dtype=torch.int64),
            "kind": Cell(dtype=torch.int64),
            "peak": Cell(dtype=torch.float64),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        verdict = self._model(Evidence(rows.tensors["features"], rows.tensors["seen"]))
        known = rows.tensors["seen"] >= self._warm
        scores, kinds = verdict.score.tolist(), verdict.kind.tolist()
        times, certain = ctx.times(rows).tolist(), known.tolist()
        count = len(rows)
        tampered: list[bool | None] = [None] * count
        named: list[str | None] = [None] * count
        since, until = [list[int | None]([None] * count) for _ in range(2)]
        keep = [False] * count
        for slot, indices in rows.by_key():
            *counts, peak = (cell[slot].item() for cell in state.cells.values())
            run, begun, last, kind = map(int, counts)
            for row in indices:
                if not certain[row]:
                    continue
                before, score = run, scores[row]
                run = self._interval.length(run, score)
                tampered[row] = run > 0
                if run == 1:
                    begun, peak = times[row], 0.0
                if run:
                    last = times[row]
                if run and score > peak + CLEARER:
                    peak, kind = score, kinds[row]
                if run or before:
                    since[row], named[row] = begun, self._model.kinds[kind]
                if before and not run:
                    until[row] = last
                keep[row] = run > 0 and (run - 1) % self._every == 0
            for cell, value in zip(state.cells.values(), (run, begun, last, kind, peak), strict=True):
                cell[slot] = value
        time = pa.timestamp("ms", tz="UTC")
        columns = {
            "score": pa.array(verdict.score.numpy(), mask=~known.numpy()),
            "tampered": pa.array(tampered, pa.bool_()),
            "kind": pa.array(named, pa.string()),
            "since": pa.array(since, pa.int64()).cast(time),
            "until": pa.array(until, pa.int64()).cast(time),
            "map": nested(verdict.places.numpy()),
            "keep": pa.array(keep, pa.bool_()),
        }
        return Rows(rows.table, rows.slots, {}).with_columns(columns)


def _results(
    shots: Iterable[Shot], rate: float, folder: Path, version: str, options: Mapping[str, Any]
) -> tuple[pl.DataFrame, list[int]]:
    table, alerts, _ = replay_clip(pipeline(options, Model(folder, version, "cpu")), shots, rate=rate)
    return table, [alert.data["sequence"] for alert in alerts if alert.transition == "raised"]


domain = Tampering(_results)
