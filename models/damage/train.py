"""Training of the network on augmented and simulated pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.damage.config import DamageConfig
from tocsin.models.damage.lessons import UNKNOWN, Lessons, sampled, targets
from tocsin.models.damage.network import CLASSES, DamageNetwork, Judged
from tocsin.models.damage.trunk import Seen
from tocsin.models.training import Optimization, begin
from tocsin.models.wrong_labels.labels import Labels, Robust

Report = Callable[[int, float], None]
"""Called with each step and its loss."""


@dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Args:
        drawn: simulated pictures.
        copies: augmented copies of each real picture, at most; rarer classes have twice as many.
        most: augmented pictures of one collection.
        steps: optimizer steps.
        pictures: per step.
        noise: deviation of the factor that each channel of tokens is multiplied by.
        places: weight of the places' loss beside that of whole pictures.
        real: weight of each real collection where the simulation has 1.
        robust: how labels of real pictures that may be wrong are trained on; None: as if all were right.
    """

    drawn: int = 3600
    copies: int = 10
    most: int = 1400
    steps: int = 250
    pictures: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    places: float = 1.0
    real: float = 0.25
    robust: Robust | None = None


def fit(
    lessons: Sequence[Lessons],
    weights: Sequence[float],
    config: DamageConfig,
    recipe: Recipe,
    *,
    seed: int,
    report: Report = lambda step, loss: None,
) -> DamageNetwork:
    """Train a network.

    Args:
        weights: of each source of the lessons.
    """
    begin(seed, threads=1)
    rng = np.random.default_rng(seed)
    network = DamageNetwork(config.network)
    _scale(network, rng, lessons, weights)
    network.train()
    labels = _labels(lessons, recipe.robust, recipe.steps) if recipe.robust else None
    often = partial(_often, labels, _by_label(lessons, "source")) if labels else lambda: None
    optimization = Optimization(
        network,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        rise=0.2,
    )
    for number in range(recipe.steps):
        right = labels.right if labels and labels.judged else None
        seen, kinds, shares, at = sampled(rng, lessons, weights, recipe.pictures, often=often())
        judged = network(_noisy(seen, recipe.noise))
        of_pictures = labels.loss(at, F.log_softmax(judged.pictures, 1)).mean() if labels else None
        total = loss(
            judged,
            kinds,
            shares,
            places=recipe.places,
            of_pictures=of_pictures,
            right=None if right is None else right[at],
        )
        report(number, optimization.step(total))
    return network.eval()


def _labels(lessons: Sequence[Lessons], robust: Robust, steps: int) -> Labels:
    """The labels of all pictures. Those of drawings, whose places are known, are right."""
    given, shares = _by_label(lessons, "kinds"), torch.cat([of.shares[:, 0, 0] for of in lessons])
    trusted = torch.zeros(len(given), dtype=torch.bool).index_put((_numbers(lessons),), shares != UNKNOWN)
    return Labels(given, classes=len(CLASSES), robust=robust, steps=steps, trusted=trusted)


def _numbers(lessons: Sequence[Lessons]) -> Tensor:
    return torch.cat([of.label for of in lessons])


def _by_label(lessons: Sequence[Lessons], name: str) -> Tensor:
    """A field of the lessons, of each label `[M]` instead of each picture."""
    numbers, values = _numbers(lessons), torch.cat([getattr(of, name) for of in lessons])
    return values.new_zeros(int(numbers.max()) + 1).index_put((numbers,), values)


def _often(labels: Labels, sources: Tensor) -> Tensor:
    """How often each label is drawn beside the others of its source; after a split, each class by the root of its right labels.

    Balanced classes would show wrong labels most where a source has a class by wrong labels only.
    """
    if not labels.judged:
        return torch.ones_like(labels.right)
    group = sources * len(CLASSES) + labels.given
    right = torch.zeros(int(group.max()) + 1).index_add(0, group, labels.right)
    return (right.sqrt() / group.bincount(minlength=len(right)).clamp(min=1) + 1e-6)[group]


def loss(
    judged: Judged,
    kinds: Tensor,
    shares: Tensor,
    *,
    places: float,
    of_pictures: Tensor | None = None,
    right: Tensor | None = None,
) -> Tensor:
    """Loss of pictures; of their places, where these are known; and no damage in intact ones.

    Args:
        of_pictures: the first of these losses; None: cross-entropy.
        right: `[B]`, the probability of each label to be right; None: all are.
    """
    total = F.cross_entropy(judged.pictures, kinds) if of_pictures is None else of_pictures
    known = shares[:, 0, 0] != UNKNOWN
    if known.any():
        wanted = targets(kinds[known], shares[known])
        each = F.binary_cross_entropy_with_logits(judged.places[known], wanted, reduction="none")
        total = total + places * (each * (1 + 3 * wanted)).mean()
    intact = (kinds == 0) & ~known
    if intact.any():
        nothing = F.softplus(judged.places[intact])
        total = total + 0.3 * (nothing if right is None else nothing * right[intact, None, None, None]).mean()
    return total


def _noisy(seen: Seen, deviation: float) -> Seen:
    """Each channel of each picture times a random factor: another lens, another light."""

    def times(maps: Tensor) -> Tensor:
        return maps * (1 + deviation * torch.randn(len(maps), maps.shape[1], 1, 1))

    return seen._replace(tokens=times(seen.tokens), wide=times(seen.wide)) if deviation else seen


def _scale(
    network: DamageNetwork, rng: np.random.Generator, lessons: Sequence[Lessons], weights: Sequence[float]
) -> None:
    """Set the network's scaling of tokens."""
    parts = [sampled(rng, lessons, weights, 32)[0] for _ in range(20)]
    maps = [torch.cat([part[n].transpose(0, 1).flatten(1) for part in parts], 1) for n in (0, 1)]
    network.mean.copy_(torch.cat([m.mean(1) for m in maps]))
    network.scale.copy_(1 / (torch.cat([m.std(1) for m in maps]) + 0.05))


@torch.no_grad()
def judged_all(network: nn.Module, lessons: Sequence[Lessons]) -> tuple[Tensor, Tensor]:
    """The logits `[N, 4]` and the classes `[N]` of pictures."""
    logits, kinds = [], []
    for of in lessons:
        for at in torch.arange(len(of.kinds)).split(32):
            seen = Seen(of.seen.tokens[at].float(), of.seen.wide[at].float(), of.seen.grey[at])
            logits.append(network(seen).pictures)
            kinds.append(of.kinds[at])
    return torch.cat(logits), torch.cat(kinds)
