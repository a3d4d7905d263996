"""Real footage: its ground truth, novelties drawn into it, and a camera that moves over a still picture.

A directory for `tocsin evaluate surprise --data DIR` holds clips (see `tocsin.models.vision.video`) and one table, `novelties.csv`,
with a header and these columns:

    clip        the name of the file or directory in DIR
    start_s     when something new comes into sight, s from the clip's first frame
    end_s       when it was last in sight, s, not before start_s
    kind        what it is, any text

The table has one row per interval, in any order. Every clip in DIR takes part. A clip without a row has nothing new, and every
alert in it is false.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.folders import listed, named
from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.novelties import SIZES, Novelty, View, appear
from tocsin.models.surprise.simulation.scene import Clip
from tocsin.models.surprise.simulation.vehicle import WIDTH, drive
from tocsin.models.surprise.simulation.water import wrapped
from tocsin.models.tables import read as read_table
from tocsin.models.vision.video import VIDEOS, Frame, is_clip

Array = NDArray[np.float64]

TRUTH = "novelties.csv"
MAX_FRAMES = 3_600  # of a clip to draw into; all of them are held in memory
DIFFERS = 18  # levels by which a novelty differs from its background; smaller differences are not visible
GREY = 110.0  # the mean level of a frame that sprites are painted for
HAZE = 0.45  # assumed for real footage, where the attenuation is unknown
DIMMED = np.array([1.6, 1.0, 0.9], np.float32)  # attenuation of red, green and blue, relative to green


def clips(directory: Path, *, decimal_comma: bool = False) -> dict[Path, tuple[tuple[float, float, str], ...]]:
    """The clips of a directory in name order, each with its intervals (start s, end s, kind) in order of start.

    Raises:
        ValueError: there is no table or no clip, a column is missing, the table names an unknown clip, or an interval is invalid.
    """
    table = named(directory, TRUTH)
    if table is None:
        raise ValueError(f"{directory} has no {TRUTH}; expected one with the columns clip, start_s, end_s, kind")
    found = {path.name: path for path in listed(directory) if is_clip(path)}
    if not found:
        raise ValueError(f"{directory} has no clips; expected files {', '.join(VIDEOS)} or directories of pictures")
    sheet = read_table(table, decimal_comma=decimal_comma)
    sheet.require("clip", "start_s", "end_s", "kind")
    columns = sheet.texts("clip"), sheet.numbers("start_s"), sheet.numbers("end_s"), sheet.texts("kind", empty=True)
    truth: dict[str, list[tuple[float, float, str]]] = {name: [] for name in found}
    for row, (clip, start, end, kind) in enumerate(zip(*columns, strict=True)):
        if clip not in truth:
            raise ValueError(
                f"{table}, line {sheet.line(row)}: no clip {clip!r} in {directory}; it has {', '.join(found)}"
            )
        if not 0 <= start <= end:
            raise ValueError(
                f"{table}, line {sheet.line(row)}: from {start} to {end} s; expected 0 <= start_s <= end_s"
            )
        truth[clip].append((start, end, kind or "unknown"))
    return {found[name]: tuple(sorted(intervals)) for name, intervals in truth.items()}


def intervals(truth: Sequence[tuple[float, float, str]], rate: float) -> tuple[Novelty, ...]:
    """Convert intervals in seconds to frames, at `rate` frames a second."""
    return tuple(Novelty(int(start * rate), int(end * rate), kind) for start, end, kind in truth)


def covered(picture: Frame, bare: Frame, grid: tuple[int, int]) -> NDArray[np.float32]:
    """The share of each place that something new covers, `[*grid]`.

    A pixel is covered where `picture` differs from `bare`, the same picture without the novelty.
    """
    differs = np.abs(picture.astype(np.int16) - bare).max(2) > DIFFERS
    return np.asarray(cv2.resize(differs.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA), np.float32)


def injected(
    frames: Iterable[Frame],
    seed: int,
    *,
    rate: float = 10,
    kinds: tuple[str, ...] = tuple(SIZES),
    often: tuple[int, int] = (2, 4),
    max_frames: int = MAX_FRAMES,
) -> Clip:
    """Draw simulated novelties into real footage, in its colours.

    Things on the bottom stay in place while the camera moves. The camera's motion is measured between frames, so things drift where
    the measurement fails. Everything in the footage counts as known: leave animals that live there out of `kinds`.

    Args:
        frames: each `[H, W, 3]` uint8 RGB, all of one size; all are held in memory.
        seed: the same seed gives the same bytes.
        rate: frames a second.
        kinds: names in `novelties.SIZES`.
        often: least and most novelties a minute.
        max_frames: the most frames that may be held.

    Returns:
        The clip; its `motion` is None.

    Raises:
        ValueError: there are no frames, or more than `max_frames`.
    """
    buffered: list[Frame] = []
    for frame in frames:
        if len(buffered) == max_frames:
            raise ValueError(f"more than {max_frames} frames to draw into; use shorter clips")
        buffered.append(frame)
    if not buffered:
        raise ValueError("no frames to draw into")
    output = np.stack(buffered)
    size = (output.shape[1], output.shape[2])
    appearances = appear(
        View(_track_camera(output), size, rate, HAZE), np.random.default_rng(seed), kinds=kinds, often=often, empty=0.0
    )
    for _, actors in appearances:
        _draw(output, actors)
    return Clip(output, np.arange(len(output)) / rate, None, tuple(novelty for novelty, _ in appearances))


def panned(
    still: Frame,
    seed: int,
    *,
    seconds: float = 30,
    rate: float = 10,
    size: tuple[int, int] = (180, 320),
    grain: float = 2.0,
) -> Clip:
    """Move a camera over a still picture as a vehicle moves.

    The picture's edges are never in sight. Nothing is new, so every alert is false.

    Args:
        still: `[H, W, 3]` uint8 RGB; about half its width is in sight at a time.
        seed: the same seed gives the same bytes.
        seconds: length of the clip.
        rate: frames a second.
        size: rows and columns of the frames.
        grain: standard deviation of the added noise, levels.
    """
    rng = np.random.default_rng(seed)
    count = max(1, round(seconds * rate))
    path = drive(count, rate, rng, tilt=(0.0, 0.0))
    rows, columns = still.shape[:2]
    heading, altitude = 0.15 * np.sin(path.heading / 0.15), np.clip(path.altitude, 0.6, 1.1)
    scale = min(columns / 2 / WIDTH, rows / 2 / (WIDTH * size[0] / size[1]))  # pixels of the still to a unit
    reach = 1.1 * np.array([[1.0, 0.15], [0.15, 1.0]]) @ (np.array(size[::-1]) / size[1] * WIDTH / 2)
    margin = np.maximum(np.array([columns, rows]) / 2 / scale - reach, 1)
    place = margin * np.sin((path.place - path.place[0]) / margin)  # turns back before it leaves the still
    path = replace(path, place=place, heading=heading, altitude=altitude)
    to_still = np.array([[scale, 0, (columns - 1) / 2], [0, scale, (rows - 1) / 2], [0, 0, 1]])
    frames = np.empty((count, *size, 3), np.uint8)
    for at, camera in enumerate(path.cameras(size)):
        view = wrapped(still, to_still @ camera, size)
        noisy = view + grain * rng.standard_normal(view.shape, np.float32)
        frames[at] = np.clip(noisy, 0, 255).astype(np.uint8)
    return Clip(frames, np.arange(count) / rate, path.motion(size))


def _track_camera(frames: Frame) -> Array:
    """Maps from each frame's pixels to the first frame's plane, in units, `[T, 3, 3]`.

    The motion between two frames is the one that most tracked corners agree on.
    """
    unit = WIDTH / frames.shape[2]
    camera = np.diag([unit, unit, 1.0])
    cameras = [camera]
    greys = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    before = next(greys)
    for grey in greys:
        motion = np.eye(3)
        corners = cv2.goodFeaturesToTrack(before, 150, 0.01, 7)
        if corners is not None and len(corners) >= 8:
            tracked, status, _ = cv2.calcOpticalFlowPyrLK(before, grey, corners, None)
            good = status[:, 0] > 0
            if good.sum() >= 8:
                affine, _ = cv2.estimateAffinePartial2D(tracked[good], corners[good], ransacReprojThreshold=1.0)
                if affine is not None:
                    motion[:2] = affine
        camera = camera @ motion
        cameras.append(camera)
        before = grey
    return np.stack(cameras)


def _draw(frames: Frame, actors: list[Actor]) -> None:
    """Draw actors into all their frames, in place, with the light and the water colour of each frame."""
    begin = max(min(actor.first for actor in actors), 0)
    end = min(max(actor.first + len(actor.placings) for actor in actors), len(frames))
    for at in range(begin, end):
        picture = frames[at].astype(np.float32)
        color = picture[::8, ::8].reshape(-1, 3).mean(0)
        light = np.float32(np.clip(color.mean() / GREY, 0.4, 1.6))
        picture /= light
        for actor in actors:
            actor.draw(picture, at, color / light, HAZE * DIMMED)
        frames[at] = np.clip(picture * light, 0, 255).astype(np.uint8)
