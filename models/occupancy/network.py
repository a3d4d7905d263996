"""The LSTM with additive attention that predicts whether a room is occupied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tocsin.models.occupancy.config import NetworkSize
from tocsin.operators.pooling import AdditiveAttentionPool


class OccupancyNetwork(nn.Module):
    """Patches of the window through an LSTM, additive attention over its states, and one dense layer.

    Source: arXiv 2604.14841 (LSTM with attention on CO2, its slope, temperature, humidity), whose code is not public. This
    project's choices: a convolution that reads `patch` rows at once, and a dense layer that takes the last state and the last row
    in addition to the context, because the latest minute counts most.

    Args:
        channels: number of features F.
        size: sizes of the layers.
    """

    def __init__(self, *, channels: int, size: NetworkSize) -> None:
        super().__init__()
        width = size.lstm
        self.patches = nn.Conv1d(channels, width, size.patch, stride=size.patch)
        self.lstm = nn.LSTM(width, width, size.layers, batch_first=True)
        self.pool = AdditiveAttentionPool(dim=width, hidden=size.attention)
        self.now = nn.Linear(channels, width)
        self.head = nn.Sequential(nn.Dropout(size.dropout), nn.Linear(3 * width, 1))

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from standardised windows.

        Args:
            windows: `[B, T, F] float32`, oldest row first. NaN marks unknown values, which count as the mean. T is a multiple
                of the patch, B at least 1.

        Returns:
            The logit of "occupied at the window's last row" `[B]`, and the weight of each patch `[B, T / patch]`.
        """
        windows = windows.nan_to_num(0.0)
        patches = torch.tanh(self.patches(windows.transpose(1, 2)).transpose(1, 2))
        states, _ = self.lstm(patches)
        context, weights = self.pool(states)
        features = torch.cat([context, states[:, -1], torch.tanh(self.now(windows[:, -1]))], 1)
        return self.head(features)[:, 0], weights
