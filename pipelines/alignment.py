"""Two cameras of a rig, such as one for light and one for heat: how their frames lie over each other, and whether one has moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import torch
from pydantic import Field

from tocsin.models.alignment import watch
from tocsin.models.alignment.domain import VIEWS, Rigs
from tocsin.models.alignment.geometry import Matrix
from tocsin.models.alignment.model import AlignmentModel, greys, load
from tocsin.models.alignment.watch import Verdict, Watch, WatchConfig
from tocsin.models.domain import Shot
from tocsin.pipelines.runtime import (
    NEVER,
    AlertRule,
    Batch,
    Cell,
    CellStore,
    Declared,
    Duration,
    Model,
    Options,
    Pipeline,
    Rows,
    Stage,
    StepContext,
    Stores,
    frame_fields,
    milliseconds,
    replay_clip,
)
from tocsin.pipelines.runtime.stages import Encode, Keep, Pair, Pixels

FACTS = [
    pa.field("rig", pa.string(), nullable=False, metadata={"from": "header:rig"}),
    pa.field("view", pa.string(), nullable=False, metadata={"from": "header:view"}),
    pa.field("sequence", pa.int64(), nullable=False, metadata={"from": "header:sequence"}),
    pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"from": "header:time"}),
]
"""The fields that messages carry in headers: the rig, which of its cameras the frame is from, its number there, and its time."""

RESULTS = pa.schema(
    [
        ("rig", pa.string()),
        ("sequence", pa.int64()),
        ("other_sequence", pa.int64()),
        pa.field("apart", pa.int64(), metadata={"unit": "ms"}),
        ("homography", pa.list_(pa.float64())),
        pa.field("confidence", pa.float32(), metadata={"axis": "confidence"}),
        pa.field("error", pa.float32(), metadata={"unit": "px"}),
        pa.field("shift", pa.float32(), metadata={"unit": "px"}),
        pa.field("moved", pa.float32(), metadata={"unit": "px"}),
        ("paired", pa.bool_()),
        ("frame", pa.string()),
    ]
)
"""Columns of a pair: the number of the first camera's frame and that of its partner, and by how many ms the partner is later; the
homography from the first to the second, three rows of three; the probability that it is right, and its expected error; how far it
is from the rig's reference, and how far the last confident ones are; whether there was a partner; the path of the first camera's
frame in the lake, if it is kept. Pixels are those of a frame that is 320 wide."""


class AlignmentOptions(Options):
    """The options of the alignment pipeline.

    Args:
        tolerance: how far apart in time the frames of a pair may be.
        late: by how much frames of a camera may be out of order.
        patience: how long a frame waits for its partner.
        pace: a rig's frames are aligned once in so long.
        limit: pixels of a frame 320 wide, by which a rig's cameras have moved against each other when it rings.
        reference: a number; another one than before makes all rigs take a new reference.
        renew: after so long the reference is taken anew, unless a camera has moved; None: never.
        roots: folders in which messages may say that their frames lie.
    """

    name: str = "alignment"
    topic: str = "video.rigs"
    tolerance: Duration = "50ms"
    late: Duration = "0ms"
    patience: Duration = "2s"
    pace: Duration = "1min"
    limit: float = Field(default=2.0, gt=0)
    reference: int = Field(default=0, ge=0)
    renew: Duration | None = None
    roots: list[str] = Field(default_factory=list)


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The alignment pipeline.

    Args:
        options: of `AlignmentOptions`; all may be absent.
        model: written by `tocsin train alignment`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    model = Model.required(model, "alignment")
    network, o = model.load(load, training="tocsin train alignment"), AlignmentOptions.read(options)
    fields = frame_fields(*network.size, roots=o.roots)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema([*FACTS, *fields]),
        key="rig",
        event_time="time",
        stages=[
            Pixels(fields[1]),
            Encode(greys),
            Grey(),
            Pair(
                by="view",
                sources=VIEWS,
                columns=["sequence"],
                tensors=["grey"],
                tolerance=o.tolerance,
                late=o.late,
                wait=o.patience,
            ),
            Align(
                network,
                pace=o.pace,
                limit=o.limit,
                reference=o.reference,
                renew=o.renew,
            ),
            Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
        ],
        results=RESULTS,
        rules=[
            AlertRule(
                name="moved",
                severity="warning",
                when=pl.col("moved") > o.limit,
                clear=pl.col("moved") < 0.6 * o.limit,
                data=["sequence", "moved", "confidence", "homography", "frame"],
            ),
            AlertRule(
                name="unpaired",
                severity="warning",
                when=~pl.col("paired"),
                hold=3,
                data=["sequence"],
            ),
        ],
        files={"frame": "jpeg"},
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
    )


class Grey(Stage):
    """Drops the pixels in colour: frames wait for their partners in grey."""

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return Rows(rows.table, rows.slots, {"grey": rows.tensors["grey"]})


class Align(Stage):
    """Aligns a rig's pairs, and compares what it finds with the rig's reference; see `RESULTS` and `tocsin.models.alignment.watch`.

    A rig is aligned once in `pace`; pairs in between are dropped. So are frames without a partner, but for one in `pace`. The
    column `keep` is true for the frame that completes the reference, and for the first one after which the cameras have moved.

    Args:
        pace, limit, reference, renew: see `AlignmentOptions`.
    """

    def __init__(self, model: AlignmentModel, *, pace: str, limit: float, reference: int, renew: str | None) -> None:
        self._model, self._pace, self._limit = model, milliseconds(pace), limit
        self._generation, self._renew = reference, milliseconds(renew) if renew else None
        self._config: WatchConfig = model.config.watch

    @property
    def state(self) -> Mapping[str, Declared]:
        blank = watch.blank(self._config)._asdict()
        cells: dict[str, Declared] = {name: Cell(tuple(t.shape), t.dtype) for name, t in blank.items()}
        return cells | {
            "aligned": Cell(dtype=torch.int64, fill=NEVER),
            "alone": Cell(dtype=torch.int64, fill=NEVER),
            "referenced": Cell(dtype=torch.int64, fill=NEVER),
            "generation": Cell(dtype=torch.int64, fill=NEVER),
            "moved": Cell(dtype=torch.bool),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        cells, times = state.cells, ctx.times(rows).tolist()
        paired = rows.tensors["paired"].tolist()
        kept, found = list[int](), list[_Found]()
        for at, time in enumerate(times):
            slot = rows.slots[at : at + 1]
            last = cells["aligned" if paired[at] else "alone"]
            since = time - int(last[slot])
            if 0 <= since < self._pace:
                continue
            last[slot] = time
            kept.append(at)
            found.append(self._aligned(rows, at, cells, slot, time) if paired[at] else _Found())
        columns = {
            "homography": pa.array([f.homography for f in found], pa.list_(pa.float64())),
            "confidence": pa.array([f.confidence for f in found], pa.float32()),
            "error": pa.array([f.error for f in found], pa.float32()),
            "shift": pa.array([f.verdict.shift for f in found], pa.float32()),
            "moved": pa.array([f.verdict.moved for f in found], pa.float32()),
            "paired": pa.array([paired[at] for at in kept], pa.bool_()),
            "keep": pa.array([f.keep for f in found], pa.bool_()),
        }
        picked = rows.take(torch.tensor(kept, dtype=torch.int64))
        return Rows(picked.table, picked.slots, {}).with_columns(columns)

    def _aligned(self, rows: Rows, at: int, cells: Mapping[str, CellStore], slot: torch.Tensor, time: int) -> _Found:
        """Align a pair and take it up."""
        first, second = (rows.tensors[name][at].numpy() for name in ("grey", "other_grey"))
        alignment = self._model.align(first, second)
        if alignment.confidence == 0:
            return _Found(confidence=0.0)
        verdict, keep = Verdict(None, None), False
        if alignment.confidence >= self._config.confident:
            verdict, keep = self._watched(alignment.homography, cells, slot, time)
        homography = [float(v) for v in alignment.homography.ravel()]
        return _Found(homography, alignment.confidence, alignment.error, verdict, keep)

    def _watched(
        self, homography: Matrix, cells: Mapping[str, CellStore], slot: torch.Tensor, time: int
    ) -> tuple[Verdict, bool]:
        known = watch.blank(self._config)
        if int(cells["generation"][slot]) == self._generation:
            known = Watch(*(cells[name][slot][0] for name in Watch._fields))
        had, since = bool(known.settled), int(cells["referenced"][slot])
        verdict, known = watch.step(known, homography, self._model.size, self._config)
        new = bool(known.settled) and not had
        has_moved = verdict.moved is not None and verdict.moved > self._limit
        keep = new or (has_moved and not bool(cells["moved"][slot]))
        if self._renew and had and verdict.moved is not None and not has_moved and time - since >= self._renew:
            known, new = watch.renewed(known, self._config), True
        for name, value in known._asdict().items():
            cells[name][slot] = value[None]
        cells["generation"][slot] = self._generation
        if new:
            cells["referenced"][slot] = time
        if verdict.moved is not None:
            cells["moved"][slot] = has_moved
        return verdict, keep


class _Found(NamedTuple):
    """What is known of a row."""

    homography: list[float] | None = None
    confidence: float | None = None
    error: float | None = None
    verdict: Verdict = Verdict(None, None)
    keep: bool = False


def _results(shots: Iterable[Shot], folder: Path, version: str) -> tuple[pl.DataFrame, list[int]]:
    declared = pipeline({"pace": "1ms"}, Model(folder, version, "auto"))
    table, alerts, _ = replay_clip(declared, shots, rate=1, after="10s")
    return table, [a.data["sequence"] for a in alerts if a.rule == "moved" and a.transition == "raised"]


domain = Rigs(_results)
