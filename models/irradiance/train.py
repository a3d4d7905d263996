"""Training of an irradiance model on the sites of one or several sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tocsin.models.gate import Candidate
from tocsin.models.irradiance.config import IrradianceConfig
from tocsin.models.irradiance.evaluate import best_threshold, detections, errors, interval, skill
from tocsin.models.irradiance.features import RAW
from tocsin.models.irradiance.inputs import column
from tocsin.models.irradiance.model import IrradianceModel, Parts, load
from tocsin.models.irradiance.network import IrradianceNetwork
from tocsin.models.irradiance.samples import Samples
from tocsin.models.training import Optimization, begin

SCALE = 200.0
"""W/m2 of error that count as 1 in the loss."""
OFTEN = 4096
"""Windows judged at once."""
GROUPS = (("dni", "dhi"), ("temperature", "humidity", "dew_point"), ("hour",), ("day",))
"""Columns that are left out together in training."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; the learning rate rises and decays to 0 over them.
        batch: windows per step, the same number from each source.
        learning_rate: maximum, of AdamW.
        weight_decay: of AdamW.
        left_out: share of the windows in which each of `GROUPS` is left out, as if the site did not know it.
        ramp: weight of the ramp's cross-entropy.
    """

    steps: int = 500
    batch: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    left_out: float = 0.2
    ramp: float = 0.5


def fit(
    sources: Sequence[Samples],
    config: IrradianceConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> IrradianceModel:
    """Train on the samples of sources by day; the interval is not calibrated yet.

    Raises:
        ValueError: a source has no such sample.
    """
    begin(seed, threads=1)
    usable = [source.keep(source.by_day) for source in sources]
    if empty := [number for number, source in enumerate(usable) if not len(source)]:
        raise ValueError(
            f"source {empty[0]}: expected hours by day with a known next hour, got none; leave the source out"
        )
    lit = sum(float(column(source.windows, "ahead")[:, -1].sum()) for source in usable)
    config = replace(config, usual=sum(float(source.target.sum()) for source in usable) / lit)
    parts = Parts(config)
    network = parts.network
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    count, tail = max(recipe.batch // len(usable), 1), (1 - config.coverage) / 2
    network.train()
    for step in range(recipe.steps):
        drawn = [(source, torch.randint(len(source), (count,))) for source in usable]
        windows = torch.cat([source.windows[index] for source, index in drawn])
        target = torch.cat([source.target[index] for source, index in drawn])
        ramp = torch.cat([source.ramp[index] for source, index in drawn])
        loss = _loss(network(_thinned(windows, recipe.left_out)), target, ramp, tail=tail, weight=recipe.ramp)
        value = optimization.step(loss)
        if progress:
            progress(step, value)
    return IrradianceModel(config, parts, torch.device("cpu"))


def _loss(out: Tensor, target: Tensor, ramp: Tensor, *, tail: float, weight: float) -> Tensor:
    """The squared error of the forecast, the quantile loss of both ends, and the cross-entropy of the ramp."""
    forecast, low, high, logit = out.unbind(-1)
    loss = ((forecast - target) / SCALE).square().mean()
    for end, quantile in ((low, tail), (high, 1 - tail)):
        wrong = target - (forecast.detach() + end - forecast)  # the ends must not move the forecast
        loss = loss + torch.maximum(quantile * wrong, (quantile - 1) * wrong).mean() / SCALE
    return loss + weight * F.binary_cross_entropy_with_logits(logit, ramp.float())


def _thinned(windows: Tensor, share: float) -> Tensor:
    """Windows in which groups of columns are unknown at random."""
    windows = windows.clone()
    for group in GROUPS:
        index = torch.tensor([RAW.index(name) for name in group])
        rows = (torch.rand(len(windows)) < share).nonzero()[:, 0]
        windows[rows[:, None], :, index[None, :]] = torch.nan
    return windows


def judge(model: IrradianceModel, samples: Samples) -> dict[str, Tensor]:
    """The model's outputs for samples, `[N]` each."""
    parts = [model(chunk) for chunk in samples.windows.split(OFTEN)] or [model(samples.windows)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def score(model: IrradianceModel, samples: Samples) -> dict[str, float]:
    """The figures of a model over all samples with a known truth."""
    samples = samples.keep((~samples.target.isnan() & ~samples.persistence.isnan()).numpy())
    out = {name: values.double().numpy() for name, values in judge(model, samples).items()}
    target, by_day = samples.target.double().numpy(), samples.by_day
    figures = errors(out["forecast"], target, by_day)
    smart = errors(samples.persistence.double().numpy(), target, by_day)["rmse"]
    held = interval(out["forecast_low"][by_day], out["forecast_high"][by_day], target[by_day])
    ramps = detections(out["ramp"] >= model.config.ramp, samples.ramp.numpy())
    return {
        **figures,
        "skill": skill(figures["rmse"], smart),
        **held,
        **{f"ramp_{name}": value for name, value in ramps.items()},
    }


@dataclass(frozen=True)
class Shares:
    """Forecasts of a network for samples by day that it was not trained on.

    Args:
        shares: forecast and both ends in the network's unit, `[N, 3]`.
        target: the truth in that unit, `[N]`.
        ramp, ramps: probability and truth, `[N]`.
    """

    shares: Tensor
    target: Tensor
    ramp: Tensor
    ramps: Tensor

    @classmethod
    def of(cls, network: IrradianceNetwork, samples: Samples) -> Shares:
        samples = samples.keep(samples.by_day)
        network.eval()
        with torch.inference_mode():
            out = torch.cat([network(chunk) for chunk in samples.windows.split(OFTEN)] or [torch.empty(0, 4)])
            unit = network.unit(samples.windows).clamp(min=1)
        return cls(out[:, :3] / unit.unsqueeze(1), samples.target / unit, out[:, 3].sigmoid(), samples.ramp)


def calibrate(model: IrradianceModel, unseen: Sequence[Shares]) -> IrradianceModel:
    """The model with the interval and the threshold of a ramp that fit these forecasts."""
    shares, target, ramp, ramps = (
        torch.cat([getattr(each, name) for each in unseen]).clone() for name in ("shares", "target", "ramp", "ramps")
    )
    model.parts.interval.fit(shares, target, coverage=model.config.coverage)
    config = replace(model.config, ramp=best_threshold(ramp.double().numpy(), ramps.numpy()))
    return IrradianceModel(config, model.parts, model.device)


@dataclass(frozen=True)
class Outcome:
    """A trained model.

    Args:
        figures: `left_out_...` over sites that a network of the same recipe was not trained on, all of their days, mean over the
            sites; `validation_...` over the held-out days.
        held: the held-out samples.
    """

    model: IrradianceModel
    figures: Mapping[str, float]
    held: Samples

    @property
    def score(self) -> float:
        """The skill by which seeds are chosen; NaN if nothing judges them."""
        return self.figures.get("left_out_skill", self.figures.get("validation_skill", math.nan))


FIGURES = ("rmse", "mae", "skill", "coverage", "width", "ramp_precision", "ramp_recall")


def train(
    real: Sequence[Samples],
    simulated: Sequence[Samples],
    config: IrradianceConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on all sources, and judge the recipe on sites that it has not seen.

    Args:
        real: the samples of each recorded source; each is left out once if there are two or more.
        simulated: those of each simulated source; they are never left out, unless there is nothing else.
        seed: of the weights and windows.
        progress: called with each step of the final network and its loss.
    """
    judged = real or simulated
    held = joined([source.keep(source.held) for source in judged])
    shown = [source.keep(~source.held) for source in judged]
    more = [source.keep(~source.held) for source in simulated] if real else []
    model = fit([*shown, *more], config, recipe, seed=seed, progress=progress)
    unseen, figures, folds = [Shares.of(model.parts.network, held)], dict[str, float](), list[dict[str, float]]()
    for number, source in enumerate(judged if len(judged) > 1 else ()):
        others = [other for other in range(len(judged)) if other != number]
        fold = fit([*(shown[other] for other in others), *more], config, recipe, seed=seed)
        inner = joined([judged[other].keep(judged[other].held) for other in others])
        unseen.append(Shares.of(fold.parts.network, source))
        folds.append(score(calibrate(fold, [Shares.of(fold.parts.network, inner)]), source))
    for name in FIGURES if folds else ():
        figures[f"left_out_{name}"] = _mean([fold[name] for fold in folds])
    model = calibrate(model, unseen)
    found = score(model, held)
    figures |= {f"validation_{name}": found[name] for name in FIGURES}
    return Outcome(model, figures, held)


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are known."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several sources."""
    return Samples(
        np.concatenate([part.site for part in parts]),
        np.concatenate([part.time for part in parts]),
        torch.cat([part.windows for part in parts]),
        torch.cat([part.target for part in parts]),
    )


def candidate(outcome: Outcome, folder: Path) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""
    held = outcome.held

    def rmse(model: IrradianceModel) -> float:
        return score(model, held)["rmse"]

    return Candidate(
        measure="validation RMSE",
        lower=True,
        score=outcome.figures["validation_rmse"],
        outputs=lambda: list(judge(load(folder, "cpu"), held.keep(held.by_day)).values()),
        against=lambda other: (rmse(outcome.model), rmse(load(other, "cpu"))),
    )
