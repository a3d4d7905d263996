"""Underwater video: the frames of a moving camera that show something which its own motion does not explain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import torch
from pydantic import Field

from tocsin.models.domain import Shot
from tocsin.models.surprise.domain import Surprise
from tocsin.models.surprise.model import Encoding, Memory, SurpriseModel, load
from tocsin.models.surprise.motion import SIZE, Motion, ego_motion, grey
from tocsin.pipelines.parts import revisits
from tocsin.pipelines.parts.cameras import OUT_OF_DOMAIN, CameraOptions, reviewed
from tocsin.pipelines.parts.maps import nested
from tocsin.pipelines.runtime import (
    FACTS,
    NEVER,
    AlertRule,
    Batch,
    Cell,
    CellStore,
    Declared,
    Duration,
    Model,
    Pipeline,
    Rows,
    Stage,
    StateDelta,
    StepContext,
    Stores,
    frame_fields,
    milliseconds,
    replay_clip,
)
from tocsin.pipelines.runtime.stages import Encode, Familiar, Gaps, Keep, Reorder

RESULTS = pa.schema(
    [
        ("camera", pa.string()),
        ("sequence", pa.int64()),
        ("missed", pa.int64()),
        pa.field("score", pa.float32(), metadata={"axis": "surprise"}),
        pa.field("level", pa.float32(), metadata={"axis": "surprise"}),
        ("novel", pa.bool_()),
        *revisits.COLUMNS,
        pa.field("flow", pa.float32(), metadata={"unit": "frame widths"}),
        ("map", pa.list_(pa.list_(pa.float32()))),
        ("frame", pa.string()),
        ("in_domain", pa.bool_()),
        ("unlike", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; its surprise, the level set by the camera's last minutes, and whether
the frame belongs to an event; whether that was seen before, see `revisits.COLUMNS`; how far the picture has moved, in frame widths;
the surprise of each place, in rows from the top; the path of the frame in the lake, if it is kept; and whether the camera's last
frames are like the training data, and what of them is not."""


class SurpriseOptions(CameraOptions):
    """The options of the underwater pipeline.

    Args:
        keep_every: of an event's frames, one in so many is kept.
        level: the lowest score at which an event begins; None: the model's own. A lower one is more sensitive.
        factor: how many median absolute deviations above its median a camera's score begins an event; None: the model's own.
        revisits: whether what was seen before at the same place raises no alert.
        away: time for which it must have been out of sight before it counts as seen again.
    """

    name: str = "surprise"
    topic: str = "video.underwater"
    keep_every: int = Field(default=5, ge=1)
    level: float | None = Field(default=None, ge=0)
    factor: float | None = Field(default=None, gt=0)
    revisits: bool = False
    away: Duration = "30s"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The underwater pipeline.

    Args:
        options: of `SurpriseOptions`; all may be absent.
        model: written by `tocsin train surprise`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    return _pipeline(options, model)


def _pipeline(options: Mapping[str, Any], model: Model | None, encode: Encoding | None = None) -> Pipeline:
    """The pipeline; `encode` stands in for the model's."""
    model = Model.required(model, "surprise")
    network, o = model.load(load, training="tocsin train surprise"), SurpriseOptions.read(options)
    network = network.tuned(level=o.level, factor=o.factor)
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
            Familiar(fields[1], network.usual, file=fields[0].name),
            Encode(encode or network.encode),
            Ego(lapse=network.config.lapse),
            Predict(network, keep_every=o.keep_every),
            _revisits(network, o),
            Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="surprise",
                severity="warning",
                when=~pl.col("again") if o.revisits else pl.col("novel"),
                data=["sequence", "score", "level", "flow", "map", "frame"],
            ),
            OUT_OF_DOMAIN,
        ],
        files={"frame": "jpeg"},
        truth=reviewed("novel"),
        model_version=model.version,
        state_version=3,
        migrate=partial(_migrate, network.config.triage.heads if network.config.triage else 1),
        batch=Batch(rows=64, wait="20ms"),
    )


def _revisits(network: SurpriseModel, o: SurpriseOptions) -> Stage:
    if not o.revisits:
        return revisits.Unknown()
    return revisits.Revisits(channels=network.config.network.tokens, grid=network.grid, away=milliseconds(o.away))


