"""Pans over frames of real clips and over simulated textures, as lessons of triage: what is new is drawn into them, or cut out of a
frame in other colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from tocsin.models.surprise.composites import covered, panned, patch
from tocsin.models.surprise.simulation.scene import TRAIN
from tocsin.models.surprise.simulation.textures import texture
from tocsin.models.surprise.train import Footage, footage, pieces
from tocsin.models.vision.encoder import Encoder
from tocsin.models.vision.video import Frame, read

PANS, MOST = 10, 60
"""Pans to train on per clip, and about how many over all clips."""
VALIDATION = 2
"""Further pans per clip, on which the detector's level is selected."""
TRAIN_SEED, VALIDATION_SEED, TEXTURE_SEED = 0, 1, 5
TEXTURES, TOGETHER = 36, 3
"""Textures to train on with the simulated dives, a pan over each; and how many are as the stills of one clip."""
SECONDS = 30.0
OFTEN = (4, 8)
"""Least and most novelties a minute."""
PATCH = "patch"


def stills(path: Path, count: int, *, rate: float) -> list[Frame]:
    """At most `count` frames of a clip, evenly apart, without holding more than twice as many."""
    kept: list[Frame] = []
    every = 1
    for number, frame in enumerate(read(path, rate=rate, size=None)):
        if number % every:
            continue
        kept.append(frame)
        if len(kept) == 2 * count:
            kept, every = kept[::2], 2 * every
    return [kept[at] for at in np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)]


def over_textures(encoder: Encoder, *, rate: float) -> Iterator[Footage]:
    """As `lessons`, over simulated textures in the place of clips' stills."""
    groups = [[texture(first + number) for number in range(TOGETHER)] for first in range(0, TEXTURES, TOGETHER)]
    return lessons(groups, TOGETHER, encoder, rate=rate, seed=TEXTURE_SEED)


def count(clips: int) -> int:
    """Pans to train on per clip, for a number of clips."""
    return max(1, min(PANS, MOST // max(clips, 1)))


def lessons(
    frames: Sequence[Sequence[Frame]], each: int, encoder: Encoder, *, rate: float, seed: int
) -> Iterator[Footage]:
    """Pans over stills, with the share of each place that something new covers.

    Args:
        frames: the stills of each clip.
        each: pans per clip.
        rate: frames a second.
        seed: the same seed gives the same pans.
    """
    for clip, own in enumerate(frames):
        for number in range(each):
            rng = np.random.default_rng((seed, clip, number))
            still = _varied(own[number % len(own)], rng)
            patches = [
                patch(_varied(own[int(rng.integers(len(own)))], rng)[..., rng.permutation(3)], rng) for _ in range(8)
            ]
            kinds = (*TRAIN.kinds, *[PATCH] * len(TRAIN.kinds))
            pan = partial(
                panned,
                still,
                int(rng.integers(1 << 31)),
                seconds=SECONDS,
                rate=rate,
                kinds=kinds,
                cutouts={PATCH: patches},
                often=OFTEN,
            )
            new, bare = pan(), pan(drawn=False)
            shares = [covered(a, b, encoder.grid) for a, b in zip(new.frames, bare.frames, strict=True)]
            encoded = footage(pieces(new.frames, encoder.size), encoder, new.novelties)
            yield replace(encoded, covered=torch.from_numpy(np.stack(shares)))


def _varied(still: Frame, rng: np.random.Generator) -> Frame:
    """A random part of a still, flipped and in another light."""
    rows, columns = still.shape[:2]
    share = rng.uniform(0.6, 1.0)
    tall, wide = round(share * rows), round(share * columns)
    top, left = rng.integers(rows - tall + 1), rng.integers(columns - wide + 1)
    part = still[top : top + tall, left : left + wide]
    if columns > 1280:
        part = cv2.resize(part, None, fx=1280 / columns, fy=1280 / columns, interpolation=cv2.INTER_AREA)
    part = part[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
    return np.clip(255 * (part / 255) ** rng.uniform(0.8, 1.25) * gain, 0, 255).astype(np.uint8)
