"""Cameras of drones and on masts that look at walls: cracks, spalling and efflorescence, and whether they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import torch
from pydantic import Field

from tocsin.models.damage import course
from tocsin.models.damage.alignment import SIZE
from tocsin.models.damage.course import GRID, CourseConfig, Place
from tocsin.models.damage.domain import Damage
from tocsin.models.damage.model import DamageModel, Finding, load
from tocsin.models.damage.network import DAMAGES
from tocsin.models.vision import flow
from tocsin.models.vision.picture import decode_jpeg, shape_of
from tocsin.pipelines.parts.cameras import OUT_OF_DOMAIN, CameraOptions, reviewed
from tocsin.pipelines.parts.maps import nested
from tocsin.pipelines.runtime import (
    FACTS,
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
)
from tocsin.pipelines.runtime.stages import Familiar, Gaps, Keep, Reorder

PIXELS = 180, 320
"""Rows and columns of the frames that are compared with those of training, and with the place's first."""
MAP = 18, 32
"""Rows and columns of the map in the table."""

RESULTS = pa.schema(
    [
        ("camera", pa.string()),
        ("sequence", pa.int64()),
        ("missed", pa.int64()),
        ("kind", pa.string()),
        pa.field("score", pa.float32(), metadata={"axis": "damage"}),
        *[pa.field(name, pa.float32(), metadata={"axis": "damage"}) for name in DAMAGES],
        ("damaged", pa.bool_()),
        pa.field("extent", pa.float32(), metadata={"unit": "share of the picture"}),
        pa.field("growth", pa.float32(), metadata={"unit": "share of the picture"}),
        ("grown", pa.bool_()),
        pa.field("moved", pa.float32(), metadata={"unit": "frame widths"}),
        ("place", pa.int64()),
        ("looks", pa.int64()),
        ("map", pa.list_(pa.list_(pa.float32()))),
        ("frame", pa.string()),
        ("in_domain", pa.bool_()),
        ("unlike", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; the most probable damage, the probability of any and of each, and
whether the frame counts as damaged; the damaged share of the picture, by how much it has grown since the camera first showed this
place, and whether that counts; how far the camera has moved since; the number of the place; how many patches were looked at
closely; the probability of damage at each place, in rows from the top; the path of the frame in the lake, if it is kept; and
whether the camera's last frames are like the training data, and what of them is not."""


class DamageOptions(CameraOptions):
    """The options of the damage pipeline.

    Args:
        level: least probability of damage of a damaged frame, 0 to 1; None: the model's own.
        hold: consecutive damaged frames before an alert.
        budget: share of a large frame's patches that are looked at closely; None: the model's own.
        growth: share of the picture by which damage must grow at one place before an alert.
        settle: frames of a place with which later ones are compared.
        keep_every: of damaged frames in a row, one in so many is kept.
    """

    name: str = "damage"
    topic: str = "video.inspection"
    level: float | None = Field(default=None, gt=0, lt=1)
    hold: int = Field(default=3, ge=1)
    budget: float | None = Field(default=None, ge=0, le=1)
    growth: float = Field(default=0.01, gt=0, lt=1)
    settle: int = Field(default=10, ge=1)
    keep_every: int = Field(default=10, ge=1)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The damage pipeline.

    Args:
        options: of `DamageOptions`; all may be absent.
        model: written by `tocsin train damage`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    model = Model.required(model, "damage")
    network, o = model.load(load, training="tocsin train damage"), DamageOptions.read(options)
    fields = frame_fields(*PIXELS, roots=o.roots)
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
            Inspect(network, budget=o.budget, level=o.level, file=fields[0].name),
            Course(CourseConfig(settle=o.settle, growth=o.growth), keep_every=o.keep_every),
            Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="damage",
                severity="warning",
                when=pl.col("damaged"),
                hold=o.hold,
                data=["sequence", "kind", "score", *DAMAGES, "extent", "map", "frame"],
            ),
            AlertRule(
                name="growth",
                severity="critical",
                when=pl.col("grown"),
                hold=o.hold,
                data=["sequence", "kind", "extent", "growth", "moved", "place", "map", "frame"],
            ),
            OUT_OF_DOMAIN,
        ],
        files={"frame": "jpeg"},
        truth=reviewed("damaged"),
        model_version=model.version,
        batch=Batch(rows=16, wait="20ms"),
    )


