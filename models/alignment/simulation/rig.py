"""A rig of two cameras, one for light and one for heat, that looks at one scene day and night.

Light and shadows go with the sun, and at night the first camera sees little but noise. Heat follows the sun later, and each thing
in its own way, so that outlines fade and turn over twice a day. Fog comes and goes, things pass before both, and the mast trembles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from tocsin.models.alignment.geometry import Matrix, distance, drawn
from tocsin.models.alignment.simulation.pairs import sampled, view
from tocsin.models.alignment.simulation.scene import scene

Grey = NDArray[np.uint8]
Shade = NDArray[np.float32]
SIZE = (240, 320)
"""Rows and columns of the frames."""
TREMBLE = 0.3
"""Deviation of each frame's own shift, pixels."""
DAY_S = 86_400.0


class Move(NamedTuple):
    """The second camera is pushed.

    Args:
        at: number of the first pair after it.
        pixels: mean distance by which places move in its frame.
    """

    at: int
    pixels: float


class Sight(NamedTuple):
    """A pair of frames `[H, W]`, and the homography from the first to the second without the trembling."""

    first: Grey
    second: Grey
    homography: Matrix


class Rig:
    """A rig's pairs of frames; the same seed gives the same bytes.

    Args:
        seed: of scene, rig and weather.
        pairs: how many.
        every: seconds between two.
        start: hour of the day of the first one.
        moves: pushes, in order.
    """

    def __init__(self, seed: int, *, pairs: int, every: float, start: float = 9.0, moves: Sequence[Move] = ()) -> None:
        self._seed, self._pairs, self._every, self._start, self._moves = seed, pairs, every, start, tuple(moves)

    def __len__(self) -> int:
        return self._pairs

    def __iter__(self) -> Iterator[Sight]:
        rng = np.random.default_rng((self._seed, 7))
        bands = scene(self._seed)
        place, homography = view(bands, SIZE, rng), drawn(rng, SIZE, reach=0.4)
        weights = rng.uniform(-1, 1, (3, bands.shape[2])).astype(np.float32)
        coats = [_stretched(sampled(bands, place, SIZE) @ w) for w in np.abs(weights[:2])]
        moves, fog = {m.at: m.pixels for m in self._moves}, 0.0
        heat = self._coats(bands, place, homography, weights)
        for number in range(self._pairs):
            if number in moves:
                homography = pushed(homography, moves[number], rng)
                heat = self._coats(bands, place, homography, weights)
            hour = (self._start + number * self._every / 3600) % 24
            keep = float(np.exp(-self._every / 7200))
            fog = keep * fog + np.sqrt(1 - keep**2) * rng.normal()
            clear = 1 - 0.75 / (1 + np.exp(-3 * (fog - 1.5)))
            passing = _passing(rng)
            first = self._light(coats, hour, clear, passing, rng)
            second = self._heat(heat, hour, clear, passing, homography, rng)
            yield Sight(first, second, homography)

    def _coats(self, bands: Shade, place: Matrix, homography: Matrix, weights: Shade) -> list[Shade]:
        """Two pictures of heat: what is warm by itself, and what the sun warms."""
        found = sampled(bands, place @ np.linalg.inv(homography), SIZE)
        own = np.zeros(bands.shape[2], np.float32)
        own[-1] = 1
        return [_stretched(found @ own), _stretched(found @ weights[2])]

    def _light(
        self, coats: Sequence[Shade], hour: float, clear: float, passing: list[_Passer], rng: np.random.Generator
    ) -> Grey:
        sun = max(0.0, float(np.sin(np.pi * (hour - 6) / 12)))
        side = np.linspace(-1, 1, SIZE[1], dtype=np.float32)[None] * np.float32((hour - 12) / 6)
        shade = coats[0] * (1 - 0.25 * side * sun) + 0.15 * sun * (coats[1] - 0.5)
        for passer in passing:
            passer.draw(shade, np.eye(3), passer.light)
        shade = 0.5 + clear * (shade - 0.5)
        level = 0.03 + 0.97 * sun**0.7
        gain = min(1.0, 6 * level)  # the exposure makes up for some of it
        noise = rng.standard_normal(SIZE, np.float32) * np.float32(0.012 + 0.05 * max(0.0, 1 - 3 * level))
        return _grey(gain * shade + noise, rng)

    def _heat(
        self,
        coats: Sequence[Shade],
        hour: float,
        clear: float,
        passing: list[_Passer],
        homography: Matrix,
        rng: np.random.Generator,
    ) -> Grey:
        swing = np.float32(np.sin(2 * np.pi * (hour - 9) / 24))
        shade = 0.5 + 0.45 * (coats[0] - 0.5) + 0.7 * swing * (coats[1] - 0.5)
        for passer in passing:
            passer.draw(shade, homography, passer.heat)
        shade = 0.5 + clear * (cv2.GaussianBlur(shade, (0, 0), 0.9) - 0.5)
        return _grey(shade + rng.standard_normal(SIZE, np.float32) * np.float32(0.02), rng)


