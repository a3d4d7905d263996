"""Egocentric video: the frames in which a hand touches something, and those in which it lets go."""

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
from tocsin.models.live import live_verdicts
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
    Truth,
    frame_fields,
    milliseconds,
    replay_clip,
)
from tocsin.pipelines.runtime.stages import CenteredWindow, Encode, Gaps, Keep, Pixels, Reorder

LAPSE = "500ms"
"""Time between two frames after which the first one is no context for the second."""
WAIT = "2s"
"""Time for which the windows wait for a camera that sends nothing."""
CLOSE = 0.2
"""Lowest score of a frame that is kept: frames around an event, and around a near miss."""
FINDER, NONE = "finder", "none"
"""Values of the option `hands`: Tocsin's own detector, or no detector."""
EXPERIMENTAL = "it finds few touches in real video; see docs/touch.md"
"""Printed when the pipeline starts, until it finds touches on real clips to within 3 frames at a precision of one half."""
NOTHING = NEVER
"""Stored instead of a frame number while a hand holds nothing."""
SIDES = ("x0", "y0", "x1", "y1")

BOXES = [
    pa.field(f"{hand}_{side}", pa.float32(), metadata={"from": f"header:{hand}_{side}"})
    for hand in HANDS
    for side in SIDES
]
"""The hands' boxes, in headers as well: left, top, right, bottom as shares of the frame; missing for an unseen hand."""

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
                *[pa.field(f"{hand}_{kind}", pa.float32(), metadata={"axis": hand}) for kind in KINDS],
                (f"{hand}_event", pa.string()),
                (f"{hand}_touches", pa.bool_()),
                (f"{hand}_since", pa.int64()),
            )
        ],
        ("frame", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; for each hand the scores of a contact and a release, 0 to 1, the
event if there is one, whether the hand touches something, and the frame of the contact, which the frame of the release has, too;
and the path of the frame in the lake, if it is kept."""


REVIEW = pa.schema(
    [
        pa.field("camera", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("end", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("hand", pa.string(), nullable=False),
        pa.field("touches", pa.bool_(), nullable=False),
    ]
)
"""A label: a reviewed span of a camera's film, and whether a hand touches something in it."""


class TouchOptions(Options):
    """The options of the touch pipeline.

    Args:
        late: by how much frames of a camera may be out of order, in the unit of their time or as a duration; they wait for so long.
        roots: folders in which messages may say that their frames lie.
        hands: what finds hands in frames that come without boxes: "finder", MediaPipe's model file, or "none".
        contact, release: lowest score of such an event, 0 to 1; None: the model's own.
    """

    name: str = "touch"
    topic: str = "video.egocentric"
    late: Lateness = 0
    roots: list[str] = Field(default_factory=list)
    hands: str = FINDER
    contact: float | None = Field(default=None, gt=0, le=1)
    release: float | None = Field(default=None, gt=0, le=1)


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
    network, o = model.load(load, training="tocsin train touch"), TouchOptions.read(options)
    network = network.with_thresholds(contact=o.contact, release=o.release)
    fields = frame_fields(*network.size, roots=o.roots)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema([*FACTS, *BOXES, *fields]),
        key="camera",
        event_time="time",
        stages=_stages(network, o, fields[1], model.device),
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
        truth=Truth(schema=REVIEW, key="camera", event_time="start", score=_live_scores),
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
        experimental=EXPERIMENTAL,
    )


def _stages(network: TouchModel, o: TouchOptions, pixels: pa.Field, device: str) -> list[Stage]:
    c = network.config
    # Rows of an inactive camera leave `Reorder` before the windows close without them.
    reorder_wait = max(milliseconds(o.late) if isinstance(o.late, str) else o.late, 1000)
    wait = f"{max(milliseconds(WAIT), reorder_wait + 1000)}ms"
    return [
        Reorder(late=o.late, wait=f"{reorder_wait}ms"),
        Gaps(by="sequence"),
        Pixels(pixels),
        Boxes(_detector(o.name, o.hands, device)),
        Encode(network.grey),
        CenteredWindow(
            past=1,
            ahead=0,
            tensor="grey",
            shape=network.size,
            dtype=torch.uint8,
            name="pair",
            lapse=LAPSE,
            wait=wait,
            without=() if c.eye.looks else ("pixels",),
        ),
        EncodeFrame(network),
        CenteredWindow(c.network.past, c.network.ahead, "seen", shape=[c.network.dim], lapse=LAPSE, wait=wait),
        ScoreFrame(network),
        CenteredWindow(c.decode.wait, c.decode.wait, "said", shape=[2, len(HANDS), len(KINDS)], lapse=LAPSE, wait=wait),
        Touches(network),
        Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
    ]


Detector = Callable[[Tensor], Tensor]
"""`[B, 3, H, W] uint8` -> `[B, 2, 4]`, NaN for a hand that is not found."""


def _detector(name: str, hands: str, device: str) -> Detector | None:
    if hands == NONE:
        return None
    try:
        return finder.load(device=device) if hands == FINDER else HandDetector(hands)
    except ValueError as reason:
        raise ConfigError(f"pipelines.{name}: {reason}") from None


