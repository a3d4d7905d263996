"""The network of an imputer: convolutions along time, attention among patches of a sensor x time grid, squeeze-excitation.

Source: HELENA, which estimates a channel from its pilots: convolutions, patch-wise attention, squeeze-excitation, convolution.
Reconstructed from a summary. The sizes, the start from the nearest reading and the trust by age are this project's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.imputer.config import ImputerConfig
from tocsin.operators.grid import GridAttention

FAR = 1e6
"""Rows since the last reading of a sensor that has had none."""
_AGE = 4.0  # scales the logarithm of an age


class Start(NamedTuple):
    """A grid `[B, S, T]` whose gaps hold the nearest reading: its values, which cells are known, and rows to that reading."""

    values: Tensor
    known: Tensor
    age: Tensor


def start(windows: Tensor, carried: Tensor, age: Tensor, *, stride: int = 1) -> Start:
    """Fill each gap with the last reading before it, or the next one where there is none.

    Args:
        windows: `[B, T, S]`, NaN where missing.
        carried: `[B, S]`, the last known value of each sensor at the last step, which may be older than the window.
        age: `[B, S]`, rows since then.
        stride: rows from one step to the next.
    """
    grid = windows.transpose(1, 2)
    known, at = ~grid.isnan(), torch.arange(grid.shape[2], device=grid.device)
    before = torch.where(known, at, -1).cummax(2).values
    after = torch.where(known, at, len(at)).flip(2).cummin(2).values.flip(2)
    source = torch.where(before >= 0, before, after.clamp(max=len(at) - 1))
    has = known.any(2, keepdim=True)
    values = torch.where(has, grid.gather(2, source), carried.unsqueeze(2))
    rows = torch.where(has, stride * (at - source).abs(), age.unsqueeze(2))
    values, rows = values.clone(), rows.clone()
    values[..., -1], rows[..., -1] = carried, age  # between two steps there may be a later reading
    return Start(values, known, rows)


class ImputerNetwork(nn.Module):
    """Corrects the nearest reading of each gap; sensors share all weights but an embedding.

    The correction grows with the age of that reading, by a time that is learned for each sensor: a fresh one is trusted.
    """

    def __init__(self, config: ImputerConfig) -> None:
        super().__init__()
        channels, sensors = config.channels, len(config.columns)
        self.first = nn.Conv2d(3, channels, (1, 3), padding=(0, 1))
        self.second = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.sensor = nn.Parameter(0.1 * torch.randn(channels, sensors, 1))
        self.time = nn.Parameter(0.1 * torch.randn(channels, 1, config.times))
        self.attention = nn.ModuleList(
            GridAttention(channels=channels, heads=config.heads, patch=(1, config.patch)) for _ in range(config.layers)
        )
        self.mix = nn.ModuleList(nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)) for _ in range(config.layers))
        self.out = nn.Conv2d(channels, 1, 1)
        self.trust = nn.Parameter(torch.full((sensors, 1), math.log(config.stride)))  # log of rows
        for parameter in self.out.parameters():  # it starts as the nearest reading
            nn.init.zeros_(parameter)

    def forward(self, given: Start) -> Tensor:
        """The grid `[B, S, T]`, filled; known cells keep their values."""
        values, known, age = given
        x = torch.stack([values, known.float(), torch.log1p(age) / _AGE], dim=1)  # [B, 3, S, T]
        x = F.relu(self.second(F.relu(self.first(x)))) + self.sensor + self.time
        for attention, mix in zip(self.attention, self.mix, strict=True):
            x = attention(x)
            x = x + F.relu(mix(x))
        correction = self.out(x)[:, 0] * (1 - torch.exp(-age * torch.exp(-self.trust)))
        return torch.where(known, values, values + correction)
