"""A simulated dive with its ground truth: the camera's motion, and when something new is in sight.

A vehicle's camera moves over a bottom under haze, caustics and particles (`vehicle`, `bottom`, `water`, `life`). Now and then
something new appears (`novelties`). The vehicle's motion and the light change the picture most, and neither is new. Weed, small fry
and an unseen part of the bottom are not new either.

The design is this project's own. It contains no picture from a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tocsin.models.surprise.simulation import bottom
from tocsin.models.surprise.simulation.actors import Actor
from tocsin.models.surprise.simulation.life import Life
from tocsin.models.surprise.simulation.novelties import Novelty, View, appear
from tocsin.models.surprise.simulation.vehicle import Path, drive
from tocsin.models.surprise.simulation.water import Water, wrapped

TRAIN_SEEDS = tuple(range(100, 140))
LESSON_SEEDS = TRAIN_SEEDS[:20]
"""Dives from which triage learns; each is rendered without its novelties, too."""
VALIDATION_SEEDS = tuple(range(700, 722))
TEST_SEEDS = tuple(range(9000, 9012))
"""Fixed before any model was trained. Test clips are for reporting, never for training or model selection."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The distribution that clips are drawn from, which sets their difficulty; the defaults are those of training.

    Args:
        speed: factor on the vehicle's motion.
        jerks: knocks a minute.
        tilt: bounds of the camera's tilt; 0 looks straight down, 1 at the horizon.
        haze: bounds of the attenuation at the distance of the bottom.
        caustics: bounds of the strength of the caustics, 0 to 1.
        flicker: bounds of the slow changes of light, 0 to 1.
        particles: bounds of the number of particles in sight.
        grain: bounds of the sensor's noise, levels.
        quality: of JPEG, 1 to 100; None leaves the frames uncompressed.
        often: least and most novelties a minute.
        empty: share of minutes without novelties.
        kinds: of novelties, names in `novelties.SIZES`.
        grounds: kinds of bottom, names in `bottom.GROUNDS`.
    """

    speed: float = 1.0
    jerks: float = 5.0
    tilt: tuple[float, float] = (0.1, 0.75)
    haze: tuple[float, float] = (0.25, 0.8)
    caustics: tuple[float, float] = (0.1, 0.6)
    flicker: tuple[float, float] = (0.02, 0.10)
    particles: tuple[int, int] = (40, 160)
    grain: tuple[float, float] = (1.5, 5.0)
    quality: int | None = 85
    often: tuple[int, int] = (2, 4)
    empty: float = 0.15
    kinds: tuple[str, ...] = ("fish", "school", "eel", "turtle", "crate", "tyre", "pipe", "bubbles")
    grounds: tuple[str, ...] = ("sand", "gravel", "rock", "meadow")


TRAIN = Scene()
VALIDATION = Scene(
    kinds=("fish", "school", "turtle", "ray", "squid", "tyre", "pipe", "amphora", "bubbles"),
    grounds=("sand", "gravel", "rock", "meadow", "mud"),
)
TEST = Scene(
    kinds=("fish", "school", "eel", "reef fish", "jellyfish", "diver", "crate", "anchor", "bubbles", "light"),
    grounds=("sand", "rock", "reef", "rubble"),
)
"""Validation has three kinds and one bottom that training lacks. Test has five kinds and two bottoms that both others lack."""


@dataclass(frozen=True)
class Clip:
    """Frames and their ground truth.

    Args:
        frames: `[T, H, W, 3]` uint8 RGB.
        times: `[T]` float64, s from the first frame.
        motion: `[T, 4]` float64, the camera's motion since the frame before: right, down (pixels by which the content of the centre
            has moved), zoom (factor), roll (rad, clockwise). None if unknown.
        novelties: when something new is in sight, in order.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    motion: NDArray[np.float64] | None
    novelties: tuple[Novelty, ...] = field(default=())


def scene_of(seed: int) -> Scene:
    """`TEST` or `VALIDATION` for their seeds, `TRAIN` for any other."""
    return TEST if seed in TEST_SEEDS else VALIDATION if seed in VALIDATION_SEEDS else TRAIN


