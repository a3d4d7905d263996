"""Settings found by Bayesian search: a tree of Parzen estimators over how well a model does in rooms that it has not seen.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), by optuna. That SVM and LSTM are tuned so
is arXiv 2604.14841; what is searched, and by what, is this project's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tocsin.models.occupancy.baselines import BASELINES, fit_baseline
from tocsin.models.occupancy.config import NetworkSize, OccupancyConfig
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.train import Recipe, Room, fit, score, truth

Settings = Mapping[str, Any]
Space = Mapping[str, BaseDistribution]
Source = Sequence[Room]

GROUPS = 4
"""Of a single source's rooms, each left out once."""
PATCHES = (3, 5, 6, 10)
_SIZES = tuple(field.name for field in fields(NetworkSize))

BASELINE_SPACES: Mapping[str, Space] = {
    "logistic regression": {"C": FloatDistribution(1e-4, 10, log=True)},
    "RBF-SVM": {"C": FloatDistribution(0.03, 100, log=True), "gamma": FloatDistribution(3e-4, 0.3, log=True)},
    "gradient boosting": {
        "max_iter": IntDistribution(20, 200, log=True),
        "learning_rate": FloatDistribution(0.02, 0.3, log=True),
        "max_leaf_nodes": IntDistribution(2, 16),
        "min_samples_leaf": IntDistribution(20, 1000, log=True),
        "l2_regularization": FloatDistribution(0.1, 100, log=True),
    },
}


@dataclass(frozen=True)
class Trial:
    """What was tried, and the mean F1 in what was left out."""

    number: int
    settings: Settings
    f1: float


def folds(sources: Sequence[Source]) -> list[tuple[list[Source], Source]]:
    """Sources to train on, and what was left out of them: each source in turn, or of a single one a few of its rooms.

    Returns:
        None at all if there is but one room.
    """
    if len(sources) > 1:
        return [([*sources[:i], *sources[i + 1 :]], source) for i, source in enumerate(sources)]
    (rooms,) = sources
    count = min(GROUPS, len(rooms))
    groups = [[rooms[i] for i in range(len(rooms)) if i % count != group] for group in range(count)]
    return [([others], rooms[group::count]) for group, others in enumerate(groups) if others]


def network_space(config: OccupancyConfig) -> Space:
    """What is searched of the network and its recipe; `config` says which patches divide its window."""
    patches = sorted({config.network.patch, *(n for n in PATCHES if config.window % n == 0)})
    return {
        "patch": CategoricalDistribution(patches),
        "lstm": IntDistribution(8, 64, step=8),
        "layers": IntDistribution(1, 2),
        "attention": IntDistribution(8, 32, step=8),
        "dropout": FloatDistribution(0.0, 0.6),
        "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
        "weight_decay": FloatDistribution(1e-4, 0.3, log=True),
        "noise": FloatDistribution(0.0, 0.5),
        "shift": FloatDistribution(0.0, 0.8),
        "left_out": FloatDistribution(0.0, 0.4),
    }


def settled(config: OccupancyConfig, recipe: Recipe, settings: Settings) -> tuple[OccupancyConfig, Recipe]:
    """The config and the recipe with a trial's settings."""
    sizes = {name: value for name, value in settings.items() if name in _SIZES}
    rest = {name: value for name, value in settings.items() if name not in _SIZES}
    return replace(config, network=replace(config.network, **sizes)), replace(recipe, **rest)


def search(
    sources: Sequence[Source],
    config: OccupancyConfig,
    recipe: Recipe,
    *,
    trials: int,
    seed: int = 0,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Search the network's sizes and its recipe.

    Args:
        sources: of training alone, left out as `folds` says.
        config, recipe: where the search begins, and what it leaves as it is.
        trials: how many. The first is `config` and `recipe` as they are, so that it is seen what the search gains.
        seed: of the search, and of each training.
        tell: called after each trial.

    Returns:
        The trials in order.

    Raises:
        ValueError: there is but one room.
    """
    given = {**asdict(config.network), **asdict(recipe)}

    def f1(settings: Settings, others: Sequence[Source], left_out: Source) -> float:
        size, how = settled(config, recipe, settings)
        return score(fit(others, size, how, seed=seed), left_out)["f1"]

    return _study(sources, network_space(config), given, f1, trials=trials, seed=seed, tell=tell)


def search_baseline(
    name: str,
    sources: Sequence[Source],
    config: OccupancyConfig,
    *,
    trials: int,
    seed: int = 0,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Search the settings of one of `BASELINE_SPACES`, as `search` those of the network.

    Of `config` its window, features and threshold count; the first trial is as `BASELINES` says.
    """

    def f1(settings: Settings, others: Sequence[Source], left_out: Source) -> float:
        rooms = [room for source in others for room in source]
        found = fit_baseline(name, rooms, config.window, config.features, seed=seed, settings=settings)(left_out)
        return metrics(truth(left_out, config.window), found >= config.threshold, found)["f1"]

    return _study(sources, BASELINE_SPACES[name], BASELINES[name], f1, trials=trials, seed=seed, tell=tell)


def best(trials: Sequence[Trial]) -> Trial:
    """Of the highest F1; of equals the first."""
    return max(trials, key=lambda trial: trial.f1)


def _study(
    sources: Sequence[Source],
    space: Space,
    given: Mapping[str, Any],
    f1: Callable[[Settings, Sequence[Source], Source], float],
    *,
    trials: int,
    seed: int,
    tell: Callable[[Trial], None],
) -> list[Trial]:
    if not (turns := folds(sources)):
        raise ValueError("one source with one room: nothing can be left out to search by; add another room or source")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial is told by us
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize")
    study.enqueue_trial({name: given[name] for name in space})
    done = []
    for number in range(trials):
        asked = study.ask(dict(space))
        value = float(np.mean([f1(asked.params, *turn) for turn in turns]))
        study.tell(asked, value)
        done.append(Trial(number, asked.params, value))
        tell(done[-1])
    return done
