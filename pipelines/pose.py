"""Pose: where a moving camera is, which way it looks, how sure that is, and whether it has been here before."""

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
from torch import Tensor

from tocsin.models.domain import Shot
from tocsin.models.pose.domain import Pose
from tocsin.models.pose.geometry import quaternion
from tocsin.models.pose.model import PoseModel, load
from tocsin.models.pose.motion import pairs_of
from tocsin.models.pose.network import PoseState
from tocsin.models.states import select
from tocsin.models.vision.picture import shape_of
from tocsin.pipelines.parts import places
from tocsin.pipelines.parts.cameras import CameraOptions
from tocsin.pipelines.runtime import (
    FACTS,
    NEVER,
    AlertRule,
    Batch,
    Cell,
    Declared,
    Duration,
    Model,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    frame_fields,
    milliseconds,
    replay_clip,
)
from tocsin.pipelines.runtime.stages import Gaps, Keep, Pixels, Reorder

AXES = ("x", "y", "z")
TURNS = ("qw", "qx", "qy", "qz")
RESULTS = pa.schema(
    [
        ("camera", pa.string()),
        ("sequence", pa.int64()),
        ("missed", pa.int64()),
        ("track", pa.int64()),
        *[pa.field(name, pa.float64(), metadata={"unit": "m", "axis": "position"}) for name in AXES],
        *[(name, pa.float64()) for name in TURNS],
        pa.field("step", pa.float32(), metadata={"unit": "m", "axis": "step"}),
        pa.field("depth", pa.float32(), metadata={"unit": "m", "axis": "depth"}),
        pa.field("confidence", pa.float32(), metadata={"unit": "probability", "axis": "confidence"}),
        *places.COLUMNS,
        ("frame", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; the number of the camera's track, which begins anew after a lapse;
its position and its turn, a quaternion, from the track's first frame, whose axes point right, down and ahead; the length of the
last step, the mean depth of the picture, and how sure the last step is; its place, see `places.COLUMNS`; and the path of the frame
in the lake, if it is kept: the first one of each place."""


class PoseOptions(CameraOptions):
    """The options of the pose pipeline.

    Args:
        focal: focal length of the cameras, in frame widths; None: the model's own, of a view of 64 degrees.
        depth: mean depth of a track's first frame, m. It sets the scale, which a single camera does not show.
        lost: confidence below which a step counts as lost; hold: such steps in a row that raise an alert.
        away: time for which a place must have been out of sight before it counts as come back to.
        places: places that are remembered of a camera.
    """

    name: str = "pose"
    topic: str = "video.pose"
    focal: float | None = Field(default=None, gt=0)
    depth: float = Field(default=1.0, gt=0)
    lost: float = Field(default=0.2, ge=0, le=1)
    hold: int = Field(default=10, ge=1)
    away: Duration = "30s"
    places: int = Field(default=64, ge=2, le=10_000)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pose pipeline.

    Args:
        options: of `PoseOptions`; all may be absent.
        model: written by `tocsin train pose`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    model = Model.required(model, "pose")
    network, o = model.load(load, training="tocsin train pose"), PoseOptions.read(options)
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
            Track(network, focal=o.focal, depth=o.depth, file=fields[0].name),
            places.Places(most=o.places, away=milliseconds(o.away)),
            Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="lost_track",
                severity="warning",
                when=pl.col("confidence") < o.lost,
                hold=o.hold,
                data=["sequence", "track", "confidence", *AXES],
            ),
        ],
        files={"frame": "jpeg"},
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
    )


class Track(Stage):
    """Adds each frame's pose, see `RESULTS`, and `tensors["grey"]`.

    A camera's frames are processed in order, and those of different cameras together.

    Args:
        model: it predicts the steps.
        focal: of the cameras, in frame widths; None: the model's own.
        depth: mean depth of a track's first frame, m.
        file: column of the frames' files, which tell their aspect ratio.
    """

    def __init__(self, model: PoseModel, *, focal: float | None, depth: float, file: str) -> None:
        self._model, self._focal, self._depth, self._file = model, focal, depth, file
        self._lapse = round(model.config.lapse * 1000)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "pose")

    @property
    def state(self) -> Mapping[str, Declared]:
        stored = self._model.blank(1).stored
        return {
            "grey": Cell(self._model.size, torch.uint8),
            "time": Cell(dtype=torch.int64, fill=NEVER),
            "stored": Cell(tuple(stored.shape[1:])),
            "frames": Cell(dtype=torch.int64),
            "track": Cell(dtype=torch.int64),
            "place": Cell((3,), torch.float64),
            "turn": Cell((3, 3), torch.float64),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        count, cells = len(rows), state.cells
        grey, now = self._model.grey(rows.tensors["pixels"]), ctx.times(rows)
        before, fresh = self._before(rows, grey, now, state)
        shapes = [shape_of(file.as_py()) for file in rows.table.column(self._file)]
        lenses = np.array([self._model.lens(self._focal, shape) for shape in shapes]).reshape(-1, 3, 3)
        pairs = pairs_of(before, grey, lenses, each=self._threads.map)
        track = torch.zeros(count, dtype=torch.int64)
        place, turn = torch.zeros(count, 3, dtype=torch.float64), torch.zeros(count, 4, dtype=torch.float64)
        said = torch.full((count, 3), torch.nan)
        for index in rows.rounds():
            slots, begins = rows.slots[index], fresh[index]
            blank = self._model.blank(len(index))
            held = PoseState(cells["stored"][slots], cells["frames"][slots])
            known = select(begins, blank, held)
            steps, after = self._model(known, pairs.at(index))
            # A track's first frame has no step: its pair is that of two cameras, or of two places.
            after = select(begins, blank, after)
            length = self._depth * steps.length.double().exp()
            was, faced = cells["place"][slots], cells["turn"][slots]
            eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            shift = (steps.direction.double() * length[:, None])[..., None]
            here = torch.where(begins[:, None], zero, was + (faced @ shift)[..., 0])
            heading = torch.where(begins[:, None, None], eye, faced @ steps.turn.double())
            number = cells["track"][slots] + begins
            for name, value in (("stored", after.stored), ("frames", after.frames), ("track", number)):
                cells[name][slots] = value
            cells["place"][slots], cells["turn"][slots] = here, heading
            track[index], place[index], turn[index] = number, here, quaternion(heading)
            depth = (self._depth * steps.depth.double().exp()).float()
            values = torch.stack([length.float(), depth, steps.confidence.sigmoid()], 1)
            said[index] = values.masked_fill(begins[:, None], torch.nan)
        columns = {"track": track, **dict(zip(AXES, place.T, strict=True)), **dict(zip(TURNS, turn.T, strict=True))}
        columns |= dict(zip(("step", "depth", "confidence"), said.T, strict=True))
        table = {name: pa.array(values.numpy(), from_pandas=True) for name, values in columns.items()}
        return Rows(rows.table, rows.slots, {}).with_columns(table).with_tensors(grey=grey)

    def _before(self, rows: Rows, grey: Tensor, now: Tensor, state: Stores) -> tuple[Tensor, Tensor]:
        """The frame before each frame, `[B, H, W]`, and whether a track begins, `[B]`; stores each camera's newest frame."""
        last, time, g = state.cell("grey"), state.cell("time"), rows.groups()
        before, then = g.previous(grey, last[g.slots]), g.previous(now, time[g.slots])
        last[g.slots], time[g.slots] = grey[g.newest], now[g.newest]
        return before, now - then > self._lapse


def _results(
    shots: Iterable[Shot], rate: float, folder: Path, version: str, options: Mapping[str, Any]
) -> pl.DataFrame:
    table, _, _ = replay_clip(pipeline(options, Model(folder, version, "cpu")), shots, rate=rate)
    return table


domain = Pose(_results)
