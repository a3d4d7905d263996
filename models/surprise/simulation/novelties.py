"""The novelties of a scene: what appears, when and how, for a camera whose motion is known.

Animals enter at an edge or come out of the haze. They follow the vehicle's smoothed path, so a knock moves them in the picture as
it moves everything else. Things lie on the bottom until the camera passes over them. Bubbles rise from a spot. The time in sight is
then measured, and only a novelty whose time is within `LASTS` is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.shapes import LENGTH, Sprite, paint
from tocsin.models.surprise.simulation.vehicle import WIDTH

Array = NDArray[np.float64]

SIZES = {
    "fish": (40, 110), "reef fish": (35, 80), "eel": (80, 160), "ray": (70, 140), "turtle": (70, 140), "squid": (50, 95),
    "jellyfish": (45, 90), "diver": (110, 190), "school": (18, 34), "light": (70, 130), "bubbles": (7, 16), "anchor": (70, 120),
    "crate": (50, 95), "tyre": (45, 85), "pipe": (110, 220), "amphora": (60, 105),
}  # fmt: skip
"""Kinds, and the bounds of their length, in pixels of a picture 320 wide."""
THINGS = ("anchor", "crate", "tyre", "pipe", "amphora")
CUT_OUT = (45, 120)
"""Bounds of the length of a cut-out."""
FLOATERS = ("ray", "turtle", "squid", "jellyfish")  # rotated to their direction of travel; other animals stay upright
LASTS = (1.5, 8.0)  # s in sight, least and most
GAP = 3.0  # s between two novelties, at least
SETTLED = 3.0  # s before the first novelty, at least
SIGHT = 0.0025  # share of the picture, reduced by haze, that a novelty must fill to be in sight


@dataclass(frozen=True)
class Novelty:
    """An interval of frames, both ends included, in which something of `kind` is in sight."""

    first: int
    last: int
    kind: str


@dataclass(frozen=True)
class View:
    """A camera's motion and view, in which novelties are placed.

    Args:
        cameras: `[T, 3, 3]`, from pixels to the bottom's plane; a picture at altitude 1 is `WIDTH` units of the plane wide.
        size: rows and columns.
        rate: frames a second.
        haze: attenuation at distance 1.
    """

    cameras: Array
    size: tuple[int, int]
    rate: float
    haze: float

    @property
    def unit(self) -> float:
        """Pixels of this picture per pixel of a picture `WIDTH` wide."""
        return self.size[1] / WIDTH

    def sways(self) -> Array:
        """Offset of the smoothed path from each frame's centre, `[T, 2]` pixels, right and down."""
        centre = np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2, 1])
        points = self.cameras @ centre
        reach = min(int(1.5 * self.rate), (len(points) - 1) // 2)
        padded = np.pad(points, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd") if reach else points
        sums = np.cumsum(np.vstack([np.zeros((1, 3)), padded]), axis=0)
        smooth = (sums[2 * reach + 1 :] - sums[: len(points)]) / (2 * reach + 1)
        back = np.linalg.solve(self.cameras, smooth[:, :, None])[:, :, 0]
        return back[:, :2] / back[:, 2:] - centre[:2]


def appear(
    view: View,
    rng: np.random.Generator,
    *,
    kinds: Sequence[str],
    often: tuple[int, int],
    empty: float,
    cutouts: Mapping[str, Sequence[Sprite]] = MappingProxyType({}),
) -> list[tuple[Novelty, list[Actor]]]:
    """Draw the novelties of each minute, in order and at least `GAP` apart.

    Args:
        kinds: names in `SIZES` or `cutouts`, drawn with equal probability. Things are rarer where the camera does not pass them.
        often: least and most novelties a minute.
        empty: share of minutes without novelties.
        cutouts: sprites of further kinds. One that does not bend lies on the bottom, any other swims.
    """
    count = len(view.cameras)
    found: list[tuple[Novelty, list[Actor]]] = []
    sways = view.sways()
    minutes = max(1, round(count / view.rate / 60))
    for minute in range(minutes):
        planned = 0 if rng.random() < empty else int(rng.integers(often[0], often[1] + 1))
        low, high = max(minute * count // minutes, int(SETTLED * view.rate)), (minute + 1) * count // minutes
        for _ in range(round(planned * min(1, count / view.rate / 60 / minutes))):
            for attempt in range(160):
                # Try another kind: the camera may pass no place where this one is in sight for long enough.
                if attempt % 40 == 0:
                    kind = str(rng.choice(kinds))
                    sprites = [sprite(kind, cutouts, rng) for _ in range(2)]
                actors = place(kind, sprites, view, sways, int(rng.integers(low, max(high, low + 1))), rng)
                novelty = sighting(kind, visible_share(actors, view), view.rate)
                if novelty and not any(near(novelty, other, GAP * view.rate) for other, _ in found):
                    found.append((novelty, actors))
                    break
    return sorted(found, key=lambda pair: pair[0].first)


def sprite(kind: str, cutouts: Mapping[str, Sequence[Sprite]], rng: np.random.Generator) -> Sprite:
    """Draw one individual of a kind, or choose a cut-out of it."""
    if kind in cutouts:
        return cutouts[kind][int(rng.integers(len(cutouts[kind])))]
    return paint({"school": "fish", "bubbles": "bubble"}.get(kind, kind), rng)


def near(one: Novelty, other: Novelty, gap: float) -> bool:
    """Whether fewer than `gap` frames lie between two novelties."""
    return one.first <= other.last + gap and other.first <= one.last + gap


def visible_share(actors: Sequence[Actor], view: View) -> Array:
    """The share of the picture that actors fill together in each frame, `[T]`, reduced by haze."""
    shares = [actor.visible_share(len(view.cameras), view.size, view.haze) for actor in actors]
    return np.asarray(np.sum(shares, axis=0), np.float64)


def sighting(kind: str, share: Array, rate: float) -> Novelty | None:
    """The interval in which something is in sight; None if it is unsuitable.

    It must be in sight once, for a time within `LASTS`, after `SETTLED`, and no longer in the last frame.

    Args:
        share: of the picture that it fills in each frame, `[T]`.
        rate: frames a second.
    """
    frames = np.flatnonzero(share >= SIGHT)
    if not len(frames):
        return None
    first, last = int(frames[0]), int(frames[-1])
    seconds = (last + 1 - first) / rate
    broken = len(frames) < last + 1 - first and np.diff(frames).max() > 0.7 * rate
    outside = np.delete(share, slice(max(first - int(rate), 0), last + int(rate) + 1))
    if broken or not LASTS[0] <= seconds <= LASTS[1] or first < SETTLED * rate or last >= len(share) - 1:
        return None
    if share.max() < 1.6 * SIGHT or (outside > 0.3 * SIGHT).any():  # hardly visible, or partly visible for much longer
        return None
    return Novelty(first, last, kind)


def place(
    kind: str, sprites: list[Sprite], view: View, sways: Array, begin: int, rng: np.random.Generator
) -> list[Actor]:
    """Place one novelty in the scene so that it may be in sight from frame `begin` on; `sways` are the view's."""
    length = rng.uniform(*SIZES.get(kind, CUT_OUT))
    if kind in THINGS or (kind not in SIZES and not sprites[0].bend):
        return [_lying(sprites[0], length, view, begin, rng)]
    if kind == "bubbles":
        return _rising(sprites[0], length, view, begin, rng)
    duration = max(4, int(view.rate * rng.uniform(1.8, 7.5)))
    count = int(rng.integers(9, 26)) if kind == "school" else 1
    room = length * (5 if kind == "school" else 1) * view.unit / 2
    path, distance = _path(view, room, duration, rng)
    inside = np.clip(np.arange(begin, begin + duration), 0, len(sways) - 1)
    path = path + sways[inside]
    swimmers = []
    for member in range(count):
        member_path, size = path, length
        if count > 1:
            time = np.arange(duration)[:, None] / view.rate
            beat = rng.uniform(0.3, 0.9, 2) * time + rng.random(2)
            member_path = path + view.unit * length * (rng.normal(0, (1.6, 0.9)) + 0.35 * np.sin(2 * np.pi * beat))
            size = length * rng.uniform(0.75, 1.2)
        swimmers.append(_swimmer(kind, sprites[member % 2], size, member_path, distance, begin, view, rng))
    return swimmers


def _path(view: View, room: float, duration: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A path `[duration, 2]` from edge to edge, or out of the haze or into it, and the distance along it."""
    rows, columns = view.size

    def edge() -> Array:
        side = rng.choice(4, p=(0.38, 0.38, 0.12, 0.12))
        x, y = rng.uniform(0.1, 0.9) * columns, rng.uniform(0.1, 0.9) * rows
        return np.array([(-room - 4, y), (columns + room + 4, y), (x, -room - 4), (x, rows + room + 4)][side])

    middle = np.array([rng.uniform(0.2, 0.8) * columns, rng.uniform(0.2, 0.8) * rows])
    near = rng.uniform(0.35, 0.8)
    share = np.linspace(0, 1, duration)
    bursts = int(rng.integers(1, 4))
    share = share + rng.uniform(0, 0.8) * np.sin(2 * np.pi * bursts * share) / (2 * np.pi * bursts)
    distance = near * (1 + 0.15 * np.sin(2 * np.pi * (share + rng.random())))
    ends = [edge(), edge()]
    hazy = rng.random()
    if hazy < 0.4:
        far = near + rng.uniform(2, 4) / view.haze
        closer = 1 - np.clip(share / rng.uniform(0.3, 0.6), 0, 1)
        ends[0] = middle + rng.normal(0, 0.12, 2) * (columns, rows)
        distance = distance * np.exp(np.log(far / near) * closer)
        if hazy < 0.15:  # reversed: into the haze
            ends, share = ends[::-1], share[::-1]
            share, distance = 1 - share, distance[::-1]
    share = share[:, None]
    return (1 - share) ** 2 * ends[0] + 2 * share * (1 - share) * middle + share**2 * ends[1], distance


def _swimmer(
    kind: str,
    sprite: Sprite,
    length: float,
    path: Array,
    distance: Array,
    begin: int,
    view: View,
    rng: np.random.Generator,
) -> Actor:
    duration = len(path)
    pace = np.gradient(path, axis=0) * view.rate / view.unit  # px/s
    reach = np.ones(min(5, duration)) / min(5, duration)
    pace = np.stack(
        [np.convolve(np.pad(p, len(reach) // 2, mode="edge"), reach, "valid")[:duration] for p in pace.T], 1
    )
    scale = length / LENGTH * view.unit * np.minimum(1.2, distance.min() * 1.2 / distance)
    placings = np.zeros((duration, 2, 3))
    if kind in FLOATERS:
        angle = np.arctan2(pace[:, 1], pace[:, 0])
        ahead, aside = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([-np.sin(angle), np.cos(angle)], 1)
    else:
        lean = np.clip(np.arctan2(pace[:, 1], np.abs(pace[:, 0]) + 25), -0.6, 0.6)
        facing = np.where(pace[:, 0] >= 0, 1, -1) * np.clip(np.abs(pace[:, 0]) / 15, 0.4, 1)  # narrow while it turns
        ahead = np.stack([facing * np.cos(lean), np.sin(lean)], 1)
        aside = np.stack([-np.sign(facing) * np.sin(lean), np.cos(lean)], 1)
    pulse = 1 + (0.14 if kind in ("jellyfish", "ray") else 0.0) * np.sin(
        2 * np.pi * np.arange(duration) / view.rate * 0.8
    )
    placings[:, :, 0] = ahead * scale[:, None]
    placings[:, :, 1] = aside * (scale * pulse)[:, None]
    rows, columns = sprite.size
    placings[:, :, 2] = path - placings[:, :, :2] @ np.array([columns / 2, rows / 2])
    slow = rng.uniform(0.4, 0.8) if length > 60 else rng.uniform(0.8, 1.8)
    phase = 2 * np.pi * np.cumsum(slow + np.hypot(*pace.T) / 120) / view.rate + rng.uniform(0, 6)
    opacity = np.ones(duration)
    if kind == "light":
        opacity = 0.75 + 0.25 * np.sin(2 * np.pi * rng.uniform(0.2, 1) * np.arange(duration) / view.rate)
    return Actor(sprite, begin, placings, distance, phase, opacity)


def _spots(view: View, place: Array) -> tuple[Array, Array, Array]:
    """Project a place on the plane into each picture.

    Returns:
        Its pixel `[T, 2]`, the linear map from the plane to pixels there `[T, 2, 2]`, and its distance `[T]`.
    """
    at = np.linalg.solve(view.cameras, np.tile(np.append(place, 1)[:, None], (len(view.cameras), 1, 1)))[:, :, 0]
    ahead = at[:, 2] > 1e-3
    at = np.where(ahead[:, None], at[:, :2] / np.where(ahead, at[:, 2], 1)[:, None], -1e6)
    over = (view.cameras[:, 2, :2] * at).sum(1) + view.cameras[:, 2, 2]
    # Outside these bounds a sprite drawn by the plane's local slope would fill the picture.
    drawable = ahead & (over > 0.05) & (over < 2.5)
    over = np.where(drawable, over, 1e6)
    grown = (view.cameras[:, :2, :2] - place[None, :, None] * view.cameras[:, 2:, :2]) / over[:, None, None]
    grown = np.where(drawable[:, None, None], grown, np.eye(2) * 1e3)
    distance: Array = np.sqrt(np.abs(np.linalg.det(grown))) * view.unit
    slope = np.asarray(np.linalg.inv(grown), np.float64)
    return at, slope, distance


def _lying(sprite: Sprite, length: float, view: View, begin: int, rng: np.random.Generator) -> Actor:
    rows, columns = view.size
    pixel = np.array([rng.uniform(0.1, 0.9) * columns, rng.uniform(0.1, 0.9) * rows, 1])
    place = view.cameras[begin] @ pixel
    at, drawn, distance = _spots(view, place[:2] / place[2])
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * length / LENGTH
    placings = np.zeros((len(at), 2, 3))
    placings[:, :, :2] = drawn @ turned
    middle = np.array([sprite.size[1] / 2, sprite.size[0] / 2])
    placings[:, :, 2] = at - placings[:, :, :2] @ middle
    return Actor(sprite, 0, placings, distance, np.zeros(len(at)), (distance < 50).astype(float), floor=True)


def _rising(sprite: Sprite, length: float, view: View, begin: int, rng: np.random.Generator) -> list[Actor]:
    rows, columns = view.size
    pixel = np.array([rng.uniform(0.15, 0.85) * columns, rng.uniform(0.5, 1.0) * rows, 1])
    spot = view.cameras[begin] @ pixel
    duration = int(view.rate * rng.uniform(1.0, 6.0))
    return rising(sprite, length, view, spot[:2] / spot[2], begin, duration, rng)


def rising(
    sprite: Sprite, length: float, view: View, spot: Array, begin: int, duration: int, rng: np.random.Generator
) -> list[Actor]:
    """Bubbles that rise from a spot on the plane, `[2]`; they come out of it in `duration` frames from `begin` on."""
    count = len(view.cameras)
    at, _, distance = _spots(view, spot)
    bubbles, pace = [], rng.uniform(45, 90)
    for birth in np.sort(
        rng.uniform(begin, begin + duration, int(duration / view.rate * rng.uniform(14, 28)) + 4)
    ).astype(int):
        frames = np.arange(birth, min(birth + int(view.rate * rng.uniform(1.0, 2.2)), count))
        if not len(frames):
            continue
        age = (frames - birth) / view.rate
        grown = length * rng.uniform(0.5, 1.4) * (1 + 0.3 * age) * view.unit
        aside = rng.normal(0, 7) + 4 * np.sin(2 * np.pi * (rng.uniform(1, 2) * age + rng.random()))
        placings = np.zeros((len(frames), 2, 3))
        placings[:, 0, 0] = placings[:, 1, 1] = grown / LENGTH
        centre = at[frames] + view.unit * np.stack([aside * (0.3 + age), -pace * rng.uniform(0.85, 1.2) * age], 1)
        placings[:, :, 2] = centre - (grown / LENGTH)[:, None] * np.array([sprite.size[1] / 2, sprite.size[0] / 2])
        bubbles.append(
            Actor(sprite, birth, placings, np.minimum(0.8, distance[frames]), age, np.full(len(frames), 0.9))
        )
    return bubbles
