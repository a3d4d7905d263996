"""Training of a RUL model: split by engine, with early stopping and averaged weights."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import polars as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tocsin.models.gate import Candidate
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import CMAPSS, Windows, read_cmapss, read_csv_directory, windows
from tocsin.models.rul.evaluate import metrics, predict
from tocsin.models.rul.model import RulModel, build, load
from tocsin.models.rul.network import RulNetwork, rul_loss
from tocsin.models.rul.teacher import Teacher
from tocsin.models.training import Optimization, begin


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        epochs: maximum number of epochs; the learning rate decays to 0 over them along a cosine.
        share: share of the training windows drawn in one epoch. Adjacent windows differ by only one row.
        batch: windows per step.
        learning_rate: maximum, of AdamW.
        weight_decay: of AdamW.
        asymmetry: share of the asymmetric loss, 0 to 1; the rest is the squared error.
        teachers: members of the teacher ensemble whose predictions the network learns; 0: the network learns from the labels.
        noise: standard deviation of noise added to every input value, in units of each channel's scale.
        shift: standard deviation of an offset added to each channel of a window, in the same unit. Assets of one
            kind differ in level by build and tuning, and a few dozen assets do not cover all differences.
        averaging: decay per step of the running mean of the weights; the mean is kept.
        validation: share of the keys that are held out, the same keys for each seed; 0: training uses all keys for `epochs`.
        patience: epochs without a better validation RMSE before training stops; the best weights are kept.
    """

    epochs: int = 30
    share: float = 0.5
    batch: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    asymmetry: float = 0.5
    teachers: int = 4
    noise: float = 0.1
    shift: float = 0.3
    averaging: float = 0.99
    validation: float = 0.2
    patience: int = 6


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve. The validation metrics are NaN if no keys are held out."""

    epoch: int
    loss: float
    rmse: float
    score: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The model, its training curve and the data that it was validated on."""

    model: RulModel
    curve: list[Epoch]
    validation: Validation

    @property
    def rmse(self) -> float:
        """The best validation RMSE, which is that of the model; NaN without validation."""
        return min((epoch.rmse for epoch in self.curve if not math.isnan(epoch.rmse)), default=math.nan)


@dataclass(frozen=True)
class Validation:
    """The windows that were held out.

    Args:
        table: all rows, as the readers give them.
        config: of the model that was trained.
        ends: `[N] int64`, the last row of each window, as in `Windows`.
    """

    table: pl.DataFrame
    config: RulConfig
    ends: Tensor

    def windows(self, config: RulConfig) -> Windows:
        """The held-out windows that a model of this config can predict."""
        dataset = windows(self.table, replace(config, label=self.config.label))
        return dataset.where(torch.isin(dataset.ends, self.ends))

    def rmse(self, *models: RulModel) -> list[float]:
        """RMSE of each model over the windows that all models can predict. Labels are clamped to the smallest cap of the models."""
        datasets = [self.windows(model.config) for model in models]
        common = self.ends
        for dataset in datasets:
            common = common[torch.isin(common, dataset.ends)]
        cap = min(model.config.cap for model in models)
        errors = []
        for model, dataset in zip(models, datasets, strict=True):
            shared = dataset.where(torch.isin(dataset.ends, common))
            errors.append(metrics(predict(model, shared).clamp(max=cap), shared.rul.clamp(max=cap))["rmse"])
        return errors


def train(
    *,
    data: Path,
    out: Path | None = None,
    config: RulConfig | Path | None = None,
    subset: str = "FD001",
    decimal_comma: bool = False,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[Epoch], None] | None = None,
) -> Outcome:
    """Train a RUL model on run-to-failure data and save it.

    Args:
        data: folder of C-MAPSS files; with `config`, of CSV files.
        out: folder for `config.json` and `model.safetensors`; created if missing. None: nothing is written.
        config: columns and settings of the CSV files, or a TOML file with them; None: C-MAPSS.
        subset: C-MAPSS subset.
        decimal_comma: the CSV files have decimal commas, as in 400,5.
        recipe: how to train.
        seed: of the split, the weights, the order of the windows and the noise.
        progress: called after each epoch.

    Raises:
        FileNotFoundError, ValueError: from the readers.
    """
    recipe = recipe or Recipe()
    if config is None:
        config, table = CMAPSS, read_cmapss(data, subset)
    else:
        config = RulConfig.from_toml(config) if isinstance(config, Path) else config
        table = read_csv_directory(data, config, decimal_comma=decimal_comma)
    dataset = windows(table, config)
    model, curve = fit(dataset, config, recipe, seed=seed, progress=progress)
    if out:
        model.save(out)
    return Outcome(model, curve, Validation(table, config, dataset.ends[_hold_out(dataset, recipe.validation)]))


def candidate(trained: Outcome, folder: Path) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""

    def outputs() -> list[Tensor]:
        model = load(folder, "cpu")
        samples = trained.validation.windows(model.config)
        return [*model(samples.batch(torch.arange(min(64, len(samples))))).values()]

    def against(other: Path) -> tuple[float, float]:
        champion = load(other, "cpu")
        if (champion_types := champion.config.types) != (trained_types := trained.model.config.types):
            raise ValueError(
                f"it reads {_columns(champion_types)}; this one reads {_columns(trained_types)}, "
                "which a pipeline may not have"
            )
        rmse, champion_rmse = trained.validation.rmse(trained.model, champion)
        return rmse, champion_rmse

    return Candidate(measure="validation RMSE", lower=True, score=trained.rmse, outputs=outputs, against=against)


