"""The networks for remaining useful life. All map `Inputs` to a prediction and the two ends of an interval around it."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tocsin.models.context_branch import ContextBranch
from tocsin.models.rul.config import NetworkSize, RulConfig
from tocsin.operators.pooling import AdditiveAttentionPool
from tocsin.operators.regimes import Decomposed, RegimeFusion, decompose


class Inputs(NamedTuple):
    """What a network sees of the lives of B assets.

    Attributes:
        steps: `[B, L, C] float32`, standardised: bands of age, youngest first, or the last rows, oldest first; 0 where none is.
        mask: `[B, L] bool`, True where there is a row.
        regime: `[B, L] int64`, the regime of each row; 0 for bands.
        age: `[B, 3] float32`, age, its logarithm and that of the number of rows that are known, standardised.
        slots: `[B, S, 3 + N] float32`, intervals of the asset's time around now, in the unit of the order column, see
            `ContextBranch`; S may be 0.
    """

    steps: Tensor
    mask: Tensor
    regime: Tensor
    age: Tensor
    slots: Tensor


class Reader(Protocol):
    """Makes a `ContextBranch` for a layer."""

    def __call__(self, *, inputs: int, outputs: int) -> ContextBranch: ...


class Network(Protocol):
    """`Inputs` to `[B, 3]`: the RUL, how far below it the interval begins, how far above it ends, as shares of the cap."""

    def __call__(self, inputs: Inputs) -> Tensor: ...


class FadingNetwork(nn.Module):
    """Dense layers over the bands of age of `operators.fading`, and the age.

    A row's past is in the bands, which average out the noise of single readings, so that nothing recurrent has to be learned from
    a few dozen lives. Source: this project's.

    Args:
        steps: number of bands L.
        channels: number of sensors C.
        size: widths.
        context: what reads the intervals of an asset's time; None: nothing does.
    """

    def __init__(self, *, steps: int, channels: int, size: NetworkSize, context: Reader | None = None) -> None:
        super().__init__()
        self.head = Head((steps * channels + 3, *size.hidden), size.dropout, context)

    def forward(self, inputs: Inputs) -> Tensor:
        """Predict, `[B, 3]`."""
        return self.head(torch.cat([inputs.steps.flatten(1), inputs.age], dim=1), inputs.slots)


class RecurrentNetwork(nn.Module):
    """Two convolutions, a BiLSTM and additive attention over time, then dense layers.

    Source: arXiv 2604.13459. From the paper: the layers, their order (dropout before layer norm, as in its code) and the loss. This
    project's choices: narrower layers by default, standardised inputs, a mask for lives shorter than the window, and dense layers
    that also take the level and slope of each channel, because the gates would blur them.

    Args:
        channels: number of sensors C.
        size: widths.
        context: what reads the intervals of an asset's time; None: nothing does.
    """

    def __init__(self, *, channels: int, size: NetworkSize, context: Reader | None = None) -> None:
        super().__init__()
        first, second = size.conv
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
        self.head = Head((2 * size.lstm + 2 * channels, *size.head), size.dropout, context)

    def forward(self, inputs: Inputs) -> Tensor:
        """Predict, `[B, 3]`."""
        context, _ = self.attend(inputs)
        return self.head(torch.cat([context, level_and_slope(inputs)], dim=1), inputs.slots)

    def attend(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The context `[B, 2 * lstm]` and the attention `[B, T]`, each row of which sums to 1."""
        local = self.conv(inputs.steps.transpose(1, 2)).transpose(1, 2)  # [B, C, T] inside
        states = self.norm(self.lstm(local)[0])  # [B, T, 2 * lstm]
        context, attention = self.pool(states, inputs.mask)
        return context, attention


