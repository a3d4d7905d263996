"""Recordings as frames to attack: real ones at several paces, and simulated cameras at stills of them or at drawn scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from tocsin.models.folders import listed
from tocsin.models.tampering.measures import SIZE
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.vision.picture import Picture, scaled
from tocsin.models.vision.video import is_clip, read

LARGE = 270, 480
"""Rows and columns at which half of the recordings are attacked, before they are scaled to `SIZE`."""
LONG = 160
"""Frames of a recording to train on, at most."""
SHORT = 70
"""Frames that a recording needs to be attacked; of a shorter one, stills are used."""
PACES = (1, 2, 3)
"""Of a recording's frames, one in so many is taken."""


@dataclass(frozen=True)
class Recording:
    """A recording to attack.

    Args:
        name: for tables.
        frames: `[H, W, 3]` RGB each.
    """

    name: str
    frames: Sequence[Picture]


def clips(folder: Path) -> list[Path]:
    """The clips in a folder and in the folders below it."""
    if is_clip(folder):
        return [folder]
    return [path for entry in listed(folder) for path in (clips(entry) if entry.is_dir() else [entry] * is_clip(entry))]


def loaded(path: Path, *, every: int = 1, most: int = 700) -> list[Picture]:
    """One in `every` frames of a clip, scaled to `LARGE`, as a pipeline scales frames: nothing is cropped."""
    frames = []
    for number, picture in enumerate(read(path, rate=None, size=None)):
        if number >= every * most:
            break
        if number % every == 0:
            frames.append(scaled(picture, LARGE))
    return frames


def sent(picture: Picture, quality: int) -> Picture:
    """A frame as it arrives: coded as JPEG by the camera, decoded and scaled to `SIZE`."""
    file = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality)
    return scaled(np.asarray(simplejpeg.decode_jpeg(file, "RGB"), np.uint8), SIZE)


def cut(rng: np.random.Generator, frames: Sequence[Picture], name: str) -> Recording:
    """A part of a recording at some pace, some of its picture, in some light."""
    paces = [pace for pace in PACES if len(frames) >= pace * SHORT] or [1]
    pace = int(rng.choice(paces))
    length = min(LONG, len(frames) // pace)
    first = int(rng.integers(0, len(frames) - pace * (length - 1)))
    taken = frames[first : first + pace * length : pace]
    size = LARGE if rng.random() < 0.4 else SIZE
    rows, columns = taken[0].shape[:2]
    part = rng.uniform(0.55, 1)
    top, left = (int(rng.uniform(0, side * (1 - part))) for side in (rows, columns))
    flip, back = rng.random() < 0.5, rng.random() < 0.3
    gain, gamma = rng.uniform(0.5, 1.2), np.exp(rng.normal(0, 0.15))
    light = np.clip(255 * (gain * (np.arange(256) / 255) ** gamma), 0, 255).astype(np.uint8)
    out = []
    for picture in reversed(taken) if back else taken:
        piece = picture[top : top + int(rows * part), left : left + int(columns * part)]
        piece = scaled(piece[:, ::-1] if flip else piece, size)
        out.append(light[piece])
    return Recording(name, out)


def simulated(
    rng: np.random.Generator, seed: int, stills: Sequence[Picture], name: str, *, size: tuple[int, int] | None = None
) -> Recording:
    """A simulated camera at a still, if there are any, or at a drawn scene.

    Args:
        size: of the frames; None: at random.
    """
    still = stills[int(rng.integers(0, len(stills)))] if stills and rng.random() < 0.5 else None
    size = size or (LARGE if rng.random() < 0.3 else SIZE)
    return Recording(name, [*Camera.drawn(seed, frames=int(rng.integers(100, LONG)), still=still, size=size)])


def stills(path: Path, count: int) -> Iterator[Picture]:
    """Frames of a clip, spread over it."""
    frames = loaded(path)
    for at in np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int):
        yield frames[at]
