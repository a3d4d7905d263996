"""The camera pipelines that `benchmarks.frames` measures: the frames of their cameras, and their networks alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tocsin.models.domain import Shot
from tocsin.models.surprise import model as surprise_model
from tocsin.models.surprise.config import EncoderConfig
from tocsin.models.surprise.simulation.scene import Dive
from tocsin.models.touch import model as touch_model
from tocsin.models.touch.hands import jittered
from tocsin.models.touch.simulation.scene import Scene
from tocsin.models.vision.encoder import load
from tocsin.pipelines import surprise, touch
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.touch import BOXES

SEED = 1
"""Seed of the scenes, which are used neither in training nor in tests."""
Network = Callable[[Tensor, Sequence[Shot]], object]


@dataclass(frozen=True)
class Watch:
    """A camera pipeline.

    Args:
        factory: creates the pipeline.
        rate: frames per second of a camera.
        frames: returns the frames of a camera, at least as many as a benchmark takes.
        network: loads the network from a model's folder. It is called with the frames decoded, `[B, 3, H, W]` uint8, and as they
            arrived, and computes everything that each frame must pass through.
        model: the shipped model's folder.
        ahead: number of frames of a camera that must arrive before its first is processed.
    """

    factory: Callable[[Mapping[str, Any], Model | None], Pipeline]
    rate: float
    frames: Callable[[], Iterator[Shot]]
    network: Callable[[Path], Network]
    model: Path
    ahead: int = 0

    def declared(self) -> Pipeline:
        """Return the pipeline with the shipped model on the CPU."""
        return self.factory({}, Model(self.model, "", "cpu"))


def _dive() -> Iterator[Shot]:
    return map(Shot, Dive(SEED, seconds=30))


def _load_encoder(_: Path) -> Network:
    """Load the encoder, which is all of the network that counts here."""
    c = EncoderConfig()
    encoder = load(c.source, size=(c.height, c.width), device="cpu", layer=c.layer)
    return lambda pixels, _: encoder(pixels)


def _table() -> Iterator[Shot]:
    """Yield the frames of a simulated table in which both hands are visible, with their jittered boxes."""
    rng = np.random.default_rng(SEED)
    for shot in Scene(SEED, seconds=60):
        boxes = jittered(shot.hands, rng)
        if not np.isnan(boxes).any():
            facts = zip((field.name for field in BOXES), boxes.flatten().tolist(), strict=True)
            yield Shot(shot.picture, dict(facts))


def _load_touch_network(folder: Path) -> Network:
    """Load all that the model computes: motion, a vector per frame, predictions for windows of vectors, and the decision."""
    model = touch_model.load(folder, device="cpu")
    c = model.config.network

    def predict(pixels: Tensor, frames: Sequence[Shot]) -> object:
        box_values = [[float(frame.facts.get(field.name, np.nan)) for field in BOXES] for frame in frames]
        grey = model.grey(pixels)["grey"]
        pairs = torch.stack([torch.cat([grey[:1], grey[:-1]]), grey], 1)
        vectors = model.encode(pixels, torch.tensor(box_values).unflatten(1, (2, 4)), pairs)
        windows = torch.cat([vectors.new_zeros(c.window - 1, c.dim), vectors]).unfold(0, c.window, 1).mT
        prediction = model.predict(windows, torch.ones(windows.shape[:2], dtype=torch.bool))
        around = 2 * model.config.decode.wait + 1
        spans = (
            torch.cat([prediction.new_zeros(around - 1, *prediction.shape[1:]), prediction])
            .unfold(0, around, 1)
            .movedim(-1, 1)
        )
        return model.decide(spans, torch.ones(spans.shape[:2], dtype=torch.bool))

    return predict


WATCHES = {
    "surprise": Watch(surprise.pipeline, 10, _dive, _load_encoder, surprise_model.SHIPPED),
    "touch": Watch(touch.pipeline, 30, _table, _load_touch_network, touch_model.SHIPPED, ahead=19),
}
