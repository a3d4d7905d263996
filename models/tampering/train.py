"""Training: the network on the evidence of attacked and clean series, then the level on validation series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.attempts import Fitted, Report
from tocsin.models.tampering.config import TamperingConfig
from tocsin.models.tampering.evaluate import Scored, figures, rung
from tocsin.models.tampering.interval import Interval
from tocsin.models.tampering.memory import Evidence, MemoryConfig
from tocsin.models.tampering.model import TamperingModel
from tocsin.models.tampering.network import Judged, TamperingNetwork
from tocsin.models.tampering.samples import CLEAN, UNSURE, Series, evidence, targets
from tocsin.models.tampering.simulation.attacks import KINDS
from tocsin.models.training import Optimization, begin

LEVELS = 0.5, 0.99
"""The lowest and the highest level that is chosen."""


@dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Args:
        real: series of each clip that is long enough; simulated: series of simulated cameras; validation: share of these, again,
            to validate on.
        resting: series of simulated cameras at rest, see `tocsin.models.tampering.samples.resting`.
        steps: optimizer steps.
        frames: of a step.
        clean: share of them that is as the camera took it.
        blind: share of measures that a frame lacks, so that the network does not trust in few.
        places, kinds: weights of their losses beside that of frames.
        apart: clean validation frames for each alert that they may raise at the level: an hour's, at a frame every two seconds.
    """

    real: int = 48
    simulated: int = 192
    resting: int = 30
    validation: float = 0.25
    steps: int = 450
    frames: int = 32
    clean: float = 0.55
    blind: float = 0.1
    places: float = 0.7
    kinds: float = 0.3
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    apart: int = 1800


@dataclass(frozen=True)
class Lessons:
    """Frames to train on.

    Args:
        evidence: `[N, ...]`, half precision.
        truth: `[N]`; places: `[N, *GRID]`; kinds: `[N]`.
        groups: rows of each kind of attack, and those of clean frames last.
    """

    evidence: Evidence
    truth: Tensor
    places: Tensor
    kinds: Tensor
    groups: Sequence[Tensor]


def lessons(series: Sequence[Series], config: MemoryConfig, *, warm: int) -> Lessons:
    """The frames of series, without those that are too early to be judged or of uncertain truth."""
    parts: list[tuple[Tensor, ...]] = []
    for some in series:
        seen = evidence(some, config)
        truth, places = targets(some)
        keep = (truth != UNSURE) & (seen.seen >= warm - 10)
        kinds = torch.full((int(keep.sum()),), some.kinds)
        parts.append((seen.features[keep].half(), seen.seen[keep], truth[keep], places[keep].half(), kinds))
    features, counts, truth, places, kinds = (torch.cat(part) for part in zip(*parts, strict=True))
    attacked = [((truth == 1) & (kinds == number)).nonzero()[:, 0] for number in range(len(KINDS))]
    groups = [rows for rows in attacked if len(rows)] + [(truth == 0).nonzero()[:, 0]]
    return Lessons(Evidence(features, counts), truth, places, kinds, groups)


def fit(
    taught: Lessons, config: TamperingConfig, recipe: Recipe, *, seed: int, report: Report = lambda step, loss: None
) -> TamperingNetwork:
    """Train a network."""
    begin(seed, threads=1)
    generator = torch.Generator().manual_seed(seed)
    network = TamperingNetwork(config.network).train()
    optimization = Optimization(
        network,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        rise=0.2,
    )
    *attacked, clean = taught.groups
    of_clean = round(recipe.clean * recipe.frames)
    for number in range(recipe.steps):
        kinds = torch.randint(len(attacked), (recipe.frames - of_clean,), generator=generator).tolist()
        rows = [attacked[kind][torch.randint(len(attacked[kind]), (1,), generator=generator)] for kind in kinds]
        at = torch.cat([*rows, clean[torch.randint(len(clean), (of_clean,), generator=generator)]])
        features = taught.evidence.features[at].float()
        kept = torch.rand(*features.shape[:2], 1, 1, 1, generator=generator) >= recipe.blind
        judged = network(features * kept, taught.evidence.seen[at])
        report(number, optimization.step(loss(judged, taught, at, recipe)))
    return network.eval()


def loss(judged: Judged, taught: Lessons, at: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy of frames; of their places, where these are known; and of the kind of attacked ones."""
    truth, places = taught.truth[at], taught.places[at].float()
    total = F.binary_cross_entropy_with_logits(judged.frames, truth)
    known = places != UNSURE
    each = F.binary_cross_entropy_with_logits(judged.places, places.clamp(min=0), reduction="none")
    total = total + recipe.places * each[known].mean()
    mine = truth == 1
    if mine.any():
        total = total + recipe.kinds * F.cross_entropy(judged.kinds[mine], taught.kinds[at][mine])
    return total


def scored(model: TamperingModel, seen: Evidence, some: Series) -> Scored:
    """The scores of a series."""
    scores = model(Evidence(seen.features.float(), seen.seen)).score.numpy().astype(np.float64)
    scores[: model.config.warm] = np.nan
    return Scored(some.name, some.kind, scores, some.truth)


def settled(model: TamperingModel, found: Sequence[Scored], apart: int) -> TamperingModel:
    """The model with the lowest level of `LEVELS` at which clean series raise at most one alert in `apart` frames.

    Alerts are counted, not frames: one series at which a lamp is switched has many high scores, but rings once.
    """
    clean = [one for one in found if one.kind == CLEAN]
    most = sum(len(one.of(0.0)) for one in clean) // apart
    steps = np.arange(LEVELS[0], LEVELS[1] + 1e-6, 0.005).round(3).tolist()
    rings = (sum(rung(one, Interval(level=level)).false for one in clean) <= most for level in steps)
    level = next((level for level, few in zip(steps, rings, strict=True) if few), LEVELS[1])
    return TamperingModel(replace(model.config, level=level), model.network)


def train(
    taught: Lessons,
    unseen: Sequence[tuple[Evidence, Series]],
    config: TamperingConfig,
    recipe: Recipe,
    *,
    seed: int,
    report: Report = lambda step, loss: None,
) -> Fitted[TamperingModel]:
    """Train a network, and choose its level.

    Args:
        unseen: validation series with their evidence.
    """
    model = TamperingModel(config, fit(taught, config, recipe, seed=seed, report=report))
    model = settled(model, judged(model, unseen), recipe.apart)
    return Fitted(model, validated(model, unseen), by="auroc")


def judged(model: TamperingModel, unseen: Sequence[tuple[Evidence, Series]]) -> list[Scored]:
    """The scores of series."""
    return [scored(model, seen, some) for seen, some in unseen]


def validated(model: TamperingModel, unseen: Sequence[tuple[Evidence, Series]]) -> dict[str, float]:
    """Figures on validation series."""
    found = figures(judged(model, unseen), Interval(level=model.config.level))
    return {"auroc": 0.0} | {name: value for name, value in found.items() if value is not None and value == value}
