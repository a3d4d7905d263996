"""The shipped alignment model with a watch that needs few frames, and rigs to test it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tocsin.models.alignment.domain import shots
from tocsin.models.alignment.model import AlignmentModel, load
from tocsin.models.alignment.simulation.rig import Move, Rig
from tocsin.models.alignment.watch import WatchConfig
from tocsin.models.domain import Shot
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.formats.jpeg import readings
from tocsin.pipelines.runtime.formats.video import encoded

WATCH = WatchConfig(references=3, recent=2)
EVERY_S = 10.0
SEED = 3
"""A rig whose cameras see enough."""


def small_model(folder: Path) -> None:
    """Save such a model."""
    shipped = load()
    AlignmentModel(replace(shipped.config, watch=WATCH), shipped.network).save(folder)


def rig(pairs: int, *, seed: int = SEED, moves: Sequence[Move] = (), name: str = "rig") -> list[Shot]:
    """Return the frames of a rig as they arrive, each with its rig, view, number and time."""
    seen = shots(Rig(seed, pairs=pairs, every=EVERY_S, start=11, moves=moves), every=EVERY_S)
    return [Shot(shot.picture, {**shot.facts, "rig": name}) for shot in seen]


def table(pipeline: Pipeline, frames: Iterable[Shot]) -> pa.Table:
    """Return frames as the engine reads them."""
    frames = list(frames)
    return readings(pipeline.schema, [encoded(shot) for shot in frames], [shot.facts for shot in frames])
