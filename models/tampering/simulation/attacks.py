"""Attacks on a camera, carried out on its recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Mask = NDArray[np.float32]

KINDS = ("frozen", "loop", "splice", "reencoded", "swapped", "covered", "defocused", "turned")
"""Kinds that models are trained on, and that they tell apart."""
UNSEEN = ("painted", "rewound", "stuttering", "blended", "blinded", "mirrored")
"""Kinds that are held out of training."""
LEAST = 12
"""Frames of a loop, at least."""


@dataclass(frozen=True)
class Attacked:
    """A recording with an attack.

    Args:
        frames: `[H, W, 3]` each.
        covers: for each frame, the share of the attack in each pixel, `[H, W]`; None: the frame is as the camera took it.
    """

    frames: list[Picture]
    covers: list[Mask | None]


Shown = list[tuple[Picture, Mask | None]]
"""Attacked frames, each with the share of the attack in its pixels; None: all of it."""
Attack = Callable[[np.random.Generator, Sequence[Picture], int, Sequence[Picture]], Shown]
"""A generator, the frames of a recording, the first one that is attacked, and frames of another recording -> the attacked ones."""


def attacked(
    kind: str, rng: np.random.Generator, frames: Sequence[Picture], begin: int, end: int, other: Sequence[Picture]
) -> Attacked:
    """Attack a recording from frame `begin` to before frame `end`.

    Args:
        kind: of `KINDS` or `UNSEEN`.
        other: frames of the same size of another recording, which some attacks show instead.

    Raises:
        ValueError: the kind is unknown, or there are too few frames before `begin` to repeat.
    """
    if kind not in ATTACKS:
        raise ValueError(f"attack: expected one of {', '.join(ATTACKS)}, got {kind}")
    if not LEAST < begin < end <= len(frames):
        raise ValueError(f"attack: expected frames {LEAST} < begin < end <= {len(frames)}, got {begin} and {end}")
    done = ATTACKS[kind](rng, frames[:end], begin, other)
    whole = np.ones(frames[0].shape[:2], np.float32)
    pictures = [*frames[:begin], *(picture for picture, _ in done), *frames[end:]]
    covers = [None] * begin + [whole if mask is None else mask for _, mask in done] + [None] * (len(frames) - end)
    return Attacked(pictures, covers)


def _frozen(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """The last frame, again and again."""
    return [(frames[begin - 1], None)] * (len(frames) - begin)


def _loop(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Frames of the past, again and again; half of them are coded anew."""
    length = int(rng.integers(LEAST, min(begin, 80) + 1))
    first = int(rng.integers(0, begin - length + 1))
    past = _recoded(rng, frames[first : first + length])
    return [(past[number % length], None) for number in range(len(frames) - begin)]