def simulate(
    seed: int,
    *,
    seconds: float = 60,
    rate: float = 10,
    size: tuple[int, int] = (180, 320),
    scene: Scene | None = None,
) -> Clip:
    """Render a clip; the same arguments give the same bytes.

    Args:
        seed: one of the seeds above, or any other.
        seconds: length of the clip.
        rate: frames a second.
        size: rows and columns; the view is the same at any size, except for the aspect.
        scene: what the clip is drawn from; by default `scene_of(seed)`.
    """
    dive = Dive(seed, seconds=seconds, rate=rate, size=size, scene=scene)
    frames = np.empty((len(dive.times), *size, 3), np.uint8)
    for at, frame in enumerate(dive):
        frames[at] = frame
    return Clip(frames, dive.times, dive.motion, dive.novelties)


class Dive:
    """A clip that is rendered frame by frame during iteration.

    Iterate over it only once. The arguments are those of `simulate`.

    Attributes:
        times, motion, novelties: as in `Clip`.
    """

    def __init__(
        self,
        seed: int,
        *,
        seconds: float = 60,
        rate: float = 10,
        size: tuple[int, int] = (180, 320),
        scene: Scene | None = None,
    ) -> None:
        self._scene = scene = scene or scene_of(seed)
        count = max(1, round(seconds * rate))
        path_rng, ground_rng, water_rng, life_rng, novelty_rng = (
            np.random.default_rng((seed, part)) for part in range(5)
        )
        path = self._drive(count, rate, path_rng)
        self.size, self.quality = size, scene.quality
        self.times, self.motion = np.arange(count) / rate, path.motion(size)
        self._cameras = path.cameras(size)
        self._ground = bottom.paint(str(ground_rng.choice(scene.grounds)), ground_rng)
        haze = water_rng.uniform(*scene.haze)
        self._water = Water(
            water_rng,
            count=count,
            rate=rate,
            size=size,
            haze=haze,
            caustics=water_rng.uniform(*scene.caustics),
            flicker=water_rng.uniform(*scene.flicker),
            grain=water_rng.uniform(*scene.grain),
        )
        self._life = Life(
            life_rng, size=size, rate=rate, particles=int(life_rng.integers(*scene.particles, endpoint=True))
        )
        tall = np.linspace(-1, 1, size[0])
        self._distances = (path.altitude[:, None] / (1 + path.tilt * tall)).astype(np.float32)
        appearances = self._appear(View(self._cameras, size, rate, haze), novelty_rng)
        self.novelties = tuple(novelty for novelty, _ in appearances)
        self._actors = sorted(
            (actor for _, actors in appearances for actor in actors),
            key=lambda actor: (not actor.floor, -actor.distance.min()),
        )

    def _drive(self, count: int, rate: float, rng: np.random.Generator) -> Path:
        """Draw the camera's path."""
        return drive(count, rate, rng, speed=self._scene.speed, jerks=self._scene.jerks, tilt=self._scene.tilt)

    def _appear(self, view: View, rng: np.random.Generator) -> list[tuple[Novelty, list[Actor]]]:
        """Draw what is new, in order."""
        return appear(view, rng, kinds=self._scene.kinds, often=self._scene.often, empty=self._scene.empty)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for frame, camera in enumerate(self._cameras):
            yield self._render(frame, camera)

    def _render(self, frame: int, camera: NDArray[np.float64]) -> NDArray[np.uint8]:
        water, motion, distance = self._water, self.motion[frame], self._distances[frame]
        ground = wrapped(self._ground, camera, self.size)
        self._life.weed(ground, camera, frame)
        self._life.swim(ground, motion)
        picture = ground.astype(np.float32)
        clear = np.zeros(3, np.float32)
        for actor in self._actors:
            if actor.floor:
                actor.draw(picture, frame, water.color, clear)
        water.sunlit(picture, camera, frame, distance)
        water.veiled(picture, frame, distance)
        for actor in self._actors:
            if not actor.floor:
                actor.draw(picture, frame, water.color, water.attenuation)
        picture = water.smeared(picture, motion)
        self._life.snow(picture, motion, light=0.5)
        return water.sensed(picture, frame, self.quality)
