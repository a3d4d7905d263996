"""Novelties composited into real pictures: into footage, and over a still picture that a camera moves over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.novelties import SIZES, View, appear
from tocsin.models.surprise.simulation.scene import Clip
from tocsin.models.surprise.simulation.shapes import LENGTH, Sprite, sprite
from tocsin.models.surprise.simulation.vehicle import WIDTH, drive
from tocsin.models.surprise.simulation.water import Water, compressed, wrapped
from tocsin.models.vision.video import Frame

Array = NDArray[np.float64]

MAX_FRAMES = 3_600  # of a clip to draw into; all of them are held in memory
DIFFERS = 18  # levels by which a novelty differs from its background; smaller differences are not visible
GREY = 110.0  # the mean level of a frame that sprites are painted for
HAZE = 0.45  # assumed for real footage, where the attenuation is unknown
DIMMED = np.array([1.6, 1.0, 0.9], np.float32)  # attenuation of red, green and blue, relative to green


def covered(picture: Frame, bare: Frame, grid: tuple[int, int]) -> NDArray[np.float32]:
    """The share of each place that something new covers, `[*grid]`.

    A pixel is covered where `picture` differs from `bare`, the same picture without the novelty.
    """
    differs = np.abs(picture.astype(np.int16) - bare).max(2) > DIFFERS
    return np.asarray(cv2.resize(differs.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA), np.float32)


def cut_out(picture: Frame, mask: NDArray[np.bool_], *, bend: float = 0.0, flip: bool = False) -> Sprite:
    """Cut a thing out of a picture, as a sprite with a soft edge.

    Args:
        picture: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]`, where the thing is; its long side becomes the sprite's length.
        bend: of the sprite; 0 for what lies on the bottom.
        flip: whether it faces left.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise ValueError("expected a mask with at least one pixel, got an empty one; mark the thing to cut out")
    region = np.s_[max(rows.min() - 2, 0) : rows.max() + 3, max(columns.min() - 2, 0) : columns.max() + 3]
    color, opacity = picture[region].astype(np.float32), mask[region].astype(np.float32)
    if opacity.shape[0] > opacity.shape[1]:
        color, opacity = np.rot90(color).copy(), np.rot90(opacity).copy()
    if flip:
        color, opacity = color[:, ::-1], opacity[:, ::-1]
    size = LENGTH, max(8, round(LENGTH * opacity.shape[0] / opacity.shape[1]))
    color, opacity = (cv2.resize(np.ascontiguousarray(part), size) for part in (color, opacity))
    return sprite(color, cv2.GaussianBlur(np.clip(2 * opacity - 1, 0, 1), (0, 0), 1.5), bend=bend)


def patch(picture: Frame, rng: np.random.Generator) -> Sprite:
    """Cut a random smooth shape out of a picture: the look of a real thing without a label. Half of them swim."""
    rows, columns = picture.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = 1 + sum(rng.normal(0, 0.5 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (1, 2, 3, 4, 5)) / 2
    radius = np.clip(radius, 0.35, 2) / np.clip(radius, 0.35, 2).max() * rng.uniform(0.12, 0.3) * rows
    flat = rng.uniform(0.35, 1.0)
    centre = rng.uniform(0.2, 0.8, 2) * (columns, rows)
    points = centre + np.stack([np.cos(angles) * radius, flat * np.sin(angles) * radius], 1)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], (1,))
    return cut_out(picture, mask > 0, bend=rng.choice([0.0, 0.04]), flip=bool(rng.random() < 0.5))


def injected(
    frames: Iterable[Frame],
    seed: int,
    *,
    rate: float = 10,
    kinds: Sequence[str] = tuple(SIZES),
    cutouts: Mapping[str, Sequence[Sprite]] = MappingProxyType({}),
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
        kinds: names in `novelties.SIZES` or `cutouts`.
        cutouts: sprites of further kinds, see `novelties.appear`.
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
    view = View(_track_camera(output), size, rate, HAZE)
    appearances = appear(view, np.random.default_rng(seed), kinds=kinds, often=often, empty=0.0, cutouts=cutouts)
    everything = [actor for _, actors in appearances for actor in actors]
    for at, frame in enumerate(output):
        picture = frame.astype(np.float32)
        _draw(picture, at, everything)
        output[at] = np.clip(picture, 0, 255).astype(np.uint8)
    return Clip(output, np.arange(len(output)) / rate, None, tuple(novelty for novelty, _ in appearances))


def panned(
    still: Frame,
    seed: int,
    *,
    seconds: float = 30,
    rate: float = 10,
    size: tuple[int, int] = (180, 320),
    kinds: Sequence[str] = (),
    cutouts: Mapping[str, Sequence[Sprite]] = MappingProxyType({}),
    often: tuple[int, int] = (2, 4),
    weather: bool = True,
    drawn: bool = True,
) -> Clip:
    """Move a camera over a still picture as a vehicle moves: it pans, zooms, rolls, sways and is knocked.

    The picture's edges are never in sight.

    Args:
        still: `[H, W, 3]` uint8 RGB; about half its width is in sight at a time.
        seed: the same seed gives the same bytes.
        seconds: length of the clip.
        rate: frames a second.
        size: rows and columns of the frames.
        kinds: of what is new, names in `novelties.SIZES` or `cutouts`. None: nothing is new, and every alert is false.
        cutouts: sprites of further kinds, see `novelties.appear`.
        often: least and most novelties a minute.
        weather: whether the light changes, the shutter blurs, and the frames have caustics, noise and JPEG loss.
        drawn: False gives the same clip without what is new, see `covered`.
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
    cameras, motion = path.cameras(size), path.motion(size)
    found = (
        appear(View(cameras, size, rate, HAZE), rng, kinds=kinds, often=often, empty=0.0, cutouts=cutouts)
        if kinds
        else []
    )
    water, quality = _weather(np.random.default_rng((seed, 1)), count, rate, size) if weather else (None, 0)
    to_still = np.array([[scale, 0, (columns - 1) / 2], [0, scale, (rows - 1) / 2], [0, 0, 1]])
    frames = np.empty((count, *size, 3), np.uint8)
    for at, camera in enumerate(cameras):
        picture = wrapped(still, to_still @ camera, size).astype(np.float32)
        if drawn:
            _draw(picture, at, [actor for _, actors in found for actor in actors])
        if water:
            water.sunlit(picture, camera, at, np.full(size[0], path.altitude[at], np.float32))
            picture = water.smeared(picture, motion[at]) * np.float32(water.light[at])
            picture += water.grain(at)
        frames[at] = np.clip(picture, 0, 255).astype(np.uint8)
        if quality:
            frames[at] = compressed(frames[at], quality)
    return Clip(frames, np.arange(count) / rate, motion, tuple(novelty for novelty, _ in found) if drawn else ())


def _weather(rng: np.random.Generator, count: int, rate: float, size: tuple[int, int]) -> tuple[Water, int]:
    """The light over a still and the camera's faults; and the quality of JPEG."""
    water = Water(
        rng,
        count=count,
        rate=rate,
        size=size,
        haze=HAZE,
        caustics=rng.uniform(0, 0.3),
        flicker=rng.uniform(0.02, 0.1),
        grain=rng.uniform(1, 4),
    )
    return water, int(rng.integers(60, 95))


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


def _draw(picture: NDArray[np.float32], at: int, actors: Sequence[Actor]) -> None:
    """Draw actors into frame `at`, in place, with its light and the colour of its water."""
    present = [actor for actor in actors if 0 <= at - actor.first < len(actor.placings)]
    if not present:
        return
    color = picture[::8, ::8].reshape(-1, 3).mean(0)
    light = np.float32(np.clip(color.mean() / GREY, 0.4, 1.6))
    picture /= light
    for actor in present:
        actor.draw(picture, at, color / light, HAZE * DIMMED)
    picture *= light