class FusionNetwork(nn.Module):
    """A branch for the trend attends to the operating regimes and the residuals; attention over time, then dense layers.

    A second head predicts where the trend goes. Training on it as well makes the attention look at what moves.

    Source: MAFN (arXiv 2604.10248), reconstructed from its abstract: trend, embedded regimes and residual noise, joined by
    multi-head attention; RUL and the future trajectory. The form of each part is this project's.

    Args:
        channels: number of sensors C.
        regimes: number of regimes.
        size: widths; `conv` of the trend's convolutions, `lstm` per direction.
        context: what reads the intervals of an asset's time; None: nothing does.
    """

    KEEP = 0.9
    """Share of the trend that a step keeps."""
    AHEAD, WEIGHT = 10, 0.1
    """How many rows ahead the trend is predicted; the weight of its squared error in the loss."""

    def __init__(self, *, channels: int, regimes: int, size: NetworkSize, context: Reader | None = None) -> None:
        super().__init__()
        wide = 2 * size.lstm
        self.conv = nn.Sequential(nn.Conv1d(channels, size.conv[1], 3, padding=1), nn.ReLU(), nn.Dropout(size.dropout))
        self.lstm = nn.LSTM(size.conv[1], size.lstm, batch_first=True, bidirectional=True)
        self.residual = nn.Sequential(nn.Conv1d(channels, size.conv[0], 3, padding=1), nn.ReLU())
        self.fusion = RegimeFusion(dim=wide, features=size.conv[0], count=regimes)
        self.pool = AdditiveAttentionPool(dim=wide, hidden=size.attention)
        self.head = Head((wide + 2 * channels, *size.head), size.dropout, context)
        self.ahead = nn.Linear(wide + 2 * channels, channels)

    def forward(self, inputs: Inputs) -> Tensor:
        """Predict, `[B, 3]`."""
        return self.both(inputs)[0]

    def both(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Predict, `[B, 3]`, and the change of each sensor's trend within `AHEAD` rows, `[B, C]`, in standard deviations."""
        seen = self._see(inputs)
        return self.head(seen, inputs.slots), self.ahead(seen)

    @classmethod
    def decomposed(cls, inputs: Inputs) -> Decomposed:
        """The trend and the residual of the steps, each `[B, L, C]`."""
        plain = inputs.steps.new_zeros(1, inputs.steps.shape[2])
        return decompose(inputs.steps, torch.zeros_like(inputs.regime), plain, plain + 1, keep=cls.KEEP)

    @classmethod
    def trajectory_loss(cls, predicted: Tensor, now: Inputs, later: Inputs, is_known: Tensor) -> Tensor:
        """The weighted squared error of a predicted change `[B, C]`, over the rows that have a row `AHEAD` of them (`[B] bool`)."""
        change = cls.decomposed(later).trend[:, -1] - cls.decomposed(now).trend[:, -1]
        error = (predicted - change).square().mean(1) * is_known
        return cls.WEIGHT * error.sum() / is_known.sum().clamp_min(1)

    def _see(self, inputs: Inputs) -> Tensor:
        parts = self.decomposed(inputs)
        trend = self.lstm(self.conv(parts.trend.transpose(1, 2)).transpose(1, 2))[0]
        residual = self.residual(parts.residual.transpose(1, 2)).transpose(1, 2)
        context, _ = self.pool(self.fusion(trend, residual, inputs.regime, inputs.mask), inputs.mask)
        return torch.cat([context, level_and_slope(inputs)], dim=1)


class Head(nn.Module):
    """Dense layers, then the RUL and the two widths of the interval around it.

    The interval learns from the layers but does not change them, so it costs the prediction nothing.

    Args:
        widths: of the input and the layers.
        dropout: share of the activations that training drops.
        context: adds to the first layer what the intervals of an asset's time say; None: nothing does.
    """

    SPREAD = 32

    def __init__(self, widths: tuple[int, ...], dropout: float, context: Reader | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.rul = nn.Linear(widths[-1], 1)
        self.spread = nn.Sequential(
            nn.Linear(widths[-1], self.SPREAD), nn.ReLU(), nn.Linear(self.SPREAD, 2), nn.Softplus()
        )

        self.context = context(inputs=widths[0], outputs=widths[1]) if context else None

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """`[B, widths[0]]` and `[B, S, 3 + N]` to `[B, 3]`, see `Network`."""
        hidden = self.layers[0](x)
        if self.context is not None:
            hidden = hidden + self.context(x, slots)
        hidden = self.layers[1:](hidden)
        return torch.cat([self.rul(hidden), self.spread(hidden.detach())], dim=1)


def build(config: RulConfig) -> nn.Module:
    """A network of the config's kind and sizes, with fresh weights."""
    channels, context = len(config.features), None
    if config.context:
        numbers, horizon = len(config.context_numbers), config.horizon
        context = partial(ContextBranch, kinds=len(config.context), numbers=numbers, horizon=horizon)
    if config.model == "recurrent":
        return RecurrentNetwork(channels=channels, size=config.network, context=context)
    if config.model == "fusion":
        return FusionNetwork(channels=channels, regimes=config.regimes, size=config.network, context=context)
    return FadingNetwork(steps=len(config.steps), channels=channels, size=config.network, context=context)


def level_and_slope(inputs: Inputs) -> Tensor:
    """Mean, and least-squares rise over half a window, of each channel over the rows that are there: `[B, 2C]`."""
    x, weight = inputs.steps, inputs.mask.to(inputs.steps).unsqueeze(-1)  # [B, T, 1]
    count = weight.sum(1)
    time = torch.linspace(-1, 1, x.shape[1], device=x.device, dtype=x.dtype)[:, None]
    middle = (time * weight).sum(1) / count.clamp_min(1)
    centred = (time - middle.unsqueeze(1)) * weight
    slope = (x * centred).sum(1) / centred.square().sum(1).clamp_min(1e-2)
    return torch.cat([(x * weight).sum(1) / count.clamp_min(1), slope], dim=1)


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


def rul_loss(
    shares: Tensor, target: Tensor, *, cap: float, asymmetry: float, coverage: float, bound: Tensor | None = None
) -> Tensor:
    """The loss of a prediction `[B, 3]` for labels `[B]`, which are capped, in cycles.

    Of the prediction: squared error mixed with a share `asymmetry` (0 to 1) of the asymmetric loss. The squared error is divided by
    100, so that both terms have the same scale: an error of 10 cycles costs 1 in the squared error and 1.2 (early) or 1.7 (late) in
    the asymmetric loss. These are for lives of about 200 cycles: errors are measured in 125ths of the cap. Of the interval's ends:
    the pinball loss of their quantiles. It does not move the prediction.

    Args:
        bound: `[B] bool`, where the label is a lower bound, since the asset did not fail: a prediction above it costs nothing, and
            nothing is learned there of the interval.
    """
    unit = cap / 125
    predicted, target = shares[:, 0] * cap / unit, target / unit
    if bound is not None:
        predicted = torch.where(bound & (predicted > target), target, predicted)
    squared = F.mse_loss(predicted, target) / 100
    loss = torch.lerp(squared, asymmetric_loss(predicted, target), asymmetry)
    below, above = predicted.detach() - shares[:, 1] * 125, predicted.detach() + shares[:, 2] * 125
    tail = (1 - coverage) / 2
    low, high = target - below, target - above
    pinball = torch.maximum(tail * low, (tail - 1) * low) + torch.maximum((1 - tail) * high, -tail * high)
    if bound is not None:
        pinball = pinball * ~bound
    return loss + pinball.mean() / 10
