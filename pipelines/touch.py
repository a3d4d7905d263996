"""Egocentric video: in which frame a hand touches something, and in which it lets go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from tocsin.models.domain import Shot
from tocsin.models.touch import finder
from tocsin.models.touch.domain import Touch
from tocsin.models.touch.hands import HandDetector
from tocsin.models.touch.model import TouchModel, load
from tocsin.models.touch.truth import HANDS, KINDS
from tocsin.pipelines.runtime import (
    FACTS,
    NEVER,
    AlertRule,
    Batch,
    Cell,
    ConfigError,
    Declared,
    Lateness,
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
from tocsin.pipelines.runtime.stages import CenteredWindow, Encode, Gaps, Keep, Pixels, Reorder

LAPSE = "500ms"
"""Between two frames, after which the one before says nothing of the next."""
WAIT = "2s"
"""After which a camera that sends nothing is waited for no longer."""
CLOSE = 0.2
"""Least score of a frame that is kept: those around an event, and where one nearly was."""
FINDER, NONE = "finder", "none"
"""Of the option `hands`: those that come with Tocsin find hands, or nobody does."""
NOTHING = NEVER
"""In place of the frame since which a hand holds something."""
SIDES = ("x0", "y0", "x1", "y1")

BOXES = [
    pa.field(f"{hand}_{side}", pa.float32(), metadata={"from": f"header:{hand}_{side}"})
    for hand in HANDS
    for side in SIDES
]
"""Where the hands are, in headers too: left, top, right and bottom as shares of the frame; left out of a hand that is not seen."""

SCORES = [f"{hand}_{kind}" for hand in HANDS for kind in KINDS]
RESULTS = pa.schema(
    [
        ("camera", pa.string()),
        ("sequence", pa.int64()),
        ("missed", pa.int64()),
        *[
            column
            for hand in HANDS
            for column in (
                *[(f"{hand}_{kind}", pa.float32()) for kind in KINDS],
                (f"{hand}_event", pa.string()),
                (f"{hand}_touches", pa.bool_()),
                (f"{hand}_since", pa.int64()),
            )
        ],
        ("frame", pa.string()),
    ]
)
"""Of each frame: how many are missing before it; of each hand how likely it makes contact or lets go here, 0 to 1, which of
both it does, if any, whether it touches something, and since which frame, which the frame of the release says, too; and where in
the lake the frame is kept, if it is."""


class TouchOptions(Options):
    """The options of the touch pipeline.

    Args:
        late: by how much frames of a camera may be out of order, in the unit of their time or as a duration; they wait for so long.
        roots: folders in which messages may say that their frames lie.
        hands: what finds hands in frames that come without boxes: "finder", MediaPipe's model file, or "none".
    """

    name: str = "touch"
    topic: str = "video.egocentric"
    late: Lateness = 0
    roots: list[str] = Field(default_factory=list)
    hands: str = FINDER


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The touch pipeline.

    Args:
        options: of `TouchOptions`; all may be absent.
        model: written by `tocsin train touch`.

    Raises:
        ConfigError: an option is unknown or wrong.
        ModelError: there is no model, or it does not load.
    """
    model = Model.required(model, "touch")
    judge, o = model.load(load, training="tocsin train touch"), TouchOptions.read(options)
    fields = frame_fields(*judge.size, roots=o.roots)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema([*FACTS, *BOXES, *fields]),
        key="camera",
        event_time="time",
        stages=_stages(judge, o, fields[1], model.device),
        results=RESULTS,
        rules=[
            AlertRule(
                name=hand,
                severity="info",
                when=pl.col(f"{hand}_touches"),
                data=["sequence", f"{hand}_since", f"{hand}_contact", f"{hand}_release", "frame"],
            )
            for hand in HANDS
        ],
        files={"frame": "jpeg"},
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
    )


def _stages(judge: TouchModel, o: TouchOptions, pixels: pa.Field, device: str) -> list[Stage]:
    c = judge.config
    # Rows of an inactive camera leave `Reorder` before the windows close without them.
    quiet = max(milliseconds(o.late) if isinstance(o.late, str) else o.late, 1000)
    wait = f"{max(milliseconds(WAIT), quiet + 1000)}ms"
    return [
        Reorder(late=o.late, wait=f"{quiet}ms"),
        Gaps(by="sequence"),
        Pixels(pixels),
        Boxes(_detector(o.name, o.hands, device)),
        Encode(judge.grey),
        CenteredWindow(
            past=1,
            ahead=0,
            tensor="grey",
            shape=judge.size,
            dtype=torch.uint8,
            name="pair",
            lapse=LAPSE,
            wait=wait,
            without=() if c.eye.looks else ("pixels",),
        ),
        Look(judge),
        CenteredWindow(c.network.past, c.network.ahead, "seen", shape=[c.network.dim], lapse=LAPSE, wait=wait),
        Judge(judge),
        CenteredWindow(c.decode.wait, c.decode.wait, "said", shape=[2, len(HANDS), len(KINDS)], lapse=LAPSE, wait=wait),
        Touches(judge),
        Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
    ]


Detector = Callable[[Tensor], Tensor]
"""`[B, 3, H, W] uint8` -> `[B, 2, 4]`, NaN of a hand that is not found."""


def _detector(name: str, hands: str, device: str) -> Detector | None:
    if hands == NONE:
        return None
    try:
        return finder.load(device=device) if hands == FINDER else HandDetector(hands)
    except ValueError as reason:
        raise ConfigError(f"pipelines.{name}: {reason}") from None


