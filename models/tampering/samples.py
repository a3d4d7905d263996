"""Series of measures with and without attacks, to train on, to validate and to test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.tampering.footage import LARGE, SHORT, Recording, clips, cut, loaded, sent, simulated, stills
from tocsin.models.tampering.measures import SIZE, Measured, film, places
from tocsin.models.tampering.memory import Evidence, MemoryConfig, compared
from tocsin.models.tampering.simulation.attacks import KINDS, attacked
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.vision.picture import scaled

CLEAN = "clean"
WARM = 40
"""Frames of a camera before an attack, at least: what is usual has to be known."""
BEGINS, ENDS = 2, 30
"""Frames at the beginning of an attack, and after its end, whose truth is uncertain."""
STILLS = 4
"""Of each clip, for simulated cameras."""
REST = 260
"""Frames of a camera at rest."""
LAMPS = 0.6, 0.75, 1.3, 1.6
"""Factors by which a lamp changes the light of a camera at rest."""
UNSURE = -1.0
"""Marks places and frames that training does not count."""


@dataclass(frozen=True)
class Series:
    """A recording, measured, with T frames.

    Args:
        name: of the recording.
        kind: of the attack, or `CLEAN`.
        measured: what is measured of each frame.
        covers: `[T, *GRID] float32`, the share of the attack in each place.
    """

    name: str
    kind: str
    measured: Measured
    covers: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.covers)

    @property
    def truth(self) -> NDArray[np.float32]:
        """`[T]`, see `truth`."""
        return truth(np.asarray(self.covers.max((1, 2)) > 0))

    @property
    def kinds(self) -> int:
        """The number of the kind, 0 for those that models do not tell apart."""
        return KINDS.index(self.kind) if self.kind in KINDS else 0


def truth(tampered: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 for tampered frames, 0 for others, `UNSURE` for the first ones of an attack and the first ones after it, `[T]`."""
    found = tampered.astype(np.float32)
    for at in np.flatnonzero(tampered[1:] != tampered[:-1]) + 1:
        found[at : at + (BEGINS if tampered[at] else ENDS)] = UNSURE
    return found


def measure(
    name: str, kind: str, frames: Iterable[NDArray[np.uint8]], covers: Sequence[NDArray[np.float32] | None]
) -> Series:
    """Measure a recording that is sent frame by frame."""
    found = [*film(frames)]
    shares = [np.zeros(found[0].appearance.shape[1:], np.float32) if c is None else places(c) for c in covers]
    return Series(name, kind, Measured(*(np.stack(part) for part in zip(*found, strict=True))), np.stack(shares))


def series(
    rng: np.random.Generator, recording: Recording, kind: str, other: Recording, *, quality: tuple[int, int] = (60, 96)
) -> Series:
    """A recording as it arrives, attacked at some time, and perhaps freed again."""
    frames, code = recording.frames, int(rng.integers(*quality))
    covers: Sequence[NDArray[np.float32] | None] = [None] * len(frames)
    if kind != CLEAN:
        begin = int(rng.integers(WARM, max(WARM + 1, len(frames) - 25)))
        end = len(frames) if rng.random() < 0.6 else int(rng.integers(min(begin + 20, len(frames)), len(frames) + 1))
        size = frames[0].shape[:2]
        shown = [scaled(picture, (size[0], size[1])) for picture in other.frames]
        frames, covers = (done := attacked(kind, rng, frames, begin, end, shown)).frames, done.covers
    return measure(recording.name, kind, (sent(picture, code) for picture in frames), covers)


def drawn(
    folders: Sequence[Path], *, seed: int, real: int, simulated_ones: int, kinds: Sequence[str] = KINDS
) -> Iterator[Series]:
    """Series of clips and simulated cameras; a third of them is clean.

    Args:
        folders: with clips; none: only drawn scenes.
        real: series of each clip that is long enough; simulated_ones: of simulated cameras.
    """
    rng = np.random.default_rng([41, seed])
    paths = [path for folder in folders for path in clips(folder)]
    pictures = [picture for path in paths for picture in stills(path, STILLS)]
    long = {path: frames for path in paths if len(frames := loaded(path)) >= SHORT}
    recipes = [("real", path) for path in long for _ in range(real)] + [("sim", None)] * simulated_ones
    last = simulated(rng, 7_000_000 + seed, pictures, "other")
    for number, (_, path) in enumerate(recipes):
        recording = (
            cut(rng, long[path], path.name)
            if path
            else simulated(rng, 1000 * seed + number, pictures, "simulated camera")
        )
        kind = CLEAN if number % 3 == 2 else kinds[int(rng.integers(0, len(kinds)))]
        if len(recording.frames) >= SHORT:
            yield series(rng, recording, kind, last)
        last = recording


def resting(folders: Sequence[Path], *, seed: int, count: int) -> Iterator[Series]:
    """Series of simulated cameras that nobody touches and that have seen their scene for long; in each, a lamp is switched.

    Args:
        folders: see `drawn`.
    """
    rng = np.random.default_rng([43, seed])
    pictures = [picture for folder in folders for path in clips(folder) for picture in stills(path, STILLS)]
    for number in range(count):
        still = pictures[int(rng.integers(len(pictures)))] if pictures and rng.random() < 0.5 else None
        size = LARGE if rng.random() < 0.3 else SIZE
        lamp = int(rng.integers(WARM + 20, REST - 10)), float(rng.choice(LAMPS))
        drawn_one = Camera.drawn(1000 * seed + number, frames=REST, still=still, size=size)
        one = replace(drawn_one, motion="still" if rng.random() < 0.8 else "sway", lamp=lamp)
        code = int(rng.integers(60, 96))
        yield measure("camera at rest", CLEAN, (sent(picture, code) for picture in one), [None] * REST)


def evidence(some: Series, config: MemoryConfig) -> Evidence:
    """What the network sees of each frame of a series: `[T, ...]`."""
    frames = (Measured(*parts) for parts in zip(*some.measured, strict=True))
    return Evidence(*map(torch.cat, zip(*compared(frames, config), strict=True)))


def targets(some: Series) -> tuple[Tensor, Tensor]:
    """The truth of frames `[T]` and of places `[T, *GRID]`; `UNSURE` where it does not count."""
    of_frames, covers = torch.from_numpy(some.truth), torch.from_numpy(some.covers)
    of_places = torch.where(covers >= 0.5, 1.0, torch.where(covers <= 0.1, 0.0, UNSURE))
    of_places[of_frames == UNSURE] = UNSURE
    weak = (of_frames == 1) & (covers.mean((1, 2)) < 0.02)
    return torch.where(weak, UNSURE, of_frames), of_places
