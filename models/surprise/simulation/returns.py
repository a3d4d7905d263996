"""A simulated dive that comes back: out over the bottom, a turn, and back along the same course past the same things.

What lies on the bottom is new on the way out and is seen again on the way back, from another height, with other sway, in other
water and in half of the dives turned by half. Other things have come to lie there in between, and animals come into sight on both
ways: these are new whenever they are seen.

The design is this project's own. It contains no picture from a data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.novelties import (
    GAP,
    SIGHT,
    SIZES,
    THINGS,
    Novelty,
    View,
    near,
    place,
    rising,
    sighting,
    sprite,
    visible_share,
)
from tocsin.models.surprise.simulation.scene import Dive, Scene
from tocsin.models.surprise.simulation.shapes import Sprite
from tocsin.models.surprise.simulation.vehicle import Path, drive, sway

VALIDATION_SEEDS = tuple(range(800, 808))
TEST_SEEDS = tuple(range(9100, 9110))
"""Fixed before anything was tuned. Test dives are for reporting only."""

LEG = 60.0  # s of each way
TURN = 6.0  # s between them
AWAY = 30.0  # s out of sight before something is seen again, at least
OUT = ((1, 2), (2, 4), (1, 2))
BACK = ((0, 1), (1, 2), (1, 2))
"""Least and most seeps, things and animals that are first in sight on the way out, and on the way back."""
SEEP = "bubbles"
STAYS = (*THINGS, SEEP)
ATTEMPTS, SEEPS = 300, 30


@dataclass(frozen=True)
class Sight(Novelty):
    """A novelty, and the number of what is in sight. What is seen again has the number that it had before."""

    thing: int


class Return(Dive):
    """A dive that comes back, rendered frame by frame.

    Args:
        seed: one of the seeds above, or any other.
        scene: what it is drawn from, but for the number of novelties.
        others: as of `Dive`.

    Attributes:
        novelties: each a `Sight`, in order.
        back: the first frame of the way back.
        turned: whether the vehicle heads the other way when it comes back.
    """

    novelties: tuple[Sight, ...]

    def __init__(
        self, seed: int, *, scene: Scene, leg: float = LEG, rate: float = 10, size: tuple[int, int] = (180, 320)
    ) -> None:
        out = round(leg * rate)
        self.back = out + round(TURN * rate)
        super().__init__(seed, seconds=(self.back + out) / rate, rate=rate, size=size, scene=scene)
        rng = np.random.default_rng((seed, 5))
        self._water.turbid[self.back :] *= np.exp(rng.normal(0, 0.2))

    def _drive(self, count: int, rate: float, rng: np.random.Generator) -> Path:
        s = self._scene
        out = drive(count - self.back, rate, rng, speed=s.speed, jerks=s.jerks, tilt=s.tilt)
        self.turned = bool(rng.random() < 0.5)
        return retraced(out, self.back, rate, rng, turn=np.pi if self.turned else 0.0, speed=s.speed, jerks=s.jerks)

    def _appear(self, view: View, rng: np.random.Generator) -> list[tuple[Novelty, list[Actor]]]:
        return _Shore(view, rng, self._scene.kinds, self.back).filled()


def retraced(
    out: Path, back: int, rate: float, rng: np.random.Generator, *, turn: float, speed: float, jerks: float
) -> Path:
    """Continue a path by a turn and the same course in reverse, under other sway, 12 units off it and at another altitude.

    Args:
        out: a path whose way back begins with frame `back`; the turn fills the frames between.
        turn: rad, by which the vehicle turns.
    """
    count = len(out.place)
    smooth = np.column_stack([out.place, out.heading, np.log(out.altitude)])
    reach = int(rate)
    padded = np.pad(smooth, ((reach, reach), (0, 0)), mode="edge")
    sums = np.cumsum(np.vstack([np.zeros((1, 4)), padded]), axis=0)
    smooth = (sums[2 * reach + 1 :] - sums[:count]) / (2 * reach + 1)
    course = np.vstack([np.repeat(smooth[-1:], back - count, axis=0), smooth[::-1]])
    share = np.clip(np.arange(len(course)) / max(back - count, 1), 0, 1)
    share = share * share * (3 - 2 * share)
    offsets = sway(len(course), rate, rng, speed=speed, jerks=jerks)
    begins = np.clip(np.arange(len(course)) / reach, 0, 1)[:, None]  # from where the way out ended
    offsets *= begins
    off = np.array([*rng.normal(0, 12, 2), rng.normal(0, 0.05) + turn, rng.normal(0, 0.12)])
    course += offsets + share[:, None] * off
    course[:reach] += (1 - begins[:reach]) * (
        np.column_stack([out.place, out.heading, np.log(out.altitude)])[-1] - smooth[-1]
    )
    return Path(
        np.vstack([out.place, course[:, :2]]),
        np.concatenate([out.heading, course[:, 2]]),
        np.concatenate([out.altitude, np.clip(np.exp(course[:, 3]), 0.5, 2.2)]),
        out.tilt,
    )


class _Shore:
    """Places what there is to see on both ways."""

    def __init__(self, view: View, rng: np.random.Generator, kinds: tuple[str, ...], back: int) -> None:
        self._view, self._rng, self._back, self._sways = view, rng, back, view.sways()
        self._things = [kind for kind in kinds if kind in THINGS]
        self._animals = [kind for kind in kinds if kind not in THINGS]
        self._out = len(view.cameras) - back
        self._placed: list[tuple[list[Sight], list[Actor]]] = []

    def filled(self) -> list[tuple[Novelty, list[Actor]]]:
        """Sights in order, each with its actors; those of what is seen again come with the first of its sights."""
        for bounds, back in ((OUT, False), (BACK, True)):
            for kinds, (least, most) in zip(((SEEP,), self._things, self._animals), bounds, strict=True):
                for _ in range(int(self._rng.integers(least, most + 1))):
                    self._add(kinds, back)
        found = [
            (sight, actors if at == 0 else []) for sights, actors in self._placed for at, sight in enumerate(sights)
        ]
        return sorted(found, key=lambda pair: pair[0].first)

    def _add(self, kinds: Sequence[str], back: bool) -> None:
        """Try to place something of one of `kinds` that is first in sight on the way out, or on the way back."""
        rng, view = self._rng, self._view
        low, high = (self._back, len(view.cameras)) if back else (0, self._out)
        for attempt in range(SEEPS if kinds == (SEEP,) else ATTEMPTS):
            if attempt % 60 == 0:
                kind = str(rng.choice(kinds))
                sprites = [sprite(kind, {}, rng) for _ in range(2)]
            begin = int(rng.integers(low, high))
            seep = kind == SEEP
            actors = self._seep(sprites[0], begin) if seep else place(kind, sprites, view, self._sways, begin, rng)
            if back and kind in STAYS:  # it is not there before
                there = np.arange(len(view.cameras)) >= self._back
                actors = [_when(actor, there) for actor in actors]
            sights = self._sights(kind, actors, back)
            gap = 0.7 * GAP * view.rate
            if sights and not any(near(one, other, gap) for s, _ in self._placed for other in s for one in sights):
                self._placed.append((sights, actors))
                return

    def _seep(self, bubble: Sprite, begin: int) -> list[Actor]:
        """Bubbles that rise from one spot for some seconds on each way, when the camera is nearest to it."""
        rng, view = self._rng, self._view
        rows, columns = view.size
        length, lasts = rng.uniform(*SIZES[SEEP]), int(view.rate * rng.uniform(1.0, 5.0))
        spot = view.cameras[begin] @ (rng.uniform(0.15, 0.85) * columns, rng.uniform(0.3, 0.9) * rows, 1)
        spot = spot[:2] / spot[2]
        pixels = np.linalg.solve(view.cameras, np.tile([[*spot, 1]], (len(view.cameras), 1))[..., None])[..., 0]
        pixels = pixels[:, :2] / np.where(pixels[:, 2:] > 1e-3, pixels[:, 2:], np.nan)
        away = np.nan_to_num(np.abs(pixels / (columns, rows) - 0.5).max(1), nan=np.inf)
        nearest = int(away[: self._out].argmin()), self._back + int(away[self._back :].argmin())
        actors = []
        for at in nearest:
            if away[at] < 0.4:
                actors += rising(bubble, length, view, spot, at - lasts // 2, lasts, rng)
        return actors

    def _sights(self, kind: str, actors: list[Actor], back: bool) -> list[Sight]:
        """When actors are in sight: once, or on both ways if they stay. Empty if it is unsuitable."""
        view, thing = self._view, len(self._placed)
        if not actors:
            return []
        share = visible_share(actors, view)
        if (share[self._out : self._back] >= 0.3 * SIGHT).any():
            return []
        sights = []
        for later, begin, part in ((False, 0, share[: self._out]), (True, self._back, share[self._back :])):
            if later != back and not (later and kind in STAYS):
                if (part >= 0.3 * SIGHT).any():
                    return []
            elif found := sighting(kind, part, view.rate):
                sights.append(Sight(begin + found.first, begin + found.last, kind, thing))
            else:
                return []
        soon = len(sights) == 2 and sights[1].first - sights[0].last < AWAY * view.rate
        return [] if soon else sights


def _when(actor: Actor, there: NDArray[np.bool_]) -> Actor:
    """An actor that is invisible but in the frames in which it is there, `[T]` bool."""
    life = there[actor.first : actor.first + len(actor.opacity)]
    return replace(actor, opacity=actor.opacity * np.pad(life, (0, len(actor.opacity) - len(life))))
