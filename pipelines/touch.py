"""Egocentric video: the frames in which a hand touches something, and those in which it lets go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from tocsin.models.touch import finder, reach
from tocsin.models.touch.domain import Touch
from tocsin.models.touch.hands import FINDER, JOINTS, NONE, FoundHand, HandDetector, joints_are_found, sided
from tocsin.models.touch.model import TouchModel, load
from tocsin.models.touch.truth import HANDS, KINDS
from tocsin.pipelines.parts.cameras import OUT_OF_DOMAIN, SPAN, CameraOptions
from tocsin.pipelines.runtime import (
    FACTS,
    NEVER,
    AlertRule,
    Batch,
    Cell,
    ConfigError,
    Declared,
    Model,
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
from tocsin.pipelines.runtime.stages import CenteredWindow, Encode, Familiar, Gaps, Keep, Reorder

LAPSE = "500ms"
"""Time between two frames after which the first one is no context for the second."""
WAIT = "2s"
"""Time for which the windows wait for a camera that sends nothing."""
CLOSE = 0.2
"""Lowest score of a frame that is kept: frames around an event, and around a near miss."""
TRACK_MS, FRAME_MS = 350, 1000 / 30
"""For how long a hand that is not found keeps its side, and the time of a frame."""
EXPERIMENTAL = (
    "without the joints of hands it finds few touches in real video; set hands to MediaPipe's model, see docs/touch.md"
)
"""Printed when the pipeline starts, where it does not find touches on real clips within 3 frames at a precision of one half."""
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
        ("in_domain", pa.bool_()),
        ("unlike", pa.string()),
    ]
)
"""Columns of a frame: the number of frames missing before it; for each hand the scores of a contact and a release, 0 to 1, the
event if there is one, whether the hand touches something, and the frame of the contact, which the frame of the release has, too;
the path of the frame in the lake, if it is kept; and whether the camera's last frames are like the training data, and what of them
is not."""


REVIEW = pa.schema(
    [
        *SPAN,
        pa.field("hand", pa.string(), nullable=False),
        pa.field("touches", pa.bool_(), nullable=False),
    ]
)
"""A label: a reviewed span of a camera's film, and whether a hand touches something in it."""


class TouchOptions(CameraOptions):
    """The options of the touch pipeline.

    Args:
        hands: MediaPipe's model file, which finds the joints of hands, by which touches are then judged; or what finds hands in
            frames that come without boxes: "finder", or "none".
        contact, release: lowest score of such an event, 0 to 1; None: the model's own.
    """

    name: str = "touch"
    topic: str = "video.egocentric"
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
    o = TouchOptions.read(options)
    by_joints = joints_are_found(o.hands)
    loader: Callable[[Path, str], Judge] = _load_reach if by_joints else load
    loaded = model.load(loader, training="tocsin train touch")
    judge = loaded.with_thresholds(contact=o.contact, release=o.release)
    fields = frame_fields(*judge.size, roots=o.roots)
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=pa.schema([*FACTS, *BOXES, *fields]),
        key="camera",
        event_time="time",
        stages=_stages(judge, o, fields, model.device),
        results=RESULTS,
        rules=[
            *(
                AlertRule(
                    name=hand,
                    severity="info",
                    when=pl.col(f"{hand}_touches"),
                    data=["sequence", f"{hand}_since", f"{hand}_contact", f"{hand}_release", "frame"],
                )
                for hand in HANDS
            ),
            OUT_OF_DOMAIN,
        ],
        files={"frame": "jpeg"},
        truth=Truth(schema=REVIEW, key="camera", event_time="start", score=_live_scores),
        model_version=model.version,
        batch=Batch(rows=64, wait="20ms"),
        experimental="" if by_joints else EXPERIMENTAL,
    )


Judge = TouchModel | reach.ReachModel


def _load_reach(folder: Path, device: str) -> Judge:
    return reach.load(folder)


