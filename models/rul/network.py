"""The CNN-BiLSTM-attention network for remaining useful life, and its asymmetric loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tocsin.models.rul.config import NetworkSize
from tocsin.operators.pooling import AdditiveAttentionPool


class RulNetwork(nn.Module):
    """Two convolutions, a BiLSTM and additive attention over time, then three dense layers.

    Source: arXiv 2604.13459. From the paper: the layers, their order (dropout before layer norm, as in its code) and
    the loss. This project's choices: narrower layers by default, standardised inputs, an output in units of `cap`, and
    dense layers that also take the level and slope of each channel, because the gates would blur them.

    Args:
        channels: number of sensors C.
        cap: largest RUL in the labels; the head predicts a share of it.
        size: widths.
    """

    def __init__(self, *, channels: int, cap: float, size: NetworkSize) -> None:
        super().__init__()
        first, second = size.conv
        self.cap = cap
        self.conv = nn.Sequential(
            nn.Conv1d(channels, first, 3, padding=1, bias=False),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Dropout(size.dropout),
            nn.Conv1d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm1d(second),
            nn.ReLU(),
            nn.Dropout(size.dropout),
        )
        self.lstm = nn.LSTM(second, size.lstm, batch_first=True, bidirectional=True)
        self.norm = nn.Sequential(nn.Dropout(size.dropout), nn.LayerNorm(2 * size.lstm))
        self.pool = AdditiveAttentionPool(dim=2 * size.lstm, hidden=size.attention)
        wide, narrow = size.head
        output = nn.Linear(narrow, 1)
        self.head = nn.Sequential(
            nn.Linear(2 * size.lstm + 2 * channels, wide),
            nn.ReLU(),
            nn.Dropout(size.dropout),
            nn.Linear(wide, narrow),
            nn.ReLU(),
            output,
        )
        nn.init.constant_(output.bias, 0.6)  # near the mean label, so that the first epochs need not climb there

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from standardised windows.

        Args:
            windows: `[B, T, C] float32`, zero mean and unit scale per channel.

        Returns:
            RUL `[B]`, not clamped, in the unit of the labels, and attention `[B, T]`, each row summing to 1.
        """
        local = self.conv(windows.transpose(1, 2)).transpose(1, 2)  # [B, C, T] inside
        states = self.norm(self.lstm(local)[0])  # [B, T, 2 * lstm]
        context, attention = self.pool(states)
        features = torch.cat([context, level_and_slope(windows)], dim=1)  # [B, 2 * lstm + 2 * C]
        return self.head(features).squeeze(-1) * self.cap, attention


def level_and_slope(windows: Tensor) -> Tensor:
    """Mean, and least-squares rise over half a window, of each channel: `[B, T, C]` to `[B, 2C]`."""
    steps = torch.linspace(-1, 1, windows.shape[1], device=windows.device)[:, None]
    slope = (windows * steps).sum(1) / steps.square().sum()
    return torch.cat([windows.mean(1), slope], dim=1)


def asymmetric_loss(predicted: Tensor, target: Tensor, *, early: float = 13.0, late: float = 10.0) -> Tensor:
    """Mean exponential loss that penalises a late warning (predicted above target) more than an early one.

    For an error `e = predicted - target` the loss is `exp(-e/early) - 1` if `e < 0`, else `exp(e/late) - 1`. This is
    NASA's scoring function and the loss of arXiv 2604.13459. Beyond an exponent of 4 the loss continues along its
    tangent (this project's choice), so that the first training steps neither overflow nor lose their gradient.

    Args:
        predicted, target: `[B]`, same unit (cycles).
        early, late: error at which the loss reaches e - 1.
    """
    error = predicted - target
    exponent = torch.maximum(error / late, -error / early)
    inner = exponent.clamp(max=4.0)
    return (torch.exp(inner) * (1 + exponent - inner) - 1).mean()


def rul_loss(predicted: Tensor, target: Tensor, *, asymmetry: float) -> Tensor:
    """Squared error mixed with a share `asymmetry` (0 to 1) of the asymmetric loss; inputs are `[B]`, in cycles.

    The squared error is divided by 100, so that both terms have the same scale: an error of 10 cycles costs 1 in the
    squared error and 1.2 (early) or 1.7 (late) in the asymmetric loss.
    """
    squared = F.mse_loss(predicted, target) / 100
    return torch.lerp(squared, asymmetric_loss(predicted, target), asymmetry)
