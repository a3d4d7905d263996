"""Training of a quality model on recordings of several sites, with injected faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.gate import Candidate
from tocsin.models.quality.cases import WIDTHS, Cases, drawn
from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.evaluate import figures, judge
from tocsin.models.quality.features import Inputs, features
from tocsin.models.quality.model import QualityModel, load
from tocsin.models.quality.network import QualityNetwork
from tocsin.models.quality.series import SHORTEST, Series
from tocsin.models.training import Optimization, begin

TRAINED, HELD = (0.0, 0.7), (0.72, 1.0)
"""Parts of each series, by time: what is trained on, and what judges the seeds and sets the level."""
SIMULATED = 3
"""Simulated plants are drawn as often as so many sites."""
FALSE = 0.01
"""Share of the held-out clean windows that are below the level."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; the learning rate rises and decays to 0 over them.
        batches: batches of cases that are drawn from each site, before training.
        batch: cases of a batch, all of one site with as many channels.
        together: batches of a step.
        learning_rate, weight_decay: of AdamW.
        channel: weight of the cross-entropy of each channel being at fault.
    """

    steps: int = 1000
    batches: int = 80
    batch: int = 64
    together: int = 2
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    channel: float = 0.5


Site = Sequence[Series]


@dataclass(frozen=True)
class Sample:
    """A batch as the network sees it; the inputs are kept in half precision."""

    inputs: Inputs
    reason: Tensor
    bad: Tensor

    @classmethod
    def of(cls, cases: Cases) -> Sample:
        given = features(cases.times, cases.windows, cases.history)
        return cls(given.to(torch.float16), cases.reason, cases.bad)

    @property
    def given(self) -> Inputs:
        return self.inputs.to(torch.float32)


def batches(
    site: Site,
    config: QualityConfig,
    *,
    count: int,
    batch: int = 64,
    part: tuple[float, float] = (0.0, 1.0),
    whole: bool = False,
    seed: int | Sequence[int] = 0,
) -> list[Cases]:
    """Batches of cases from a site.

    Args:
        whole: all channels are shown; else some, a number of them drawn for each batch.

    Raises:
        ValueError: no series is long enough, or nothing in them changes.
    """
    draw = np.random.default_rng(seed)
    alike = dict[int, list[Series]]()
    for series in site:
        if len(series) >= SHORTEST:
            alike.setdefault(series.values.shape[1], []).append(series)
    if not alike:
        raise ValueError(f"expected a key with at least {SHORTEST} readings, got none; leave the recording out")
    groups = list(alike.values())
    return [
        drawn(
            draw,
            groups[number % len(groups)],
            config,
            count=batch,
            width=None if whole else int(draw.choice(WIDTHS)),
            part=part,
        )
        for number in range(count)
    ]


def samples(site: Site, config: QualityConfig, recipe: Recipe, *, part: tuple[float, float], seed: int) -> list[Sample]:
    """What is trained on, of one site."""
    return [
        Sample.of(c) for c in batches(site, config, count=recipe.batches, batch=recipe.batch, part=part, seed=[seed, 1])
    ]


def fit(
    sites: Sequence[Sequence[Sample]],
    config: QualityConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> QualityModel:
    """Train on the samples of sites, each drawn as often as the others."""
    begin(seed, threads=1)
    network = QualityNetwork(width=config.width, heads=config.heads)
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, rise=0.2
    )
    draw = np.random.default_rng([seed, 2])
    network.train()
    for step in range(recipe.steps):
        chosen = draw.choice(len(sites), recipe.together, replace=len(sites) < recipe.together)
        losses = []
        for site in chosen:
            sample = sites[site][int(draw.integers(len(sites[site])))]
            window, channel = network(sample.given)
            own = torch.logsumexp(channel, -1) - math.log(channel.shape[-1])
            losses.append(
                F.cross_entropy(window, sample.reason)
                + recipe.channel * F.binary_cross_entropy_with_logits(own, sample.bad.float())
            )
        value = optimization.step(torch.stack(losses).sum())
        if progress:
            progress(step, value / recipe.together)
    return QualityModel(config, network, torch.device("cpu"))


def calibrate(model: QualityModel, held: Sequence[Sequence[Cases]]) -> QualityModel:
    """The model with the level below which `FALSE` of the clean windows of all sites are."""
    qualities = [1 - found.suspicion[found.clean] for found in (judge(model, each) for each in held)]
    level = float(np.quantile(np.concatenate(qualities), FALSE))
    return QualityModel(replace(model.config, level=min(max(level, 0.01), 0.99)), model.network, model.device)


@dataclass(frozen=True)
class Outcome:
    """A trained model, its figures over the held-out parts of the sites (means over the sites), and these parts."""

    model: QualityModel
    figures: Mapping[str, float]
    held: Sequence[Sequence[Cases]]

    @property
    def score(self) -> float:
        """The area by which seeds are chosen."""
        return self.figures["auroc"]


def train(
    sites: Sequence[Site],
    simulated: Sequence[Site],
    config: QualityConfig,
    recipe: Recipe,
    *,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on the first part of each site's recordings, and judge by the last.

    Args:
        sites: recordings of each site; may be empty.
        simulated: of plants; they judge nothing, unless there is nothing else.
        seed: of the weights, the windows and the faults.
        progress: called with each step and its loss.
    """
    judged = sites or simulated
    shown = [samples(site, config, recipe, part=TRAINED, seed=seed) for site in judged]
    for site in simulated if sites else ():
        shown += [samples(site, config, recipe, part=(0.0, 1.0), seed=seed)] * SIMULATED
    held = [batches(site, config, count=8, part=HELD, whole=True, seed=[99, 3]) for site in judged]
    model = calibrate(fit(shown, config, recipe, seed=seed, progress=progress), held)
    return Outcome(model, _means(model, held), held)


def _means(model: QualityModel, held: Sequence[Sequence[Cases]]) -> dict[str, float]:
    """The figures of each site's cases, mean over the sites."""
    found = [figures(judge(model, each), model.config.level) for each in held]
    return {name: float(np.nanmean([each[name] for each in found])) for name in found[0]}


def candidate(outcome: Outcome, folder: Path) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""

    def score(model: QualityModel) -> float:
        return _means(model, outcome.held)["auroc"]

    return Candidate(
        measure="validation AUROC",
        lower=False,
        score=outcome.score,
        outputs=lambda: [load(folder, "cpu")(c.times, c.windows, *c.history)["quality"] for c in outcome.held[0]],
        against=lambda other: (score(outcome.model), score(load(other, "cpu"))),
    )