def _stages(judge: Judge, o: TouchOptions, fields: Sequence[pa.Field], device: str) -> list[Stage]:
    # Rows of an inactive camera leave `Reorder` before the windows close without them.
    reorder_wait = max(milliseconds(o.late) if isinstance(o.late, str) else o.late, 1000)
    wait = f"{max(milliseconds(WAIT), reorder_wait + 1000)}ms"
    return [
        Reorder(late=o.late, wait=f"{reorder_wait}ms"),
        Gaps(by="sequence"),
        Familiar(fields[1], judge.usual, file=fields[0].name),
        _hands(judge, o, device),
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
            without=() if isinstance(judge, TouchModel) and judge.config.eye.looks else ("pixels",),
        ),
        EncodeFrame(judge),
        CenteredWindow(judge.past, judge.ahead, "seen", shape=[judge.width], lapse=LAPSE, wait=wait),
        ScoreFrame(judge),
        CenteredWindow(
            decides := judge.config.decode.wait,
            decides,
            "said",
            shape=[2, len(HANDS), len(KINDS)],
            lapse=LAPSE,
            wait=wait,
        ),
        Touches(judge),
        Keep(when="keep", folder=f"frames/{o.name}", suffix=".jpg", into="frame"),
    ]


Detector = Callable[[Tensor], Tensor]
"""`[B, 3, H, W] uint8` -> `[B, 2, 4]`, NaN for a hand that is not found."""


def _hands(judge: Judge, o: TouchOptions, device: str) -> Stage:
    """The stage that finds hands."""
    try:
        if isinstance(judge, TouchModel):
            return Boxes(None if o.hands == NONE else finder.load(device=device))
        return Joints(HandDetector(o.hands), judge.size)
    except ValueError as reason:
        raise ConfigError(f"pipelines.{o.name}: {reason}") from None


class Joints(Stage):
    """Finds the joints of hands: `tensors["joints"]`, `[B, 2, 2, 21, 2]`, in the previous frame and in the frame; see `reach`.

    Args:
        detector: finds the hands in frames.
        size: rows and columns of frames.
    """

    def __init__(self, detector: Callable[[Tensor], list[list[FoundHand]]], size: tuple[int, int]) -> None:
        self._detector, self._scale = detector, (float(size[1]), float(size[0]))

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "joints": Cell((len(HANDS), JOINTS, 2)),
            "seen": Cell((len(HANDS),), torch.int64, NEVER),
            "time": Cell(dtype=torch.int64, fill=NEVER),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        joints, seen, time = state.cell("joints"), state.cell("seen"), state.cell("time")
        found, now = self._detector(rows.tensors["pixels"]), ctx.times(rows)
        both = torch.full((len(rows), 2, len(HANDS), JOINTS, 2), torch.nan)
        for index in rows.rounds():
            slots = rows.slots[index]
            last, since, before = joints[slots], seen[slots], time[slots]
            unseen = ((now[index, None] - since) / FRAME_MS).round().long() - 1
            unseen = torch.where(now[index, None] - since <= TRACK_MS, unseen.clamp(min=0), -1)
            sides = [
                sided(found[row], last[at].numpy(), unseen[at].tolist(), self._scale)
                for at, row in enumerate(index.tolist())
            ]
            current = torch.from_numpy(np.stack(sides))
            here = ~current.isnan().any(3).any(2)
            follows = (since == before[:, None]) & (now[index] - before <= milliseconds(LAPSE))[:, None]
            both[index, 0] = torch.where(follows[..., None, None], last, torch.nan)
            both[index, 1] = current
            joints[slots] = torch.where(here[..., None, None], current, last)
            seen[slots] = torch.where(here, now[index, None], since)
            time[slots] = now[index]
        return rows.without(*[f.name for f in BOXES]).with_tensors(joints=both)


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
    """Encodes each frame as a vector, `tensors["seen"]`, and drops its pixels, its hands and the pair of grey frames."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        pairs, is_present = rows.tensors["pair"], rows.tensors["pair_there"]
        pairs[:, 0] = torch.where(is_present[:, :1, None], pairs[:, 0], pairs[:, 1])
        if isinstance(self._judge, TouchModel):
            encoded = self._judge.encode(rows.tensors.get("pixels"), rows.tensors["boxes"], pairs)
        else:
            encoded = self._judge.encode(rows.tensors["joints"], pairs) * is_present[:, :1]
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

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        scores = self._judge.predict(rows.tensors["window"], rows.tensors["window_there"])
        return Rows(rows.table, rows.slots, {}).with_tensors(said=scores)


class Touches(Stage):
    """Adds each frame's events, see `RESULTS`, and `keep`, true near events.

    A contact is ignored while the hand holds something, and a release while it holds nothing. If a frame has both, the release
    comes first. After a lapse the hand holds nothing.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "since": Cell((len(HANDS),), torch.int64, NOTHING),
            "time": Cell(dtype=torch.int64, fill=NEVER),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        since, time = state.cell("since"), state.cell("time")
        scores, events = self._judge.decide(rows.tensors["window"], rows.tensors["window_there"])
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
