"""Training of an imputer on series of readings in which it opens gaps itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.imputer.config import ImputerConfig
from tocsin.models.imputer.gaps import BLOCKS, RANDOM, opened
from tocsin.models.imputer.levels import Levels
from tocsin.models.imputer.model import Imputer, Parts
from tocsin.models.imputer.network import start
from tocsin.models.imputer.plain import last_value
from tocsin.models.training import Optimization, begin

REOPENED = 100
"""Steps after which other gaps are opened."""
Fill = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: of the optimizer; the learning rate rises and decays to 0 over them.
        batch: windows per step, from random rows; each series is equally likely.
        learning_rate, weight_decay: of AdamW.
        share: least and largest share of missing readings.
        length: shortest and longest mean length of a stretch without a sensor, in rows.
        newest: weight of the last step's gaps: a stream fills these alone.
        shift: standard deviation of an offset of each sensor of a window, in standard deviations: assets differ in level.
    """

    steps: int = 1500
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    share: tuple[float, float] = (0.05, 0.6)
    length: tuple[float, float] = (4.0, 60.0)
    newest: float = 5.0
    shift: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A trained imputer and its errors, see `scores`."""

    imputer: Imputer
    figures: Mapping[str, float]

    @property
    def line(self) -> str:
        """The errors as text."""
        if not self.figures:
            return "imputer: no key is held out to judge it by"
        own, last = self.figures["imputer_error"], self.figures["imputer_error_last"]
        advice = "" if own < last else "; the last value is better here: use impute = 'last'"
        return (
            f"imputer: error {own:.3f} standard deviations in gaps of held-out keys, the last value {last:.3f}{advice}"
        )


def fit(
    series: Sequence[Tensor],
    config: ImputerConfig,
    recipe: Recipe | None = None,
    *,
    levels: Levels | None = None,
    held: Sequence[Tensor] = (),
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train on series of rows `[n, C] float64`, in order, NaN where missing.

    Args:
        levels: of the readings; None: fitted to the series.
        held: series that judge it.
        seed: of the weights, the rows and the gaps.
        progress: called with each step and its loss.
    """
    recipe = recipe or Recipe()
    begin(seed, threads=1)
    parts = Parts(config)
    parts.levels = levels or Levels.fit(torch.cat([*series]))
    network, generator = parts.network, torch.Generator().manual_seed(seed)
    optimization = Optimization(
        network, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    lengths = torch.tensor([len(each) for each in series])
    begins = lengths.cumsum(0) - lengths
    network.train()
    for step in range(recipe.steps):
        if step % REOPENED == 0:
            data = opened(series, parts.levels, None, share=recipe.share, length=recipe.length, generator=generator)
        chosen = torch.randint(len(series), (recipe.batch,))
        rows = begins[chosen] + (torch.rand(recipe.batch) * lengths[chosen]).long()
        batch = data.at(rows, config)
        given, truth = start(*batch[:3], stride=config.stride), batch.truth.transpose(1, 2)
        offset = recipe.shift * torch.randn(*truth.shape[:2], 1)
        found = network(given._replace(values=given.values + offset)) - offset
        weight = batch.missing.transpose(1, 2).float()
        weight[..., -1] *= recipe.newest
        error = F.smooth_l1_loss(found, truth.nan_to_num(0.0), reduction="none")
        loss = optimization.step((error * weight).sum() / weight.sum().clamp_min(1))
        if progress:
            progress(step, loss)
    imputer = Imputer(config, parts, torch.device("cpu"))
    figures = {}
    if held:
        judged: dict[str, Fill] = {"imputer_error": imputer, "imputer_error_last": last_value}
        for name, fill in judged.items():
            kinds = [
                errors(fill, held, imputer, kind, share=0.3, length=math.sqrt(math.prod(recipe.length)))
                for kind in (RANDOM, BLOCKS)
            ]
            figures[name] = sum(kinds) / len(kinds)
    return Outcome(imputer, figures)


def errors(
    fill: Fill,
    series: Sequence[Tensor],
    imputer: Imputer,
    kind: str,
    *,
    share: float,
    length: float,
    every: int = 5,
    seed: int = 0,
) -> float:
    """Root mean squared error of a causal fill in simulated gaps, in standard deviations; NaN without a gap.

    Args:
        imputer: gives levels and windows.
        every: rows from one that is judged to the next.
    """
    generator = torch.Generator().manual_seed(seed)
    data = opened(series, imputer.levels, kind, share=share, length=length, generator=generator)
    found = []
    for rows in torch.arange(0, len(data.first), every).split(1024):
        batch = data.at(rows, imputer.config)
        filled = _last(fill, batch, imputer)
        found.append((filled - batch.truth[:, -1])[batch.missing[:, -1]])
    return float(torch.cat(found).double().square().mean().sqrt())


def _last(fill: Fill, batch: tuple[Tensor, ...], imputer: Imputer) -> Tensor:
    windows, carried, age = batch[:3]
    if fill is imputer:
        return imputer.at_steps(windows, carried, age)
    return fill(windows, carried, age)