class Ego(Stage):
    """Adds the camera's motion since its last frame: `tensors["warp"]` and `["action"]`, see `Motion`; and the columns `flow` and
    `fresh`, which is true for a camera's first frame and after a lapse.

    Args:
        lapse: seconds between two frames after which the first one is no context for the second.
    """

    def __init__(self, *, lapse: float) -> None:
        self._lapse, self._threads = round(lapse * 1000), ThreadPoolExecutor(min(4, os.cpu_count() or 1), "flow")

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"grey": Cell(SIZE, torch.uint8), "time": Cell(dtype=torch.int64, fill=NEVER)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        last, time = state.cell("grey"), state.cell("time")
        shades, now = grey(rows.tensors["pixels"]), ctx.times(rows)
        g = rows.groups()
        before, then = g.previous(shades, last[g.slots]), g.previous(now, time[g.slots])
        last[g.slots], time[g.slots] = shades[g.newest], now[g.newest]
        fresh = now - then > self._lapse
        motion = ego_motion(before, shades, each=self._threads.map)
        flow = motion.action[:, 4].masked_fill(fresh, torch.nan)
        columns = {"flow": pa.array(flow.numpy(), from_pandas=True), "fresh": pa.array(fresh.numpy())}
        tensors = {name: t for name, t in rows.tensors.items() if name != "pixels"}
        output = Rows(rows.table, rows.slots, tensors).with_columns(columns)
        return output.with_tensors(warp=motion.warp, action=motion.action, fresh=fresh)


class Predict(Stage):
    """Adds the model's output: `score`, `level`, `novel`, `map`, and `keep`, true for one in so many frames of an event; and what
    `Revisits` takes.

    A camera's frames are processed in order, and those of different cameras together.
    """

    def __init__(self, model: SurpriseModel, *, keep_every: int) -> None:
        self._model, self._every = model, keep_every

    @property
    def state(self) -> Mapping[str, Declared]:
        blank = self._model.blank(1).tensors()
        return {name: Cell(tuple(t.shape[1:]), t.dtype, float(t.flatten()[0])) for name, t in blank.items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        cells = state.cells
        places = torch.zeros(len(rows), *self._model.grid)
        pictures = torch.zeros(len(rows), self._model.config.network.tokens, *self._model.grid)
        outputs = torch.zeros(5, len(rows))
        slots, memory = rows.slots[:0], self._model.blank(0)
        for index in rows.rounds():
            if not torch.equal(rows.slots[index], slots):  # most rounds have the same cameras
                _store(memory, cells, slots)
                slots = rows.slots[index]
                memory = Memory.of({name: cell[slots] for name, cell in cells.items()})
            memory = self._model.reset(memory, rows.tensors["fresh"][index])
            motion = Motion(rows.tensors["warp"][index], rows.tensors["action"][index])
            surprise_map, verdict, memory = self._model(memory, rows.tensors["tokens"][index], motion)
            places[index] = surprise_map
            keep = verdict.novel.bool() & ((memory.detector.since - 1) % self._every == 0)
            pictures[index] = memory.predictor.usual
            found = [verdict.score, verdict.level, verdict.novel.float(), verdict.begins.float(), keep.float()]
            outputs[:, index] = torch.stack(found)
        _store(memory, cells, slots)
        score, level, novel, begins, keep = outputs
        fresh = rows.tensors["fresh"].numpy()
        output = rows.with_columns(
            {
                "score": pa.array(score.numpy(), mask=fresh),
                "level": pa.array(level.numpy(), mask=fresh),
                "novel": pa.array(novel.bool().numpy()),
                "keep": pa.array(keep.bool().numpy()),
                "map": nested(places.numpy()),
            }
        )
        return output.with_tensors(picture=pictures, places=places, novel=novel.bool(), begins=begins.bool())


def _store(memory: Memory, cells: Mapping[str, CellStore], slots: torch.Tensor) -> None:
    """Store the memory of the cameras in `slots`, if there are any."""
    for name, then in memory.tensors().items() if len(slots) else ():
        cells[name][slots] = then


def _results(
    shots: Iterable[Shot],
    rate: float,
    folder: Path,
    version: str,
    options: Mapping[str, Any],
    encode: Encoding | None = None,
) -> tuple[pl.DataFrame, list[int], int]:
    table, alerts, size = replay_clip(_pipeline(options, Model(folder, version, "auto"), encode), shots, rate=rate)
    return table, [a.data["sequence"] for a in alerts if a.rule == "surprise" and a.transition == "raised"], size


def _migrate(heads: int, version: int, state: StateDelta) -> StateDelta | None:
    """Version 2 had one head of triage: each head goes on from its memory. Version 1 also had no recent course of the score, which
    starts empty.
    """
    if version not in (1, 2):
        return None
    cells = {name: torch.cat(heads * [t], 1) if name.endswith("/suspects|") else t for name, t in state.cells.items()}
    return replace(state, cells=cells)


domain = Surprise(_results)