class Boxes(Stage):
    """Turns the columns of boxes into `tensors["boxes"]`, `[B, 2, 4]`, NaN where there is no hand.

    A box may reach a little beyond the frame, as those of detectors do. An empty or incomplete box, or one in pixels, is a dead
    letter.

    Args:
        detector: finds hands in frames without boxes.
    """

    def __init__(self, detector: Detector | None) -> None:
        self._detector = detector

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        boxes = torch.stack([rows.column(f.name) for f in BOXES], 1).float().unflatten(1, (len(HANDS), len(SIDES)))
        fits = _are_boxes(boxes)
        if not bool(fits.all()):
            ctx.refuse(rows.keep(~fits.all(1)), stage="boxes", error="BadValue", messages=_messages(boxes, fits))
            rows, boxes = rows.keep(fits.all(1)), boxes[fits.all(1)]
        if self._detector and bool((blind := boxes.isnan().flatten(1).all(1)).any()):
            boxes[blind] = self._detector(rows.tensors["pixels"][blind])
        return rows.without(*[f.name for f in BOXES]).with_tensors(boxes=boxes.clamp(0, 1))


class EncodeFrame(Stage):
    """Encodes each frame as a vector, `tensors["seen"]`, and drops its pixels, its boxes and the pair of grey frames."""

    def __init__(self, model: TouchModel) -> None:
        self._model = model

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        pairs, is_present = rows.tensors["pair"], rows.tensors["pair_there"]
        pairs[:, 0] = torch.where(is_present[:, :1, None], pairs[:, 0], pairs[:, 1])
        encoded = self._model.encode(rows.tensors.get("pixels"), rows.tensors["boxes"], pairs)
        return Rows(rows.table, rows.slots, {}).with_tensors(seen=encoded)


def _are_boxes(boxes: Tensor) -> Tensor:
    """Which boxes are valid, or missing altogether: `[B, 2, 4]` -> `[B, 2] bool`."""
    in_range, inside = ((boxes >= -1) & (boxes <= 2)).all(-1), boxes.clamp(0, 1)
    return (in_range & (inside[..., :2] < inside[..., 2:]).all(-1)) | boxes.isnan().all(-1)


def _messages(boxes: Tensor, fits: Tensor) -> list[str]:
    """One line for each frame with an invalid box."""
    lines = []
    for hand_boxes, valid in zip(boxes[~fits.all(1)], fits[~fits.all(1)], strict=True):
        hand = int(valid.int().argmin())
        got = ", ".join(f"{value:.6g}" for value in hand_boxes[hand].tolist())
        lines.append(f"expected {HANDS[hand]} x0 < x1 and y0 < y1 as shares of the frame, got {got}")
    return lines


class ScoreFrame(Stage):
    """Scores the centre frame of each window, `tensors["said"]`."""

    def __init__(self, model: TouchModel) -> None:
        self._model = model

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        scores = self._model.predict(rows.tensors["window"], rows.tensors["window_there"])
        return Rows(rows.table, rows.slots, {}).with_tensors(said=scores)


class Touches(Stage):
    """Adds each frame's events, see `RESULTS`, and `keep`, true near events.

    A contact is ignored while the hand holds something, and a release while it holds nothing. If a frame has both, the release
    comes first. After a lapse the hand holds nothing.
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
        reported_since, is_holding = (
            torch.empty(len(rows), len(HANDS), dtype=torch.int64),
            torch.empty(len(rows), len(HANDS), dtype=torch.bool),
        )
        lapse = milliseconds(LAPSE)
        for index in rows.rounds():
            slots = rows.slots[index]
            lapsed = now[index] - time[slots] > lapse
            holding_since = torch.where(lapsed[:, None], NOTHING, since[slots])
            contact, release = events[index].unbind(2)
            free = release | (holding_since == NOTHING)
            updated = torch.where(contact & free, sequence[index, None], torch.where(release, NOTHING, holding_since))
            reported_since[index], is_holding[index] = (
                torch.where(updated == NOTHING, holding_since, updated),
                updated != NOTHING,
            )
            since[slots], time[slots] = updated, now[index]
        return Rows(rows.table, rows.slots, {}).with_columns(_columns(scores, events, reported_since, is_holding))


def _columns(scores: Tensor, events: Tensor, since: Tensor, holds: Tensor) -> dict[str, pa.Array]:
    """The columns of `RESULTS`; `since` and `holds` are `[B, 2]`, the others `[B, 2, 2]`."""
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


def _results(
    shots: Iterable[Shot], rate: float, folder: Path, version: str, options: Mapping[str, Any]
) -> pl.DataFrame:
    declared = pipeline(options, Model(folder, version, "auto"))
    return replay_clip(declared, shots, rate=rate, after="10s").table.sort("sequence")


def _live_scores(results: pl.LazyFrame, reviews: pl.LazyFrame) -> pl.DataFrame:
    """Score verdicts by reviewed spans, frame by frame and hand by hand."""

    def by_hand(rows: pl.LazyFrame, hand: str) -> pl.LazyFrame:
        return rows.with_columns(pl.concat_str("key", pl.lit("/"), pl.lit(hand)).alias("key"))

    verdicts = [by_hand(results.with_columns(verdict=f"{hand}_touches"), hand) for hand in HANDS]
    spans = [by_hand(reviews.filter(pl.col("hand") == hand), hand) for hand in HANDS]
    labelled = pl.concat(spans).select("key", "start", "end", truth="touches")
    return live_verdicts(pl.concat(verdicts), labelled)


domain = Touch(_results, [field.name for field in BOXES], SCORES)