def _rewound(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """The past backwards, and forwards again."""
    past = _recoded(rng, frames[:begin])
    there_and_back = [*reversed(past), *past[1:-1]]
    return [(there_and_back[number % len(there_and_back)], None) for number in range(1, len(frames) - begin + 1)]


def _stuttering(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Each frame is held for some frames."""
    hold = int(rng.integers(3, 8))
    return [(frames[begin + number // hold * hold], None) for number in range(len(frames) - begin)]


def _splice(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """A region of another recording, or of another place of this one's past, in place of what is there."""
    region = _region(rng, frames[0].shape[:2])
    from_other = rng.random() < 0.6
    source, lift = (other if from_other else frames[:begin]), rng.normal(0, 4)
    shift = (
        np.zeros(2, int) if from_other else (rng.choice([-1, 1], 2) * rng.uniform(0.15, 0.4, 2) * frames[0].shape[:2])
    )
    gain = _matched(source[0], frames[begin - 1]) if rng.random() < 0.6 else 1.0
    out: Shown = []
    for number in range(len(frames) - begin):
        there = np.roll(_bounced(source, number), tuple(int(s) for s in shift), (0, 1)).astype(np.float32)
        out.append((_mixed(frames[begin + number], there * gain + lift, region), region))
    return out


def _painted(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """A region is painted over with what surrounds it."""
    region = _region(rng, frames[0].shape[:2])
    small = (max(frames[0].shape[1] // 4, 8), max(frames[0].shape[0] // 4, 8))
    hole = (cv2.resize(region, small) > 0.05).astype(np.uint8)
    out: Shown = []
    for picture in frames[begin:]:
        filled = cv2.inpaint(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), hole, 3, cv2.INPAINT_TELEA)
        large = cv2.resize(filled, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
        out.append((_mixed(picture, large, region), region))
    return out


def _reencoded(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Coded anew at a lower rate: smaller, with coarser JPEG, and smoothed over time."""
    scale, quality, stay = rng.uniform(0.35, 0.75), int(rng.integers(12, 45)), rng.uniform(0, 0.7)
    smooth, out = frames[begin - 1].astype(np.float32), Shown()
    for picture in frames[begin:]:
        smooth = stay * smooth + (1 - stay) * picture
        small = cv2.resize(smooth, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        coded = _jpeg(np.clip(np.rint(small), 0, 255).astype(np.uint8), quality)
        out.append((cv2.resize(coded, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), None))
        smooth = picture.astype(np.float32) if np.abs(smooth - picture).mean() > 12 else smooth
    return out


def _swapped(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """A generated scene in place of the real one: what the camera usually shows, or each frame, without its grain, with false
    detail and false grain.
    """
    still, fine = rng.random() < 0.5, rng.uniform(0.2, 0.45)
    grain, sharp = rng.uniform(0, 3), rng.uniform(0, 1.2)
    usual = np.mean(frames[max(0, begin - 10) : begin], axis=0, dtype=np.float32)
    out, rows, columns = Shown(), *frames[0].shape[:2]
    for number, picture in enumerate(frames[begin:]):
        base = usual if still else picture.astype(np.float32)
        if still:
            away = 0.8 * np.sin(np.array([number / 7, number / 11]))
            base = cv2.warpAffine(
                base, np.array([[1, 0, away[0]], [0, 1, away[1]]]), (columns, rows), borderMode=cv2.BORDER_REFLECT
            )
        small = cv2.resize(base, None, fx=fine, fy=fine, interpolation=cv2.INTER_AREA)
        drawn = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC)
        drawn = drawn + sharp * (drawn - cv2.GaussianBlur(drawn, (0, 0), 2))
        noise = cv2.resize(rng.standard_normal((rows // 2, columns // 2), np.float32), (columns, rows)) * grain
        out.append((_rounded(drawn + noise[..., None]), None))
    return out


def _covered(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Something close before the lens: dark, without shapes, over most of the picture or all of it."""
    rows, columns = frames[0].shape[:2]
    tone, ramp, share = rng.uniform(0, 110) * rng.uniform(0.7, 1.3, 3), int(rng.integers(1, 8)), rng.uniform(0.7, 1.3)
    angle, grain = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 4)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    along = np.cos(angle) * (x / columns - 0.5) + np.sin(angle) * (y / rows - 0.5)
    place = (along - along.min()) / (along.max() - along.min())
    cloth = cv2.GaussianBlur(rng.standard_normal((rows, columns), np.float32), (0, 0), 20) * 60
    out: Shown = []
    for number, picture in enumerate(frames[begin:]):
        edge = share * min(1.0, (number + 1) / ramp)
        cover = np.clip((edge - place) / 0.08, 0, 1).astype(np.float32)
        over = tone + (cloth + rng.standard_normal((rows, columns), np.float32) * grain)[..., None]
        out.append((_mixed(picture, over, cover), cover))
    return out


def _defocused(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """The lens is turned out of focus. The grain of the sensor stays."""
    blur, ramp, grain = rng.uniform(2, 6) * frames[0].shape[0] / 270, int(rng.integers(1, 10)), rng.uniform(0.3, 3)
    out: Shown = []
    for number, picture in enumerate(frames[begin:]):
        soft = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), blur * min(1.0, (number + 1) / ramp))
        out.append((_rounded(soft + rng.standard_normal(soft.shape, np.float32) * grain), None))
    return out


def _turned(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """The camera is turned away, or about its axis."""
    rows, columns = frames[0].shape[:2]
    away = rng.choice([-1, 1], 2) * rng.uniform(0.12, 0.6, 2) * (columns, rows * 0.6)
    angle, ramp = rng.choice([-1, 1]) * rng.uniform(0, 40), int(rng.integers(1, 12))
    out: Shown = []
    for number, picture in enumerate(frames[begin:]):
        done = min(1.0, (number + 1) / ramp)
        turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle * done, 1.0)
        turn[:, 2] += away * done
        out.append((cv2.warpAffine(picture, turn, (columns, rows), borderMode=cv2.BORDER_REFLECT), None))
    return out


def _blended(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Another recording shines through, or covers the half."""
    share = np.float32(rng.uniform(0.35, 0.65))
    cover = np.full(frames[0].shape[:2], share, np.float32)
    return [
        (_mixed(picture, _bounced(other, number).astype(np.float32), cover), None)
        for number, picture in enumerate(frames[begin:])
    ]


def _blinded(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """A strong light into the lens."""
    rows, columns = frames[0].shape[:2]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    at, ramp, force = rng.uniform(0.2, 0.8, 2) * (rows, columns), int(rng.integers(1, 6)), rng.uniform(250, 600)
    far = np.hypot(y - at[0], x - at[1]) / columns
    glow = np.exp(-((far / rng.uniform(0.15, 0.4)) ** 2)) + 0.25
    out: Shown = []
    for number, picture in enumerate(frames[begin:]):
        light = force * min(1.0, (number + 1) / ramp) * (1 + 0.03 * rng.standard_normal())
        out.append((_rounded(picture * 0.6 + (glow * light)[..., None]), None))
    return out


def _mirrored(rng: np.random.Generator, frames: Sequence[Picture], begin: int, other: Sequence[Picture]) -> Shown:
    """Right is left."""
    return [(np.ascontiguousarray(picture[:, ::-1]), None) for picture in frames[begin:]]


ATTACKS: dict[str, Attack] = {
    "frozen": _frozen,
    "loop": _loop,
    "splice": _splice,
    "reencoded": _reencoded,
    "swapped": _swapped,
    "covered": _covered,
    "defocused": _defocused,
    "turned": _turned,
    "painted": _painted,
    "rewound": _rewound,
    "stuttering": _stuttering,
    "blended": _blended,
    "blinded": _blinded,
    "mirrored": _mirrored,
}


def _region(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    """A region of 8 to 30 % of the picture with soft edges, inside it."""
    area, ratio = rng.uniform(0.08, 0.3), np.exp(rng.uniform(-0.5, 0.5))
    share = np.minimum([np.sqrt(area * ratio), np.sqrt(area / ratio)], 0.9)
    top, left = rng.uniform(0, 1 - share)
    mask = np.zeros(size, np.float32)
    a, b = (
        (int(top * size[0]), int(left * size[1])),
        (int((top + share[0]) * size[0]), int((left + share[1]) * size[1])),
    )
    if rng.random() < 0.5:
        mask[a[0] : b[0], a[1] : b[1]] = 1
    else:
        middle, axes = ((a[1] + b[1]) // 2, (a[0] + b[0]) // 2), ((b[1] - a[1]) // 2, (b[0] - a[0]) // 2)
        cv2.ellipse(mask, middle, axes, 0, 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.6, 3))), np.float32)


def _bounced(frames: Sequence[Picture], number: int) -> Picture:
    """A frame of a recording that is played forwards and backwards without end."""
    number %= max(1, 2 * len(frames) - 2)
    return frames[number if number < len(frames) else 2 * len(frames) - 2 - number]


def _recoded(rng: np.random.Generator, frames: Sequence[Picture]) -> list[Picture]:
    """Half of all recordings are coded anew before they are replayed."""
    if rng.random() < 0.5:
        return [*frames]
    quality = int(rng.integers(55, 92))
    return [_jpeg(picture, quality) for picture in frames]


def _matched(source: Picture, picture: Picture) -> float:
    """The factor by which a recording gets the brightness of another one."""
    return float(np.clip((picture.mean() + 5) / (source.mean() + 5), 0.4, 2.5))


def _mixed(picture: Picture, other: NDArray[np.float32], cover: Mask) -> Picture:
    return _rounded(picture + cover[..., None] * (other - picture))


def _jpeg(picture: Picture, quality: int) -> Picture:
    file = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
    return np.asarray(simplejpeg.decode_jpeg(file, "RGB"), np.uint8)


def _rounded(image: NDArray[Any]) -> Picture:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