def fit(
    dataset: Windows,
    config: RulConfig,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: Callable[[Epoch], None] | None = None,
) -> tuple[RulModel, list[Epoch]]:
    """Train on windows. Validation holds out whole keys, because windows of one key are similar.

    Each window of a held-out key counts once in validation. The result is the expected score of a key that is cut off at a
    random point of its life, as test engines are.

    Returns:
        The model with the averaged weights (of the best epoch, if there is validation) and the curve.

    Raises:
        ValueError: the held-out share leaves no key on one side.
    """
    begin(seed, threads=1)
    held_out = _hold_out(dataset, recipe.validation)
    training, validation = dataset.where(~held_out), dataset.where(held_out)
    config = _scaled(config, dataset.rows[training.ends])
    scaled = replace(training, rows=(dataset.rows - torch.tensor(config.mean)) / torch.tensor(config.scale))

    teacher = _train_teacher(scaled, config, recipe) if recipe.teachers else None
    network = build(config)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True)
    averaged = cast(RulNetwork, average.module)
    selected, curve = averaged, []
    epoch_size = max(1, round(recipe.share * len(scaled)))
    optimization = Optimization(
        network,
        steps=recipe.epochs * math.ceil(epoch_size / recipe.batch),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        schedule="cosine",
    )
    best, stale_epochs = math.inf, 0
    for epoch in range(recipe.epochs):
        started, losses = time.perf_counter(), []
        network.train()
        for index in torch.randperm(len(scaled))[:epoch_size].split(recipe.batch):
            losses.append(optimization.step(_loss(network, scaled, index, teacher, config, recipe)))
            average.update_parameters(network)
        rmse, score = _validate(RulModel(config, averaged, torch.device("cpu")), validation)
        curve.append(Epoch(epoch, sum(losses) / len(losses), rmse, score, time.perf_counter() - started))
        if progress:
            progress(curve[-1])
        if not len(validation) or rmse < best:  # without validation the last epoch is kept
            best, stale_epochs, selected = rmse, 0, copy.deepcopy(averaged)
        elif (stale_epochs := stale_epochs + 1) >= recipe.patience:
            break
    return RulModel(config, selected, torch.device("cpu")), curve


def _train_teacher(scaled: Windows, config: RulConfig, recipe: Recipe) -> Teacher:
    teacher = Teacher(channels=len(config.features), cap=config.cap, members=recipe.teachers)
    return teacher.fit(scaled, asymmetry=recipe.asymmetry)


def _validate(model: RulModel, validation: Windows) -> tuple[float, float]:
    """RMSE, and the score of a window; NaN without windows."""
    if not len(validation):
        return math.nan, math.nan
    figures = metrics(predict(model, validation), validation.rul.clamp(max=model.config.cap))
    return figures["rmse"], figures["score"] / len(validation)


def points(curve: list[Epoch]) -> list[tuple[str, float, int]]:
    """The points of a curve as metrics: name, value and epoch."""
    return [
        (figure, value, point.epoch)
        for point in curve
        for figure, value in (("loss", point.loss), ("validation_rmse", point.rmse), ("validation_score", point.score))
        if not math.isnan(value)
    ]


def _columns(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())


def _loss(
    network: RulNetwork,
    scaled: Windows,
    index: Tensor,
    teacher: Teacher | None,
    config: RulConfig,
    recipe: Recipe,
) -> Tensor:
    x = scaled.batch(index)
    if recipe.noise:
        x = x + recipe.noise * torch.randn_like(x)
    if recipe.shift:
        x = x + recipe.shift * torch.randn_like(x[:, :1])  # [B, 1, C]
    predicted, _ = network(x)
    if teacher is None:
        return rul_loss(predicted, scaled.rul[index].clamp(max=config.cap), asymmetry=recipe.asymmetry)
    # The teacher sees the same noise. Otherwise the noise would blur the target.
    return rul_loss(predicted, teacher(x), asymmetry=0.0)


def _hold_out(dataset: Windows, share: float) -> Tensor:
    """Which windows belong to held-out keys, `[N] bool`.

    A hash of the key's name selects the keys. Most of them stay held out with other seeds or more keys, so that models trained on
    different days can be compared.
    """
    engines = dataset.engine.unique()
    count = round(share * len(engines))
    if not 0 <= count < len(engines) or (share and not count):
        raise ValueError(
            f"validation={share:g} holds out {count} of {len(engines)} keys; leave at least one on each side"
        )
    ordered = sorted(engines.tolist(), key=lambda key: hashlib.sha256(dataset.keys[key].encode()).digest())
    return torch.isin(dataset.engine, torch.tensor(ordered[:count], dtype=torch.int64))


def _scaled(config: RulConfig, rows: Tensor) -> RulConfig:
    """The config with the mean and standard deviation of each channel of `[R, C]`. A constant channel has scale 1."""
    spread = rows.double().std(0)
    scale = torch.where(spread > 0, spread, 1.0)
    return replace(config, mean=tuple(rows.double().mean(0).tolist()), scale=tuple(scale.tolist()))
