"""A simulated camera that is attacked now and then, without end: for `feed`, and for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle, islice

import numpy as np
from numpy.typing import NDArray

from tocsin.models.tampering.simulation.attacks import KINDS, UNSEEN, attacked
from tocsin.models.tampering.simulation.camera import Camera

Picture = NDArray[np.uint8]
PAST = 100
"""Frames of the past that an attack may repeat."""


@dataclass(frozen=True)
class Stream:
    """Frames of a fixed camera: `quiet` ones, then `attack` ones of an attack, and so on.

    Args:
        seed: of the camera and of the attacks.
        size: rows and columns.
        kinds: of the attacks, in turn.
        frames: number of frames; None: endless.
    """

    seed: int
    size: tuple[int, int] = (270, 480)
    kinds: Sequence[str] = (*KINDS, *UNSEEN)
    quiet: int = 150
    attack: int = 60
    frames: int | None = None

    def __iter__(self) -> Iterator[Picture]:
        """`[*size, 3]` uint8 RGB each."""
        return (picture for picture, _ in self.told())

    def told(self) -> Iterator[tuple[Picture, str]]:
        """Each frame with the kind of its attack; "": there is none."""
        return islice(self._told(), self.frames)

    def _told(self) -> Iterator[tuple[Picture, str]]:
        rng, kinds = np.random.default_rng([33, self.seed]), cycle(self.kinds)
        endless = 1 << 40
        one = replace(Camera.drawn(self.seed, frames=400, size=self.size), motion="still", lamp=None, frames=endless)
        camera, other = iter(one), Camera.drawn(self.seed + 1_000_000, frames=self.attack, size=self.size)
        past = deque[Picture](maxlen=PAST)
        for _ in count():
            for picture in islice(camera, self.quiet):
                past.append(picture)
                yield picture, ""
            if not self.kinds:
                continue
            kind, taken = next(kinds), [*islice(camera, self.attack)]
            frames, begin = [*past, *taken], len(past)
            done = attacked(kind, rng, frames, begin, len(frames), [*other])
            past.extend(taken)
            yield from ((picture, kind) for picture in done.frames[begin:])