def pushed(homography: Matrix, pixels: float, rng: np.random.Generator) -> Matrix:
    """The homography after the second camera was pushed, so that places move by `pixels` on average: by shift, turn and zoom."""
    push = np.eye(3)
    angle, zoom = rng.normal(0, 0.4), rng.normal(0, 0.3)
    direction = rng.uniform(0, 2 * np.pi)
    for scale in np.geomspace(0.1, 10, 200) * pixels:
        turn, growth = angle * scale / 160, 1 + zoom * scale / 160
        shift = scale * np.array([np.cos(direction), np.sin(direction)])
        middle = np.array([SIZE[1] - 1, SIZE[0] - 1]) / 2
        linear = growth * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        push = np.block([[linear, (middle + shift - linear @ middle)[:, None]], [np.array([[0.0, 0.0, 1.0]])]])
        if distance(push, np.eye(3), SIZE) >= pixels:
            break
    return np.asarray(push @ homography)


class _Passer(NamedTuple):
    """Something that passes: an ellipse in the first frame, nearer than the scene."""

    x: float
    y: float
    wide: float
    tall: float
    near: float
    light: float
    heat: float

    def draw(self, shade: Shade, homography: Matrix, value: float) -> None:
        centre = homography @ np.array([self.x + (0 if np.allclose(homography, np.eye(3)) else self.near), self.y, 1.0])
        place = tuple(int(v) for v in np.clip(centre[:2] / centre[2], -999, 999))
        cv2.ellipse(shade, place, (int(self.wide), int(self.tall)), 0, 0, 360, value, -1, cv2.LINE_AA)


def _passing(rng: np.random.Generator) -> list[_Passer]:
    return [
        _Passer(
            x=rng.uniform(0, SIZE[1]),
            y=rng.uniform(0, SIZE[0]),
            wide=rng.uniform(4, 25),
            tall=rng.uniform(6, 35),
            near=rng.uniform(-8, 8),
            light=rng.uniform(0, 1),
            heat=rng.uniform(0.6, 1.1),
        )
        for _ in range(int(rng.poisson(0.8)))
    ]


def _stretched(shade: Shade) -> Shade:
    low, high = np.quantile(shade[::3, ::3], [0.02, 0.98])
    return np.asarray(np.clip((shade - low) / max(float(high - low), 1e-3), 0, 1), np.float32)


def _grey(shade: Shade, rng: np.random.Generator) -> Grey:
    """A frame from 0 to 255, shifted by the mast's trembling."""
    shift = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    shift[:, 2] = rng.normal(0, TREMBLE, 2)
    trembled = cv2.warpAffine(shade, shift, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
    return np.clip(20 + 215 * trembled, 0, 255).astype(np.uint8)
