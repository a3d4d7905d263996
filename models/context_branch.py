"""A branch of a network that reads intervals of an asset's time, past, running and planned, by time-segmented attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tocsin.operators.relay import relay_attention

MOMENTS = (-1.0, -0.4, -0.15, -0.05, 0.0, 0.05, 0.15, 0.3, 0.5, 0.75, 1.0)
"""The moments that ask what holds at their time, as shares of the horizon; the present is 0."""
FINE, TAIL = 32.0, 0.5
"""Times are stretched to `asinh(FINE * t / horizon)`, so that the near ones count for more; `TAIL` is in that unit."""
BLUR, FARTHER = 0.003, 3.0
"""In training, intervals are moved at random: by this share of the horizon, and more by so many times their distance. Otherwise the
network learns the plans of single assets by heart."""


class ContextBranch(nn.Module):
    """Moments around now attend to context slots by their intervals; the result is added to a hidden layer.

    A slot is an interval: an embedding of its kind, its numbers, its ends, midpoint and half width. One more slot holds always and
    has no value. So without any interval the branch adds exactly nothing, and far from all intervals next to nothing.
    Source: Prompt Relay (arXiv 2604.10030) for the attention, see `operators.relay`. Moments, slots and the stretched time are this
    project's.

    Args:
        inputs: width of the layer's input, which the queries read.
        outputs: width of the layer's output.
        kinds, numbers: how many there are.
        horizon: in the unit of the slots' times.
        width, heads: of the attention.
        dropout: share of what is attended to that training drops.
    """

    usual: Tensor  # [N], of the numbers
    deviation: Tensor

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        kinds: int,
        numbers: int,
        horizon: float,
        width: int = 16,
        heads: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.horizon, self.heads, self.dropout = horizon, heads, dropout
        self.kind = nn.Embedding(kinds, width)
        self.slot = nn.Sequential(nn.Linear(width + 5 + numbers, 2 * width), nn.ReLU(), nn.Linear(2 * width, 2 * width))
        self.moment = nn.Parameter(0.3 * torch.randn(len(MOMENTS), width))
        self.query = nn.Linear(inputs, width, bias=False)
        self.always = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(len(MOMENTS) * width, outputs, bias=False)
        self.register_buffer("usual", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))

    def fit(self, slots: Tensor) -> None:
        """Take the scale of the numbers from training slots `[R, S, 3 + N]`."""
        numbers = slots[..., 3:][~slots[..., 0].isinf()].double()
        if len(numbers):
            self.usual, self.deviation = numbers.mean(0).float(), numbers.std(0, correction=0).clamp_min(1e-3).float()

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """What the intervals add.

        Args:
            x: `[B, inputs]`.
            slots: `[B, S, 3 + N]`: beginning and end from now on, number of the kind, numbers; absent ones begin at infinity.

        Returns:
            `[B, outputs]`; 0 in rows without an interval.
        """
        is_absent = slots[..., :1].isinf()  # [B, S, 1]
        if self.training:
            near = slots[..., :1].masked_fill(is_absent, 0).abs().clamp_max(self.horizon)
            moved = BLUR * torch.randn_like(near) * (self.horizon + FARTHER * near)
            slots = torch.cat([slots[..., :2] + moved, slots[..., 2:]], dim=-1)
        ends = slots[..., :2].clamp(-8 * self.horizon, 8 * self.horizon).masked_fill(is_absent, 0) / self.horizon
        stretched = torch.asinh(FINE * ends)
        middle, half = ends.mean(-1, keepdim=True), (ends[..., 1:] - ends[..., :1]) / 2
        numbers = (slots[..., 3:] - self.usual) / self.deviation
        known = [self.kind(slots[..., 2].long()), stretched, middle, half, torch.asinh(FINE * middle), numbers]
        k, v = self.slot(torch.cat(known, dim=-1).to(x.dtype)).chunk(2, dim=-1)  # each [B, S, width]
        always = self.always.expand(len(x), 1, -1)
        k, v = torch.cat([k, always.to(k)], dim=1), torch.cat([v, torch.zeros_like(always).to(v)], dim=1)
        q = self.query(x).unsqueeze(1) + self.moment  # [B, M, width]
        everywhere = stretched.new_tensor([-math.inf, math.inf]).expand(len(x), 1, 2)
        intervals = torch.cat([stretched.masked_fill(is_absent, math.inf), everywhere], dim=1)
        times = torch.asinh(FINE * torch.tensor(MOMENTS, device=x.device))
        q, k, v = (t.to(v.dtype).unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        found = relay_attention(q, k, v, times, intervals, tail=TAIL).transpose(1, 2).flatten(2)  # [B, M, width]
        return self.out(F.dropout(found, self.dropout, self.training).flatten(1))
