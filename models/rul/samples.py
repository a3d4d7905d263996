"""Each row of a life as a network sees it: with all rows before it in bands of age, or with the last ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives
from tocsin.models.rul.network import Inputs
from tocsin.models.rul.scaling import Scaling
from tocsin.operators.fading import Faded, fading_attention


class Samples:
    """The rows of lives as inputs of a network.

    Args:
        lives: the rows.
        config: of the model.
        scaling: fitted to the training lives.
    """

    def __init__(self, lives: Lives, config: RulConfig, scaling: Scaling) -> None:
        self.lives = lives
        self._window = config.window if config.model != "fading" else 0
        self._regime = scaling.regime(lives.rows)
        standardised = scaling.standardise(lives.rows[:, len(config.settings) :], self._regime)
        rows = lives.place + 1
        self._age = scaling.age(lives.age, rows.clamp(max=self._window) if self._window else rows)
        if self._window:
            self._steps = standardised.float()
        else:
            spans = (*config.spans, math.inf)
            parts = standardised.split(torch.bincount(lives.engine).tolist())
            bands = [fading_attention(life[None], spans)[0][0].float() for life in parts]
            self._steps = torch.cat(bands or [torch.empty(0, len(spans), len(config.features))])

    def __len__(self) -> int:
        return len(self.lives)

    def at(self, index: Tensor) -> Inputs:
        """The inputs for the rows at `index` `[B]`."""
        age, slots = self._age[index], self.lives.slots[index]
        if not self._window:
            steps = self._steps[index]
            mask = torch.ones(steps.shape[:2], dtype=torch.bool)
            return Inputs(steps, mask, torch.zeros_like(mask, dtype=torch.int64), age, slots)
        back = torch.arange(1 - self._window, 1)
        mask = self.lives.place[index].unsqueeze(1) >= -back
        rows = (index.unsqueeze(1) + back).clamp(min=0)
        return Inputs(self._steps[rows] * mask.unsqueeze(-1), mask, self._regime[rows] * mask, age, slots)

    def later(self, index: Tensor, rows: int) -> tuple[Inputs, Tensor]:
        """The inputs `rows` rows after those at `index` `[B]`, and whether their lives have such rows, `[B] bool`."""
        following = (index + rows).clamp(max=len(self) - 1)
        is_known = self.lives.place[following] == self.lives.place[index] + rows
        return self.at(following), is_known & (self.lives.engine[following] == self.lives.engine[index])


def windowed(window: Tensor, age: Tensor, slots: Tensor, config: RulConfig, scaling: Scaling) -> Inputs:
    """The inputs from the last rows of a stream.

    Args:
        window: `[B, T, S + C]`, oldest first; rows of NaN where a life is shorter.
        age: `[B]`.
        slots: `[B, S, 3 + N]`, see `Inputs`.
    """
    mask = ~window[..., -1].isnan()
    regime = scaling.regime(window) * mask
    standardised = scaling.standardise(window[..., len(config.settings) :], regime)
    steps = torch.where(mask.unsqueeze(-1), standardised, 0).float()
    return Inputs(steps, mask, regime, scaling.age(age, mask.sum(1)), slots)


def remembered(sums: Tensor, age: Tensor, slots: Tensor, scaling: Scaling) -> Inputs:
    """The inputs from the sums of a stream.

    The sums are in the sensors' units and apart by regime. So another model with the same spans and regimes reads them as well.

    Args:
        sums: `[B, K, M, C + 1]`, of the readings in each regime; the last channel counts them.
        age: `[B]`.
        slots: `[B, S, 3 + N]`, see `Inputs`.
    """
    counts = sums[..., -1]  # [B, K, M]
    mean, deviation = scaling.mean.unsqueeze(1), scaling.deviation.unsqueeze(1)  # [K, 1, C]
    standardised = ((sums[..., :-1] - counts.unsqueeze(-1) * mean) / deviation).sum(1)
    counts = counts.sum(1)
    steps = Faded(standardised, counts).bands().float()
    mask = torch.ones(steps.shape[:2], dtype=torch.bool, device=steps.device)
    return Inputs(steps, mask, torch.zeros_like(mask, dtype=torch.int64), scaling.age(age, counts[:, -1]), slots)