class Boxes(Stage):
    """The columns of boxes become `tensors["boxes"]`, `[B, 2, 4]`, NaN where no hand is.

    A box may reach beyond the frame a little, as detectors' do; one that is empty, half given or in pixels is a dead letter.

    Args:
        detector: looks for hands in frames that come without boxes.
    """

    def __init__(self, detector: Detector | None) -> None:
        self._detector = detector

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        boxes = torch.stack([rows.column(f.name) for f in BOXES], 1).float().unflatten(1, (len(HANDS), len(SIDES)))
        fits = _are_boxes(boxes)
        if not bool(fits.all()):
            ctx.refuse(rows.keep(~fits.all(1)), stage="boxes", error="BadValue", messages=_complaints(boxes, fits))
            rows, boxes = rows.keep(fits.all(1)), boxes[fits.all(1)]
        if self._detector and bool((blind := boxes.isnan().flatten(1).all(1)).any()):
            boxes[blind] = self._detector(rows.tensors["pixels"][blind])
        return rows.without(*[f.name for f in BOXES]).with_tensors(boxes=boxes.clamp(0, 1))


class Look(Stage):
    """Each frame becomes a vector, `tensors["seen"]`; its pixels, boxes and the pair of grey frames go."""

    def __init__(self, model: TouchModel) -> None:
        self._model = model

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        pairs, there = rows.tensors["pair"], rows.tensors["pair_there"]
        pairs[:, 0] = torch.where(there[:, :1, None], pairs[:, 0], pairs[:, 1])
        seen = self._model.look(rows.tensors.get("pixels"), rows.tensors["boxes"], pairs)
        return Rows(rows.table, rows.slots, {}).with_tensors(seen=seen)


def _are_boxes(boxes: Tensor) -> Tensor:
    """Which are boxes, or not given at all: `[B, 2, 4]` -> `[B, 2] bool`."""
    near, inside = ((boxes >= -1) & (boxes <= 2)).all(-1), boxes.clamp(0, 1)
    return (near & (inside[..., :2] < inside[..., 2:]).all(-1)) | boxes.isnan().all(-1)


def _complaints(boxes: Tensor, fits: Tensor) -> list[str]:
    """A line for each frame with a box that is none."""
    lines = []
    for both, good in zip(boxes[~fits.all(1)], fits[~fits.all(1)], strict=True):
        hand = int(good.int().argmin())
        got = ", ".join(f"{value:.6g}" for value in both[hand].tolist())
        lines.append(f"expected {HANDS[hand]} x0 < x1 and y0 < y1 as shares of the frame, got {got}")
    return lines


class Judge(Stage):
    """What a window says of its own frame, `tensors["said"]`."""

    def __init__(self, model: TouchModel) -> None:
        self._model = model

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        said = self._model.judge(rows.tensors["window"], rows.tensors["window_there"])
        return Rows(rows.table, rows.slots, {}).with_tensors(said=said)


class Touches(Stage):
    """Adds what happens in each frame, see `RESULTS`, and `keep`, true near events.

    A contact while the hand holds something changes nothing, nor does a release while it holds nothing. Of one frame's events
    the release comes first. After a lapse nothing is held.
    """

    def __init__(self, model: TouchModel) -> None:
        self._model = model

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "since": Cell((len(HANDS),), torch.int64, NOTHING),
            "time": Cell(dtype=torch.int64, fill=NEVER),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        since, time = state.cell("since"), state.cell("time")
        scores, events = self._model.decide(rows.tensors["window"], rows.tensors["window_there"])
        now, sequence = ctx.times(rows), rows.column("sequence")
        told, holds = (
            torch.empty(len(rows), len(HANDS), dtype=torch.int64),
            torch.empty(len(rows), len(HANDS), dtype=torch.bool),
        )
        lapse = milliseconds(LAPSE)
        for index in rows.rounds():
            slots = rows.slots[index]
            lapsed = now[index] - time[slots] > lapse
            held = torch.where(lapsed[:, None], NOTHING, since[slots])
            contact, release = events[index].unbind(2)
            free = release | (held == NOTHING)
            begun = torch.where(contact & free, sequence[index, None], torch.where(release, NOTHING, held))
            told[index], holds[index] = torch.where(begun == NOTHING, held, begun), begun != NOTHING
            since[slots], time[slots] = begun, now[index]
        return Rows(rows.table, rows.slots, {}).with_columns(_columns(scores, events, told, holds))


def _columns(scores: Tensor, events: Tensor, since: Tensor, holds: Tensor) -> dict[str, pa.Array]:
    """As `RESULTS` has them; `since` and `holds` are `[B, 2]`, the others `[B, 2, 2]`."""
    columns: dict[str, pa.Array] = {"keep": pa.array((scores > CLOSE).flatten(1).any(1).numpy())}
    for number, hand in enumerate(HANDS):
        for kind, score in zip(KINDS, scores[:, number].unbind(1), strict=True):
            columns[f"{hand}_{kind}"] = pa.array(score.numpy())
        contact, release = events[:, number].unbind(1)
        which = np.select([contact.numpy(), release.numpy()], [0, 1], 2)
        columns[f"{hand}_event"] = pa.array([*KINDS, None], pa.string()).take(pa.array(which))
        columns[f"{hand}_touches"] = pa.array(holds[:, number].numpy())
        columns[f"{hand}_since"] = pa.array(since[:, number].numpy(), mask=(since[:, number] == NOTHING).numpy())
    return columns


def _results(shots: Iterable[Shot], rate: float, folder: Path, version: str, hands: str) -> pl.DataFrame:
    declared = pipeline({"hands": hands} if hands else {}, Model(folder, version, "auto"))
    return replay_clip(declared, shots, rate=rate, after="10s").table.sort("sequence")


domain = Touch(_results, [field.name for field in BOXES], SCORES)
