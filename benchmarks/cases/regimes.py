"""Fusion with regimes against torch's multi-head attention with one key per step, and the effect of normalising per regime."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases.meter import Row, compare
from tocsin.operators.regimes import RegimeFusion, decompose, fit_regimes, naive_decompose, regime_statistics

DIM, FEATURES, COUNT = 128, 14, 6


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    layer = RegimeFusion(dim=DIM, features=FEATURES, count=COUNT)
    plain = Plain(layer)
    for steps, batch in ((30, 8),) if quick else ((30, 128), (256, 16), (1024, 4)):
        trend, residual = torch.randn(batch, steps, DIM), torch.randn(batch, steps, FEATURES)
        regime = torch.randint(COUNT, (batch, steps))
        with torch.inference_mode():
            apart = (layer(trend, residual, regime) - plain(trend, residual, regime)).abs().max().item()
        yield compare(
            "regime fusion / nn.MultiheadAttention",
            f"{batch} windows of {steps:,} steps",
            lambda trend=trend, residual=residual, regime=regime: layer(trend, residual, regime),
            lambda trend=trend, residual=residual, regime=regime: plain(trend, residual, regime),
            quality=f"apart by {apart:.0e}",
        )
    x, regime, wear = engine(200 if quick else 2000)
    summaries = []
    for count, labels in ((COUNT, regime), (1, torch.zeros_like(regime))):
        mean, deviation = regime_statistics(x, labels, count)
        out = decompose(x[None], labels[None], mean, deviation, keep=0.95)
        z = (out.trend + out.residual)[0]
        between = z.var(0, correction=0) - regime_statistics(z, regime, COUNT)[1].square()[regime].mean(0)
        share = (between / z.var(0, correction=0)).mean().item()
        corr = torch.corrcoef(torch.cat((out.trend[0].T, wear[None])))[-1, :-1].mean().item()
        summaries.append(f"variance due to regimes {share:.0%}, the trend's correlation with wear {corr:.2f}")
    mean, deviation = regime_statistics(x, regime, COUNT)
    yield compare(
        "trend of a stretch / step by step",
        f"{len(x):,} steps",
        lambda: decompose(x[None], regime[None], mean, deviation, keep=0.95),
        lambda: naive_decompose(x[None], regime[None], mean, deviation, keep=0.95),
        quality=f"per regime: {summaries[0]}; normalised over all: {summaries[1]}",
    )


class Plain(nn.Module):
    """The same fusion with the same weights, with one key for each step's regime and one for its residual."""

    def __init__(self, layer: RegimeFusion) -> None:
        super().__init__()
        self.layer = layer
        self.attention = nn.MultiheadAttention(layer.dim, layer.heads, batch_first=True)
        parts = (layer.query, layer.key, layer.value)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            self.attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        self.attention.out_proj.load_state_dict(layer.out.state_dict())

    def forward(self, trend: Tensor, residual: Tensor, regime: Tensor) -> Tensor:
        layer = self.layer
        keys = torch.cat((layer.from_regime(layer.embedding(regime)), layer.from_residual(residual)), dim=1)
        context, _ = self.attention(trend, keys, keys, need_weights=False)
        return F.layer_norm(trend + context, (layer.dim,), layer.norm.weight, layer.norm.bias)


def engine(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Simulate an engine that switches between six regimes. Returns sensors `[T, F]`, fitted regimes `[T]`, and the hidden wear.

    Each regime has its own offset and gain for each sensor, with a far larger effect than wear.
    """
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(COUNT, 3, generator=generator) * torch.tensor([42.0, 0.84, 100.0])
    true = torch.randint(COUNT, (steps,), generator=generator)
    settings = points[true] + 1e-3 * torch.randn(steps, 3, generator=generator)
    wear = torch.linspace(0, 1, steps).square()
    offset, gain = (
        20 * torch.randn(COUNT, FEATURES, generator=generator),
        0.5 + torch.rand(COUNT, FEATURES, generator=generator),
    )
    noise = torch.randn(steps, FEATURES, generator=generator)
    x = 500 + offset[true] + gain[true] * (3 * wear.unsqueeze(1) + noise)
    return x, fit_regimes(settings, COUNT).of(settings), wear
