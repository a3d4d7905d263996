"""Training of a field model on scenes of halls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tocsin.models.field.config import FieldConfig
from tocsin.models.field.evaluate import IDW, POWERS, WITHIN, baselines, figures, rmse
from tocsin.models.field.hall import KINDS
from tocsin.models.field.inputs import SCALE, Inputs
from tocsin.models.field.model import FieldModel, load
from tocsin.models.field.network import FieldNetwork
from tocsin.models.field.scenes import SENSORS, Drawn, Scene, draw
from tocsin.models.gate import Candidate
from tocsin.models.training import Optimization, begin

CROWD = 25
"""Halls judged at once."""
PLACES = 128
"""Places at which a hall is judged."""
BUCKETS = 4
"""Batches that are drawn together and divided by the number of walls, so that padding is short."""
HELD = 0.9


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; the learning rate rises and decays to 0 over them.
        batch: halls per step.
        places: of each hall per step.
        learning_rate: maximum, of AdamW.
        weight_decay: of AdamW.
        spread: weight of the likelihood of the spread.
    """

    steps: int = 2500
    batch: int = 16
    places: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    spread: float = 0.1


def fit(
    scenes: Sequence[Scene],
    config: FieldConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> FieldModel:
    """Train on scenes; spread and baselines are not calibrated yet.

    Raises:
        ValueError: there is no scene, or one is too small.
    """
    if not scenes or min(len(scene.places) for scene in scenes) < 2:
        raise ValueError("expected halls with two known places at least, got fewer; add sensors or halls")
    begin(seed, threads=1)
    network = FieldNetwork(kind=config.network, size=config.size)
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, rise=0.1
    )
    rng, waiting = np.random.default_rng(seed), list[Sequence[Scene]]()
    network.train()
    for step in range(recipe.steps):
        if not waiting:
            waiting = _batches(scenes, recipe.batch, rng)
        chosen = waiting.pop()
        most = int(rng.choice([6, 9, 12, 18, 24]))
        drawn = draw(chosen, rng.integers(max(4, most // 2), most + 1, len(chosen)).tolist(), recipe.places, rng)
        value = optimization.step(_loss(network, drawn, recipe.spread))
        if progress:
            progress(step, value)
    return FieldModel(config, network, torch.device("cpu"))


def _batches(scenes: Sequence[Scene], batch: int, rng: np.random.Generator) -> list[Sequence[Scene]]:
    """Some batches in random order, each of scenes with about as many walls."""
    drawn = sorted(rng.integers(0, len(scenes), BUCKETS * batch), key=lambda number: len(scenes[number].hall.walls))
    parts = [[scenes[number] for number in drawn[at : at + batch]] for at in range(0, len(drawn), batch)]
    return [parts[number] for number in rng.permutation(len(parts))]


def _loss(network: FieldNetwork, drawn: Drawn, weight: float) -> Tensor:
    """The squared error in shares of the kind's scale, and the likelihood of the spread, which must not move the estimate."""
    estimate, spread = network(drawn.inputs)
    scale = SCALE[drawn.inputs.kind].unsqueeze(1)
    known = ~drawn.truth.isnan()
    error = ((estimate - drawn.truth.to(estimate)) / scale)[known]
    share = (spread / scale)[known]
    return error.square().mean() + weight * (share.log() + (error.detach() / share).square() / 2).mean()


def judge(model: FieldModel, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The model's estimate and spread for any number of halls."""
    parts = [model(inputs[at : at + CROWD]) for at in range(0, len(inputs), CROWD)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def trials(scenes: Sequence[Scene], *, seed: int, counts: Sequence[int] = SENSORS) -> dict[int, Drawn]:
    """Sensors and places by which models are judged: for each number of sensors, the same ones for a seed."""
    return {
        count: draw(scenes, [count] * len(scenes), PLACES, np.random.default_rng([seed, count])) for count in counts
    }


def together(drawn: Mapping[int, Drawn], model: FieldModel) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Estimates by name (`model`, `spread`, and the baselines'), the truth and the kinds, of all numbers of sensors."""
    parts = []
    for each in drawn.values():
        estimate, spread = judge(model, each.inputs)
        found = {"model": estimate, "spread": spread, **baselines(each.inputs, model.config.power)}
        parts.append({**found, "truth": each.truth})
    together = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    return together, together.pop("truth"), torch.cat([each.inputs.kind for each in drawn.values()])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors `[B, N]` of several widths as one; NaN for padding."""
    wide = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, wide - part.shape[1]), value=torch.nan) for part in parts])


def score(model: FieldModel, drawn: Mapping[int, Drawn]) -> dict[str, float]:
    """The figures of a model over drawn scenes."""
    return figures(*together(drawn, model))


def calibrate(model: FieldModel, drawn: Mapping[int, Drawn]) -> FieldModel:
    """The model with the spread, and the power of inverse-distance weighting, that fit these scenes best."""
    model = FieldModel(replace(model.config, widen=(1.0,) * len(KINDS)), model.network, model.device)
    found, truth, kind = together(drawn, model)
    off = ((found["model"] - truth).abs() / found["spread"]).double()
    widen, powers = [*model.config.widen], [*model.config.power]
    plain = {
        power: _joined([baselines(each.inputs, [power] * len(KINDS))[IDW] for each in drawn.values()])
        for power in POWERS
    }
    for number, name in enumerate(KINDS):
        inside = off[kind == number]
        if len(inside := inside[~inside.isnan()]):
            widen[number] = max(float(inside.quantile(HELD)) / WITHIN, 1e-3)
            errors = {power: rmse(estimate, truth, kind)[f"rmse_{name}"] for power, estimate in plain.items()}
            powers[number] = min(errors, key=lambda power: errors[power])
    return FieldModel(replace(model.config, widen=tuple(widen), power=tuple(powers)), model.network, model.device)


@dataclass(frozen=True)
class Outcome:
    """A trained model, and its figures over the halls that were held out."""

    model: FieldModel
    figures: Mapping[str, float]
    held: Mapping[int, Drawn]

    @property
    def score(self) -> float:
        """The error by which seeds are chosen."""
        return self.figures["validation_error"]


def train(
    scenes: Sequence[Scene],
    held: Mapping[int, Drawn],
    config: FieldConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on scenes, and calibrate and judge on those that are held out."""
    model = calibrate(fit(scenes, config, recipe, seed=seed, progress=progress), held)
    return Outcome(model, {f"validation_{name}": value for name, value in score(model, held).items()}, held)


def candidate(outcome: Outcome, folder: Path) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""
    held = outcome.held

    def error(model: FieldModel) -> float:
        return score(model, held)["error"]

    return Candidate(
        measure="validation error",
        lower=True,
        score=outcome.score,
        outputs=lambda: [each for drawn in held.values() for each in judge(load(folder, "cpu"), drawn.inputs)],
        against=lambda other: (error(outcome.model), error(load(other, "cpu"))),
    )
