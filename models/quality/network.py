"""The network: a gated convolution over time, attention pooling, and attention from each channel to the histories of all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.features import FACTS, RELATIONS, SIGNALS, Inputs

DILATIONS = (1, 2, 4)
HIDDEN = 16
"""Width of the layers that see relations."""
NONE = -30.0
"""Logit of the reasons of a channel that cannot be judged."""


class GatedConvolution(nn.Module):
    """A residual convolution along time whose output is weighed by a learned gate: the network looks where the gate is open."""

    def __init__(self, width: int, *, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.gate = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, D, T]` to the same."""
        found = F.gelu(self.conv(self.norm(x)))
        return x + found * torch.sigmoid(self.gate(found))


class QualityNetwork(nn.Module):
    """Windows of any number of channels to logits of what is wrong.

    Source: the attention-gated CNN of arXiv 2604.15059 (quality of MRI slices): a hierarchical CNN, multi-head cross-attention, and
    a fully connected head. This project's: time in place of the picture, weights shared by the channels, gates in the
    convolutions, pooling by attention, the cross-attention from the channels' windows to the channels' histories, with a bias from
    how far a window fits another channel's history, and the reasons.

    Args:
        width: of all layers.
        heads: of the pooling and of the cross-attention; they divide `width`.
    """

    def __init__(self, *, width: int = 32, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, part = heads, width // heads
        self.past = nn.Sequential(nn.Linear(FACTS, width), nn.GELU(), nn.Linear(width, width))
        self.start = nn.Conv1d(len(SIGNALS), width, 5, padding=2)
        self.blocks = nn.ModuleList(GatedConvolution(width, dilation=dilation) for dilation in DILATIONS)
        self.score = nn.Linear(width, heads)
        self.mix = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.query, self.key, self.value = (
            nn.Linear(width, width),
            nn.Linear(2 * width, width),
            nn.Linear(2 * width, width),
        )
        self.bias = nn.Sequential(nn.Linear(RELATIONS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, heads))
        self.relation = nn.Sequential(nn.Linear(RELATIONS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, heads * part))
        self.gate, self.out = nn.Linear(width, width), nn.Linear(2 * width, width)
        self.channel = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(REASONS))
        )
        self.window = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, len(REASONS) + 1)
        )

    def forward(self, given: Inputs) -> tuple[Tensor, Tensor]:
        """Returns logits of `clean` and each reason `[B, 1 + K]`, and of each reason for each channel `[B, C, K]`."""
        past = self.past(given.facts)  # [B, C, D]
        states = self._over_time(given.signals, past)
        states = self.dropout(states)
        states = states + self._across(states, past, given)
        channel = self.channel(states).masked_fill(~given.alive.unsqueeze(-1), NONE)
        judged = given.alive.unsqueeze(-1)
        mean = (states * judged).sum(1) / judged.sum(1).clamp(min=1)
        most = states.masked_fill(~judged, torch.finfo(states.dtype).min).amax(1) * judged.any(1)
        window = self.window(torch.cat([mean, most], -1))
        return torch.cat([window[:, :1], window[:, 1:] + torch.logsumexp(channel, 1)], 1), channel

    def _over_time(self, signals: Tensor, past: Tensor) -> Tensor:
        """Each channel's window as one vector, `[B, C, D]`."""
        batch, width = signals.shape[:2]
        x = self.start(signals.flatten(0, 1).transpose(1, 2)) + past.flatten(0, 1).unsqueeze(-1)  # [B C, D, T]
        x = F.max_pool1d(self.blocks[0](x), 2)
        for block in self.blocks[1:]:
            x = block(x)
        x = x.transpose(1, 2)  # [B C, T / 2, D]
        weights = self.score(x).softmax(1).unsqueeze(-1)
        pooled = (weights * x.unflatten(-1, (self.heads, -1))).sum(1).flatten(1)
        both = torch.cat([pooled, x.amax(1)], -1).unflatten(0, (batch, width))
        return F.gelu(self.mix(torch.cat([both, past], -1)))

    def _across(self, states: Tensor, past: Tensor, given: Inputs) -> Tensor:
        """What the channels' histories say about each channel's window, `[B, C, D]`."""
        theirs = torch.cat([states, past], -1)
        q = self.query(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, C, D / H]
        k, v = (f(theirs).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.key, self.value))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.bias(given.relations).movedim(
            -1, 1
        )  # [B, H, C, C]
        scores = scores.masked_fill(~given.alive[:, None, None, :], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        pairs = self.relation(given.relations).unflatten(-1, (self.heads, -1))  # [B, C, C, H, D / H]
        found = weights @ v + torch.einsum("bhij,bijhd->bhid", weights, pairs)
        found = found.transpose(1, 2).flatten(2) * torch.sigmoid(self.gate(states))
        return self.out(torch.cat([found, states], -1))
