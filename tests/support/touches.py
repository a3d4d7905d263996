"""A small touch model and clips to test it: two squares as hands over a texture, blue inside while they hold a thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tocsin.models.domain import Shot
from tocsin.models.touch.config import DecodeConfig, EyeConfig, NetworkConfig, TouchConfig
from tocsin.models.touch.model import Eyes
from tocsin.models.touch.train import Footage, Recipe, fit, footage
from tocsin.models.touch.truth import Touch
from tocsin.models.vision.appearance import Appearance
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.formats.jpeg import readings
from tocsin.pipelines.runtime.formats.video import encoded
from tocsin.pipelines.touch import BOXES

SIZE = (64, 96)
SEEN = EyeConfig(looks=True, height=SIZE[0], width=SIZE[1], scene_height=32, scene_width=48, crop=32)
NETWORK = NetworkConfig(tokens=8, heads=2, dim=16, past=5, ahead=2, layers=1, kernel=3, reach=2, dropout=0.0)
CONFIG = TouchConfig(SEEN, NETWORK, DecodeConfig(radius=2, apart=2), appearance=Appearance(highlights=(30, None)))
RECIPE = Recipe(steps=400, windows=3, learning_rate=1e-2, weight_decay=1e-2, blind=0.0)
RATE_MS = 33
SKIN, THING = (200, 150, 120), (30, 60, 230)


class Seen(NamedTuple):
    """A picture `[H, W, 3]` uint8 RGB and the boxes of its hands, `[2, 4]` float32 in shares of it."""

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float32]

    @property
    def frame(self) -> Shot:
        """The frame as in a stream, without fields for unknown hands."""
        facts = zip((field.name for field in BOXES), self.boxes.flatten().tolist(), strict=True)
        return Shot(self.picture, {name: value for name, value in facts if value == value})


class Taken(NamedTuple):
    """A frame as it arrives, with its camera, its number and its time in ms."""

    camera: str
    sequence: int
    at: int
    frame: Shot


def touches(frames: int, *, seed: int) -> list[Touch]:
    """Return touches in which each hand repeatedly holds a thing for 6 to 11 frames and pauses for 6 to 11 frames."""
    rng, found = np.random.default_rng((seed, 1)), list[Touch]()
    for hand in (0, 1):
        at = int(rng.integers(6, 12))
        while at < frames - 6:
            until = at + int(rng.integers(6, 12))
            found.append(Touch(hand, at, until if until < frames else None))
            at = until + int(rng.integers(6, 12))
    return sorted(found, key=lambda touch: (touch.contact, touch.hand))


def clip(frames: int, *, seed: int = 0) -> Iterator[Seen]:
    """Yield the scene of `touches` of the same seed: each hand moves up and down on its side, and the thing it holds is blue."""
    rng = np.random.default_rng((seed, 0))
    ground = cv2.resize(rng.integers(40, 160, (8, 12, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    truth = touches(frames, seed=seed)
    for at in range(frames):
        picture, boxes = ground.copy(), np.empty((2, 4), np.float32)
        for hand in (0, 1):
            x, y = 14 + 46 * hand, 22 + round(8 * np.sin(at / 9 + hand + seed))
            picture[y : y + 20, x : x + 20] = SKIN
            if any(t.hand == hand and t.contact <= at < (t.release or frames) for t in truth):
                picture[y + 5 : y + 15, x + 5 : x + 15] = THING
            boxes[hand] = x / SIZE[1], y / SIZE[0], (x + 20) / SIZE[1], (y + 20) / SIZE[0]
        yield Seen(picture, boxes)


def taken(camera: str, count: int, *, seed: int = 9) -> list[Taken]:
    """Return such a clip as a camera sends it."""
    return [Taken(camera, n, n * RATE_MS, shot.frame) for n, shot in enumerate(clip(count, seed=seed))]


def table(p: Pipeline, shots: Sequence[Taken]) -> pa.Table:
    """Return frames as the engine reads them."""
    facts = [{"camera": s.camera, "sequence": s.sequence, "time": s.at, **s.frame.facts} for s in shots]
    return readings(p.schema, [encoded(shot.frame) for shot in shots], facts)


def seen(seeds: Sequence[int], eyes: Eyes, *, frames: int = 120) -> list[Footage]:
    """Return the encoder's footage of such clips."""
    return [footage(clip(frames, seed=seed), eyes, touches(frames, seed=seed)) for seed in seeds]


@cache
def eyes() -> Eyes:
    """Return the encoder of the small model."""
    torch.set_num_threads(1)  # two threads on busy cores are far slower
    return Eyes(SEEN, "cpu")


def small_model(folder: Path) -> None:
    """Train a model on four such clips and save it."""
    fit(seen(range(4), eyes()), CONFIG, eyes(), RECIPE).save(folder)
