"""Bayesian search for settings, with a tree-structured Parzen estimator. The objective is F1 in rooms that were held out.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), by optuna. arXiv 2604.14841 tunes SVM and
LSTM in this way. The search space and the objective are this project's choice.
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
"""Number of folds of the rooms of a single source."""
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
    """The settings of a trial, and its mean F1 over the folds."""

    number: int
    settings: Settings
    f1: float


def folds(sources: Sequence[Source]) -> list[tuple[list[Source], Source]]:
    """Folds of training sources and a held-out source. Each source is held out in turn; a single source is split by rooms.

    Returns:
        No folds if there is only one room.
    """
    if len(sources) > 1:
        return [([*sources[:i], *sources[i + 1 :]], source) for i, source in enumerate(sources)]
    (rooms,) = sources
    count = min(GROUPS, len(rooms))
    groups = [[rooms[i] for i in range(len(rooms)) if i % count != group] for group in range(count)]
    return [([others], rooms[group::count]) for group, others in enumerate(groups) if others]


def network_space(config: OccupancyConfig) -> Space:
    """The search space of the network and its recipe. The patches are those that divide the window of `config`."""
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


def apply_settings(config: OccupancyConfig, recipe: Recipe, settings: Settings) -> tuple[OccupancyConfig, Recipe]:
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
    callback: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Search the network's sizes and its recipe.

    Args:
        sources: for training only; `folds` splits them.
        config, recipe: the starting point, and the values of settings that are not searched.
        trials: number of trials. The first is `config` and `recipe` unchanged, to show the gain of the search.
        seed: of the search and of each training.
        callback: called after each trial.

    Returns:
        The trials in order.

    Raises:
        ValueError: there is only one room.
    """
    initial = {**asdict(config.network), **asdict(recipe)}

    def f1(settings: Settings, others: Sequence[Source], left_out: Source) -> float:
        trial_config, trial_recipe = apply_settings(config, recipe, settings)
        return score(fit(others, trial_config, trial_recipe, seed=seed), left_out)["f1"]

    return _study(sources, network_space(config), initial, f1, trials=trials, seed=seed, callback=callback)


def search_baseline(
    name: str,
    sources: Sequence[Source],
    config: OccupancyConfig,
    *,
    trials: int,
    seed: int = 0,
    callback: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Search the settings of one of `BASELINE_SPACES`, like `search` for the network.

    Only the window, features and threshold of `config` are used. The first trial has the settings of `BASELINES`.
    """

    def f1(settings: Settings, others: Sequence[Source], left_out: Source) -> float:
        rooms = [room for source in others for room in source]
        probability = fit_baseline(name, rooms, config.window, config.features, seed=seed, settings=settings)(left_out)
        return metrics(truth(left_out, config.window), probability >= config.threshold, probability)["f1"]

    return _study(sources, BASELINE_SPACES[name], BASELINES[name], f1, trials=trials, seed=seed, callback=callback)


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest F1; of equal ones, the first."""
    return max(trials, key=lambda trial: trial.f1)


def _study(
    sources: Sequence[Source],
    space: Space,
    initial: Mapping[str, Any],
    f1: Callable[[Settings, Sequence[Source], Source], float],
    *,
    trials: int,
    seed: int,
    callback: Callable[[Trial], None],
) -> list[Trial]:
    if not (splits := folds(sources)):
        raise ValueError(
            "expected at least two rooms to search, got one: none can be held out; add another room or source"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # `callback` reports each trial
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="maximize")
    study.enqueue_trial({name: initial[name] for name in space})
    completed = []
    for number in range(trials):
        trial = study.ask(dict(space))
        value = float(np.mean([f1(trial.params, *split) for split in splits]))
        study.tell(trial, value)
        completed.append(Trial(number, trial.params, value))
        callback(completed[-1])
    return completed
