"""A simulated camera: a fixed one at a drawn scene or at a still of a recording, with things that move, light, grain and coding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Canvas = NDArray[np.float32]

MARGIN = 0.35
"""By how much of its size the scene goes beyond the frame on each side, for cameras that move."""
GRAIN = 1 << 21
"""Numbers of the bank that grain is taken from."""
BLOCK = 16
"""Pixels of a block that coding may leave as it was."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Frames of one camera.

    Args:
        seed: of everything.
        frames: number of frames.
        size: rows and columns.
        still: `[H, W, 3]`, the scene; None: it is drawn.
        motion: "still" on a mast, "sway" in the wind, "carried" by a person.
        things: number of things that move through the picture.
        grain: deviation of the sensor's noise at mid brightness, 0 to 255.
        gain: brightness of the light; drift: of its slow change; lamp: frame at which a lamp is switched, and by what factor.
        skips: mean difference below which a block stays as it was in the frame before, as in coded video; 0: none does.
        refresh: frames from one that is coded whole to the next.
    """

    seed: int
    frames: int = 120
    size: tuple[int, int] = (270, 480)
    still: Picture | None = field(default=None, repr=False)
    motion: Literal["still", "sway", "carried"] = "still"
    things: int = 2
    grain: float = 2.0
    gain: float = 1.0
    drift: float = 0.05
    lamp: tuple[int, float] | None = None
    skips: float = 0.0
    refresh: int = 40

    @classmethod
    def drawn(
        cls, seed: int, *, frames: int, still: Picture | None = None, size: tuple[int, int] = (270, 480)
    ) -> Camera:
        """A camera with settings at random."""
        rng = np.random.default_rng([31, seed])
        motion: Literal["still", "sway", "carried"] = rng.choice(["still", "sway", "carried"], p=[0.5, 0.2, 0.3])
        night = rng.random() < 0.25
        one = cls(
            seed=seed,
            frames=frames,
            size=size,
            still=still,
            motion=motion,
            things=int(rng.integers(0, 5)),
            grain=float(rng.uniform(5, 12) if night else np.exp(rng.uniform(math.log(0.6), math.log(5)))),
            gain=float(rng.uniform(0.12, 0.4) if night else rng.uniform(0.6, 1.3)),
            drift=float(rng.uniform(0, 0.12)),
            skips=float(rng.uniform(1, 4)) if rng.random() < 0.3 else 0.0,
            refresh=int(rng.integers(5, 60)),
        )
        if rng.random() < 0.5:
            one = replace(one, lamp=(int(rng.integers(frames // 4, frames)), float(rng.choice([0.6, 0.75, 1.3, 1.6]))))
        return one

    def __iter__(self) -> Iterator[Picture]:
        """`[*size, 3]` uint8 RGB each."""
        rng = np.random.default_rng([32, self.seed])
        rows, columns = self.size
        wide = round(rows * (1 + 2 * MARGIN)), round(columns * (1 + 2 * MARGIN))
        scene = _scene(rng, wide) if self.still is None else _over(self.still, wide)
        bank = rng.standard_normal(GRAIN, np.float32)
        things = [Thing.drawn(rng, wide) for _ in range(self.things)]
        course, bare = _Course(rng, self), None
        before: Picture | None = None
        for number in range(self.frames):
            shift = course.at(number)
            if bare is None or self.motion != "still":
                bare = cv2.warpAffine(
                    scene, shift, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
                )
            view = bare.copy()
            for thing in things:
                thing.show(view, number, shift)
            light = self.gain * (1 + self.drift * math.sin(number / 40 + self.seed))
            if self.lamp and number >= self.lamp[0]:
                light *= self.lamp[1]
            picture = self._taken(view * light, bank, rng)
            if before is not None and self.skips and number % self.refresh:
                picture = _coded(before, picture, self.skips)
            before = picture
            yield picture

    def _taken(self, view: Canvas, bank: Canvas, rng: np.random.Generator) -> Picture:
        at = int(rng.integers(0, len(bank) - view.size))
        noise = bank[at : at + view.size].reshape(view.shape)
        return np.clip(np.rint(view + noise * (self.grain * np.sqrt(0.3 + view.clip(0, 255) / 180))), 0, 255).astype(
            np.uint8
        )


class _Course:
    """Where the camera looks: the affine map of the scene into each frame."""

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self._camera, self._rng = camera, rng
        rows, columns = camera.size
        self._centre = np.array([columns, rows]) * MARGIN
        carried, still = camera.motion == "carried", camera.motion == "still"
        self._strength = 0.0 if still else 1.0
        self._reach = np.array([columns, rows]) * (MARGIN * 0.7 if carried else 0.004)
        self._pace = rng.uniform(0.01, 0.09, 4) if carried else rng.uniform(0.4, 1.2, 4)
        self._phase = rng.uniform(0, 2 * math.pi, 4)
        self._turn, self._zoom = (0.08, 0.06) if carried else (0.002, 0.001)
        self._shake = 1.2 if carried else 0.4

    def at(self, number: int) -> NDArray[np.float64]:
        wave = np.sin(self._pace * number + self._phase)
        away = self._centre + self._strength * (self._reach * wave[:2] + self._rng.normal(0, self._shake, 2))
        angle, scale = self._strength * self._turn * wave[2], 1 + self._strength * self._zoom * wave[3]
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = np.array(self._camera.size[::-1]) / 2
        return np.column_stack([turn, middle - turn @ (middle + away)])


@dataclass(frozen=True)
class Thing:
    """Something that moves through the scene: an ellipse with a texture.

    Args:
        path: where it is at frame 0, and by how much it moves in each frame, x and y in the scene.
        rests: frames of each hundred in which it stands.
        axes: half its width and height, in pixels; colour: RGB.
    """

    path: tuple[float, float, float, float]
    rests: int
    axes: tuple[int, int]
    colour: tuple[float, float, float]
    span: tuple[int, int]

    @classmethod
    def drawn(cls, rng: np.random.Generator, span: tuple[int, int]) -> Thing:
        """A thing at random in a scene of `span`."""
        x, y = rng.uniform(0, span[1]), rng.uniform(span[0] * 0.25, span[0] * 0.75)
        speed = float(np.exp(rng.uniform(math.log(0.3), math.log(8)))) * rng.choice([-1, 1])
        size = rng.uniform(0.02, 0.13) * span[1]
        axes = max(3, int(size)), max(3, int(size * rng.uniform(0.4, 1.8)))
        red, green, blue = rng.uniform(10, 240, 3)
        return cls(
            (x, y, speed, speed * rng.uniform(-0.2, 0.2)), int(rng.integers(0, 70)), axes, (red, green, blue), span
        )

    def show(self, view: Canvas, number: int, shift: NDArray[np.float64]) -> None:
        """Draw it into a frame."""
        moved = number // 100 * (100 - self.rests) + min(number % 100, 100 - self.rests)
        x, y = self.path[0] + self.path[2] * moved, self.path[1] + self.path[3] * moved
        width, height = self.span[1] * 1.3, self.span[0]
        x, y = (x + self.axes[0]) % width - self.axes[0], y % height
        column, row = shift[:, :2] @ (x, y) + shift[:, 2]
        swing = 12 * math.sin(number / 3)
        cv2.ellipse(view, (int(column), int(row)), self.axes, swing, 0, 360, self.colour, -1, cv2.LINE_AA)
        inner = tuple(0.6 * c for c in self.colour)
        half = max(2, self.axes[0] // 3), max(2, self.axes[1] // 2)
        cv2.ellipse(view, (int(column), int(row - half[1] / 2)), half, -swing, 0, 360, inner, -1, cv2.LINE_AA)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """A place: surfaces with textures, edges and things."""
    rows, columns = size
    image = np.empty((rows, columns, 3), np.float32)
    tones = rng.uniform(60, 190, (2, 3))
    fall = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    image[:] = tones[0] * (1 - fall) + tones[1] * fall
    for octave in range(2, 8):
        cells = max(2, rows >> (8 - octave)), max(2, columns >> (8 - octave))
        rough = rng.standard_normal((*cells, 3)).astype(np.float32).mean(2, keepdims=True)
        image += cv2.resize(rough, (columns, rows), interpolation=cv2.INTER_CUBIC)[..., None] * rng.uniform(4, 22)
    for _ in range(int(rng.integers(6, 40))):
        x, y = int(rng.integers(0, columns)), int(rng.integers(0, rows))
        w, h = (int(v) for v in np.exp(rng.uniform(math.log(6), math.log(columns / 3), 2)))
        tone = rng.uniform(15, 235, 3).tolist()
        kind = rng.integers(0, 3)
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + w, y + h), tone, -1)
        elif kind == 1:
            cv2.ellipse(image, (x, y), (w // 2, h // 2), float(rng.uniform(0, 180)), 0, 360, tone, -1, cv2.LINE_AA)
        else:
            cv2.line(image, (x, y), (x + w, y + h), tone, int(rng.integers(1, 6)), cv2.LINE_AA)
    image += rng.normal(0, rng.uniform(1, 7), (rows, columns, 1)).astype(np.float32)
    return cv2.GaussianBlur(image.clip(4, 250), (0, 0), float(rng.uniform(0.5, 1.2)))


def _over(still: Picture, size: tuple[int, int]) -> Canvas:
    """A still as a scene. A little blur takes off its own grain, which would stand still."""
    scaled = cv2.resize(
        still, size[::-1], interpolation=cv2.INTER_AREA if still.shape[0] > size[0] else cv2.INTER_CUBIC
    )
    return cv2.GaussianBlur(scaled.astype(np.float32), (0, 0), 0.7)


def _coded(before: Picture, picture: Picture, least: float) -> Picture:
    """The frame with the blocks of the frame before where little has changed."""
    apart = np.abs(picture.astype(np.int16) - before).mean(2, dtype=np.float32)
    small = tuple(-(-side // BLOCK) for side in apart.shape)
    changed = (cv2.resize(apart, small[::-1], interpolation=cv2.INTER_AREA) >= least).astype(np.uint8)
    mask = cv2.resize(changed, apart.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    return np.where(mask[..., None], picture, before)
