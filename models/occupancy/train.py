"""Training of an occupancy model on the rooms of one or several sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tocsin.models.gate import Candidate
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.evaluate import metrics
from tocsin.models.occupancy.model import OccupancyModel, build, load
from tocsin.models.training import Optimization, begin
from tocsin.models.wrong_labels.labels import Labels, Robust
from tocsin.models.wrong_labels.losses import two_classes

FRESH = 5 * 60_000  # ms for which the last known truth is valid
ROBUST = Robust(rest="own")
"""Against wrong labels. Minutes are many, and what the network says of one is right more often than a label that it rejects."""
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; the learning rate decays to 0 over them along a cosine.
        batch: windows per step, the same number from each source.
        learning_rate, weight_decay: of AdamW.
        noise: standard deviation of noise added to every input value, in units of each feature's scale.
        shift: standard deviation of an offset added to each feature of a window, in the same unit, because sensors differ.
        left_out: share of a window's features that are dropped, as if the room had no such sensor.
        averaging: decay per step of the running mean of the weights; the mean is kept.
        balance: an occupied minute weighs (empty / occupied minutes) to this power in the loss; 0: as much as an empty one.
        robust: how labels that may be wrong are trained on; None: as if all were right.
    """

    steps: int = 500
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    noise: float = 0.1
    shift: float = 0.3
    left_out: float = 0.1
    averaging: float = 0.99
    balance: float = 0.0
    robust: Robust | None = None


@dataclass(frozen=True)
class Room:
    """A room's minutes: features `[T, F]` and whether it was occupied `[T]`, both float32, NaN where unknown."""

    features: Tensor
    occupied: Tensor

    def windows(self, ends: Tensor, length: int) -> Tensor:
        """The windows `[B, length, F]` whose last rows are `ends` `[B] int64`."""
        return self.features[ends[:, None] + torch.arange(1 - length, 1)]

    def known(self, length: int) -> Tensor:
        """The rows `[N] int64` that end a complete window and whose truth is known."""
        rows = (~self.occupied.isnan()).nonzero()[:, 0]
        return rows[rows >= length - 1]


