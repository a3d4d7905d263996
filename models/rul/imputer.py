"""Training of an imputer for the settings and sensors of a RUL model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.imputer.config import ImputerConfig
from tocsin.models.imputer.levels import Levels
from tocsin.models.imputer.train import Outcome, Recipe
from tocsin.models.imputer.train import fit as fit_imputer
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives, read_cmapss, read_csv_directory
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.split import hold_out


def train(
    *,
    data: Path,
    config: RulConfig,
    subset: str | None = None,
    decimal_comma: bool = False,
    validation: float = 0.2,
    folds: int = 5,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on the lives that the model is trained on; the keys that are held out judge it.

    Args:
        data, config, subset, decimal_comma: see `tocsin.models.rul.train.train`.
        validation, folds: of the model's recipe.
        recipe, seed, progress: see `tocsin.models.imputer.train.fit`.
    """
    table = read_cmapss(data, subset) if subset else read_csv_directory(data, config, decimal_comma=decimal_comma)
    return fit(
        lives(table, config), config, validation=validation, folds=folds, recipe=recipe, seed=seed, progress=progress
    )


def fit(
    known: Lives,
    config: RulConfig,
    *,
    validation: float = 0.2,
    folds: int = 5,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on lives; see `train`."""
    held = hold_out(known, validation, folds=folds)
    everyone = torch.arange(len(known.keys))
    training = known.of(everyone[~torch.isin(everyone, held)])
    scaling = Scaling.fit(training, settings=len(config.settings), regimes=config.regimes, age=config.age)
    chosen = columns(config)
    levels = Levels.fit(training.rows[:, chosen], scaling.regime(training.rows), config.regimes)
    return fit_imputer(
        series(training, config),
        ImputerConfig(columns=tuple(config.columns[i] for i in chosen), regimes=config.regimes),
        recipe,
        levels=levels,
        held=series(known.of(held), config),
        seed=seed,
        progress=progress,
    )


def columns(config: RulConfig) -> list[int]:
    """Which of the config's columns may be missing: all but the key and the order."""
    return [i for i, name in enumerate(config.columns) if name not in (config.key, config.order)]


def series(known: Lives, config: RulConfig) -> list[Tensor]:
    """The rows of each life, `[n, C]`."""
    return list(known.rows[:, columns(config)].split(torch.bincount(known.engine).tolist())) if len(known) else []
