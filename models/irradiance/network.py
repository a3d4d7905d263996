"""The networks: a convolution and a BiLSTM over the hours, with self-attention or without, with the physics or without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tocsin.models.irradiance.inputs import BRIGHT, GUIDED, NIGHT, PLAIN, column, inputs

KINDS = ("physics", "attention", "plain")
"""`physics`: convolution and BiLSTM over the guided inputs; `attention`: the same with self-attention; `plain`: no physics."""
OUTPUTS = 4


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Sizes; those of the source are 64, 210, 64 and 0.104."""

    conv: int = 32
    lstm: int = 32
    hidden: int = 64
    heads: int = 4
    dropout: float = 0.1


class IrradianceNetwork(nn.Module):
    """A window of hours to the next hour's irradiance, the ends of an interval around it, and the logit of a ramp.

    Source: arXiv 2604.13455 (physics-guided CNN-BiLSTM). From there: the layers and their order, the night mask, and the two
    networks that it is compared with. This project's: the guided network predicts how the clearness changes, so that untrained it
    is smart persistence; the interval and the ramp; missing readings; narrower layers, since a site has 4,000 hours of day.

    Args:
        kind: of `KINDS`.
        size: widths.
    """

    def __init__(self, *, kind: str, size: NetworkSize) -> None:
        super().__init__()
        self.physics = kind != "plain"
        channels = len(GUIDED if self.physics else PLAIN)
        self.conv = nn.Sequential(
            nn.Conv1d(channels, size.conv, 3, padding=1),
            nn.BatchNorm1d(size.conv),
            nn.ReLU(),
            nn.Dropout(size.dropout),
        )
        self.lstm = nn.LSTM(size.conv, size.lstm, batch_first=True, bidirectional=True)
        wide = 2 * size.lstm
        self.attention = nn.MultiheadAttention(wide, size.heads, batch_first=True) if kind == "attention" else None
        self.head = nn.Sequential(
            nn.Dropout(size.dropout),
            nn.Linear(wide + channels, size.hidden),
            nn.ReLU(),
            nn.Linear(size.hidden, OUTPUTS),
        )
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[-1:], RARE)

    def forward(self, window: Tensor) -> Tensor:
        """Windows `[B, T, len(RAW)]`, NaN where unknown, to `[B, 4]`: irradiance, low and high end in W/m2, logit of a ramp."""
        given = inputs(window, physics=self.physics)  # [B, T, F]
        states, _ = self.lstm(self.conv(given.transpose(1, 2)).transpose(1, 2))  # [B, T, 2 * lstm]
        if self.attention is not None:
            states = states + self.attention(states, states, states, need_weights=False)[0]
        half = states.shape[-1] // 2
        last = torch.cat([states[:, -1, :half], states[:, 0, half:], given[:, -1]], dim=-1)  # each direction's last
        mid, below, above, ramp = self.head(last).unbind(-1)
        unit = self.unit(window)
        start = self.start(window)
        value = (start + mid).clamp(min=0)
        low, high = value - 0.2 * F.softplus(below), value + 0.2 * F.softplus(above)
        irradiance = [each * unit for each in (value, low, high)]
        return torch.stack([*irradiance, ramp], dim=-1)

    def unit(self, window: Tensor) -> Tensor:
        """What an output of 1 stands for, W/m2, `[B]`: the cloudless sky of the next hour, 0 at night."""
        if not self.physics:
            return torch.full_like(window[:, 0, 0], BRIGHT)
        ahead = column(window, "ahead")[:, -1]
        return torch.where(ahead >= NIGHT, ahead, torch.zeros_like(ahead))

    def start(self, window: Tensor) -> Tensor:
        """What the network adds to, `[B]`: the last clearness, or the last irradiance, in `unit`."""
        if self.physics:
            return column(window, "clearness")[:, -1].nan_to_num(USUAL)
        return column(window, "ghi")[:, -1].nan_to_num(0.0) / BRIGHT


RARE = -3.0
"""Logit of a ramp before training: one hour in twenty."""
USUAL = 0.7
"""Clearness where none is known yet."""