class Inspect(Stage):
    """Adds what the model finds in each frame: `kind`, `score`, a column for each damage, `damaged`, `extent`, `looks` and `map`;
    and `tensors["cells"]`, the damaged share of each of `GRID` cells.

    The file is decoded again, at the size that the model asks for: cracks are thin, and frames differ in shape.

    Args:
        budget, level: as in `DamageOptions`.
        file: column of the frames' files.
    """

    def __init__(self, model: DamageModel, *, budget: float | None, level: float | None, file: str) -> None:
        self._model, self._budget, self._file = model, budget, file
        self._level = model.config.level if level is None else level

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        found = [self._found(file.as_py()) for file in rows.table.column(self._file)]
        scores = np.array([finding.score for finding in found], np.float32)
        classes = np.array([finding.classes for finding in found], np.float32).reshape(-1, 1 + len(DAMAGES))
        maps = np.array([_largest(finding.places.max(0)) for finding in found], np.float32).reshape(-1, *MAP)
        cells = [_cells(finding.places.max(0) >= self._model.config.place) for finding in found]
        columns = {
            "kind": pa.array([finding.kind for finding in found], pa.string()),
            "score": pa.array(scores),
            **{name: pa.array(classes[:, at]) for at, name in enumerate(DAMAGES, 1)},
            "damaged": pa.array(scores >= self._level),
            "extent": pa.array([finding.extent for finding in found], pa.float32()),
            "looks": pa.array([finding.looks[0] for finding in found], pa.int64()),
            "map": nested(maps),
        }
        tensors = torch.from_numpy(np.array(cells, np.float32).reshape(-1, *GRID))
        return rows.with_columns(columns).with_tensors(cells=tensors)

    def _found(self, file: bytes) -> Finding:
        looks = self._model.plan(shape_of(file))
        finest = looks.size[0] * looks.finer, looks.size[1] * looks.finer
        return self._model(decode_jpeg(file, min_size=finest), budget=self._budget)


class Course(Stage):
    """Adds the course of damage at the camera's place: `growth`, `grown`, `moved` and `place`; and `keep`, true for one in so many
    damaged frames, and where growth begins.
    """

    def __init__(self, config: CourseConfig, *, keep_every: int) -> None:
        self._config, self._every = config, keep_every

    @property
    def state(self) -> Mapping[str, Declared]:
        blank = Place.blank()._asdict()
        cells: dict[str, Declared] = {name: Cell(tuple(t.shape), t.dtype) for name, t in blank.items()}
        return cells | {"run": Cell(dtype=torch.int64), "grew": Cell(dtype=torch.bool)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        shades = flow.grey(rows.tensors["pixels"], SIZE)
        damaged = rows.column("damaged")
        results: list[tuple[float | None, bool | None, float | None, int, bool]] = [(None, None, None, 0, False)] * len(
            rows
        )
        for at, indices in rows.by_key():
            place = Place(*(state.cell(name)[at][0] for name in Place._fields))
            run, grew = int(state.cell("run")[at]), bool(state.cell("grew")[at])
            for row in indices:
                grown, place = course.step(place, shades[row].numpy(), rows.tensors["cells"][row].numpy(), self._config)
                counts = None if grown.growth is None or grown.level is None else grown.growth >= grown.level
                keep = (bool(damaged[row]) and run % self._every == 0) or (bool(counts) and not grew)
                run, grew = run + 1 if damaged[row] else 0, bool(counts)
                results[row] = grown.growth, counts, grown.moved, grown.place, keep
            for name, value in place._asdict().items():
                state.cell(name)[at] = value[None]
            state.cell("run")[at], state.cell("grew")[at] = run, grew
        types = {
            "growth": pa.float32(),
            "grown": pa.bool_(),
            "moved": pa.float32(),
            "place": pa.int64(),
            "keep": pa.bool_(),
        }
        columns = zip(*results, strict=True) if results else [()] * len(types)
        tensors = {name: t for name, t in rows.tensors.items() if name not in ("pixels", "cells")}
        output = Rows(rows.table, rows.slots, tensors)
        return output.with_columns(
            {name: pa.array(list(column), kind) for (name, kind), column in zip(types.items(), columns, strict=True)}
        )


def _largest(places: np.ndarray) -> np.ndarray:
    """The largest probability in each cell of the table's map."""
    pooled = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(places)[None], MAP)
    return np.asarray(pooled[0].numpy(), np.float32)


def _cells(damaged: np.ndarray) -> np.ndarray:
    """The damaged share of each cell of the course."""
    share = cv2.resize(damaged.astype(np.float32), GRID[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(share, np.float32)


domain = Damage()