def labelled(minutes: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Add `occupied` to the minutes of rooms (`room`, `time` in ms): the last known truth, or null if it is older than `FRESH`."""
    return minutes.sort("time").join_asof(
        truth.select("room", "time", "occupied").sort("time"),
        on="time",
        by="room",
        tolerance=FRESH,
        check_sortedness=False,
    )


def rooms(table: pl.DataFrame, features: Sequence[str]) -> list[Room]:
    """The rooms of a labelled table."""
    parts = table.sort("room", "time").partition_by("room", maintain_order=True)
    return [
        Room(part.select(features).to_torch(dtype=pl.Float32), _numbers(part["occupied"].cast(pl.Float32)))
        for part in parts
    ]


def fit(
    sources: Sequence[Sequence[Room]],
    config: OccupancyConfig,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> OccupancyModel:
    """Train on the rooms of one or several sources.

    Args:
        sources: rooms of each source. Each source contributes equally to a batch, and each room of a source is equally likely.
        config: of the model; its `mean` and `scale` are computed from the sources.
        recipe: how to train.
        seed: of the weights, the windows and the noise.
        progress: called with each step and its loss.

    Raises:
        ValueError: a source has no window whose truth is known.
    """
    recipe = recipe or Recipe()
    begin(seed, threads=1)
    usable = [[(room, ends) for room in source if len(ends := room.known(config.window))] for source in sources]
    if empty := [i for i, source in enumerate(usable) if not source]:
        raise ValueError(
            f"source {empty[0]}: no window of {config.window} minutes whose truth is known; leave the source out"
        )
    config = _scaled(config, torch.cat([room.features for source in usable for room, _ in source]))
    network = learn(build(config), usable, config, recipe, progress=progress)
    return OccupancyModel(config, network, torch.device("cpu"))


def learn(
    network: N,
    sources: Sequence[Sequence[tuple[Room, Tensor]]],
    config: OccupancyConfig,
    recipe: Recipe,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> N:
    """Train a network on the rows of rooms; see `fit`.

    Args:
        sources: rooms of each source, with the rows `[N] int64` that end windows.
        config: with `mean` and `scale`.

    Returns:
        The running mean of the network.
    """
    mean, scale = torch.tensor(config.mean), torch.tensor(config.scale)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging))
    optimization = Optimization(
        network,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        schedule="cosine",
    )
    count = round(recipe.batch / len(sources))
    share = torch.cat([room.occupied[rows] for source in sources for room, rows in source]).mean().clamp(0.01, 0.99)
    weight = (1 / share - 1) ** recipe.balance if recipe.balance else None
    labels = _labels(sources, recipe.robust, recipe.steps) if recipe.robust else None
    firsts = _firsts(sources)
    network.train()
    for step in range(recipe.steps):
        drawn = [_draw(source, first, count, config.window) for source, first in zip(sources, firsts, strict=True)]
        windows, occupied, at = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        logits, _ = network(_augmented((windows - mean) / scale, recipe))
        if labels is None:
            total = nn.functional.binary_cross_entropy_with_logits(logits, occupied, pos_weight=weight)
        else:
            each = labels.loss(at, two_classes(logits))
            total = (each if weight is None else torch.where(occupied > 0.5, weight, 1) * each).mean()
        loss = optimization.step(total)
        average.update_parameters(network)
        if progress:
            progress(step, loss)
    return cast(N, average.module)


def probabilities(model: OccupancyModel, source: Sequence[Room]) -> NDArray[np.float32]:
    """The model's probability for each minute that ends a complete window and whose truth is known, `[N]`."""
    length = model.config.window
    ends = ((room, part) for room in source for part in room.known(length).split(4096))
    return torch.cat([model(room.windows(part, length))["probability"] for room, part in ends]).numpy()


def truth(source: Sequence[Room], length: int) -> NDArray[np.bool_]:
    """Whether the rooms were occupied in the minutes of `probabilities`, `[N]`."""
    return torch.cat([room.occupied[room.known(length)] > 0.5 for room in source]).numpy()


def score(model: OccupancyModel, source: Sequence[Room]) -> dict[str, float]:
    """The metrics of `tocsin.models.occupancy.evaluate` over all minutes with a known truth, at the model's threshold."""
    p = probabilities(model, source)
    return metrics(truth(source, model.config.window), p >= model.config.threshold, p)


def candidate(
    model: OccupancyModel, folder: Path, sources: Sequence[Sequence[Room]], left_out_f1: float | None
) -> Candidate:
    """A model trained on all sources and saved in `folder`, as a candidate for champion.

    It is compared with the champion on all rooms of the sources.

    Args:
        left_out_f1: the mean F1 of the recipe over the folds; None if there are no folds.
    """
    rooms = [room for source in sources for room in source]

    def f1(compared: OccupancyModel) -> float:
        if compared.config.features != model.config.features:
            raise ValueError(
                f"it reads {', '.join(compared.config.features)}; this one {', '.join(model.config.features)}"
            )
        return score(compared, rooms)["f1"]

    def outputs() -> list[Tensor]:
        loaded, length = load(folder, "cpu"), model.config.window
        samples = [room.windows(known[-8:], length) for room in rooms[:8] if len(known := room.known(length))]
        unknown = torch.full((1, length, len(model.config.features)), math.nan)
        return [*loaded(torch.cat([*samples, unknown])).values()]

    return Candidate(
        measure="F1",
        lower=False,
        score=f1(model) if left_out_f1 is None else left_out_f1,
        outputs=outputs,
        against=lambda other: (f1(model), f1(load(other, "cpu"))),
    )


def _firsts(sources: Sequence[Sequence[tuple[Room, Tensor]]]) -> list[list[int]]:
    """The number of each room's first minute, when all known minutes of all rooms are numbered in order."""
    ends = iter(accumulate((len(rows) for source in sources for _, rows in source), initial=0))
    return [[next(ends) for _ in source] for source in sources]


def _labels(sources: Sequence[Sequence[tuple[Room, Tensor]]], robust: Robust, steps: int) -> Labels:
    """The labels of all known minutes, in the order of `_firsts`."""
    given = torch.cat([room.occupied[rows] for source in sources for room, rows in source]) > 0.5
    return Labels(given.long(), classes=2, robust=robust, steps=steps)


def _draw(
    source: Sequence[tuple[Room, Tensor]], firsts: Sequence[int], count: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, truth and number of `count` random minutes, from at most eight rooms, whose minutes begin at `firsts`."""
    chosen = torch.randperm(len(source))[:8].tolist()
    windows, occupied, numbers = [], [], []
    for number, each in enumerate(chosen):
        room, ends = source[each]
        share = count * (number + 1) // len(chosen) - count * number // len(chosen)
        at = torch.randint(len(ends), (share,))
        index = ends[at]
        windows.append(room.windows(index, length))
        occupied.append(room.occupied[index])
        numbers.append(firsts[each] + at)
    return torch.cat(windows), torch.cat(occupied), torch.cat(numbers)


def _augmented(windows: Tensor, recipe: Recipe) -> Tensor:
    """Standardised windows with noise, shifts and dropped features. A dropped feature is 0, its mean."""
    row = windows[:, :1]
    windows = windows + recipe.noise * torch.randn_like(windows) + recipe.shift * torch.randn_like(row)
    return windows * (torch.rand_like(row) >= recipe.left_out)


def _scaled(config: OccupancyConfig, rows: Tensor) -> OccupancyConfig:
    """The config with each feature's mean and standard deviation over known values `[N, F]`. A deviation up to 1e-3 becomes 1."""
    rows = rows.double()
    mean = rows.nanmean(0).nan_to_num(0.0)
    scale = (rows - mean).square().nanmean(0).sqrt().nan_to_num(1.0)
    scale = torch.where(scale > 1e-3, scale, 1.0)
    return replace(config, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))


def _numbers(column: pl.Series) -> Tensor:
    return column.fill_null(math.nan).to_torch()
