"""Standardisation of readings by operating regime, and what lies outside the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from tocsin.models.rul.data import Lives
from tocsin.operators.regimes import Regimes, fit_regimes, regime_statistics

LIMIT = 10.0
"""Standard deviations to which a standardised reading is limited, so that a single wrong reading does not fill a memory."""
REACH, MARGIN, OLDER = 1.5, 0.5, 1.25
"""How far beyond training a reading is still in its domain: times the reach of a regime; share of a sensor's range to each side;
times the greatest age."""


class Scaling(nn.Module):
    """Standardises the sensors of each regime; its buffers are stored with the weights.

    Args:
        settings, regimes, features: numbers S, K and C.
    """

    centres: Tensor  # [K, S]
    spread: Tensor  # [S], the divisor of each setting in distances
    reach: Tensor  # greatest distance of a training row from its regime's centre
    mean: Tensor  # [K, C]
    deviation: Tensor  # [K, C]
    lowest: Tensor  # [C], standardised, in training
    highest: Tensor
    oldest: Tensor  # greatest age in training
    usual_age: Tensor  # [3], mean of `_clock` over training rows
    age_deviation: Tensor  # [3]

    def __init__(self, *, settings: int, regimes: int, features: int) -> None:
        super().__init__()
        shapes = {"centres": (regimes, settings), "spread": (settings,), "reach": (), "oldest": ()}
        shapes |= {"mean": (regimes, features), "deviation": (regimes, features)}
        shapes |= {"lowest": (features,), "highest": (features,), "usual_age": (3,), "age_deviation": (3,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape, dtype=torch.float64))

    @classmethod
    def fit(cls, lives: Lives, *, settings: int, regimes: int, age: bool = True) -> Self:
        """Fit to training lives; the first `settings` columns are the settings. Without `age`, each age is standardised to 0.

        Raises:
            ValueError: the settings have fewer distinct rows than there are regimes.
        """
        given, readings = lives.rows[:, :settings], lives.rows[:, settings:]
        scaling = cls(settings=settings, regimes=regimes, features=readings.shape[1])
        if settings:
            fitted = fit_regimes(given, regimes)
            scaling.centres, scaling.spread = fitted.centres, fitted.scale
            scaling.reach = scaling._distance(given).max()
        regime = scaling.regime(lives.rows)
        scaling.mean, scaling.deviation = regime_statistics(readings, regime, regimes)
        standardised = scaling.standardise(readings, regime)
        scaling.lowest, scaling.highest = standardised.amin(0), standardised.amax(0)
        scaling.oldest = lives.age.max()
        clock = scaling._clock(lives.age, lives.place + 1)
        scaling.usual_age, scaling.age_deviation = clock.mean(0), clock.std(0).clamp_min(1e-3)
        if not age:
            scaling.oldest.fill_(math.inf)
            scaling.age_deviation.fill_(math.inf)
        return scaling

    def regime(self, rows: Tensor) -> Tensor:
        """The regime of each row `[..., S + C]`, `[...] int64`: that of the nearest centre."""
        if not self.spread.numel():
            return torch.zeros(rows.shape[:-1], dtype=torch.int64, device=rows.device)
        settings = rows[..., : self.spread.numel()].to(self.centres)
        return Regimes(self.centres, self.spread).of(settings.nan_to_num())

    def standardise(self, readings: Tensor, regime: Tensor) -> Tensor:
        """Readings `[..., C]` in standard deviations from their regime's mean, within `LIMIT`."""
        return ((readings - self.mean[regime]) / self.deviation[regime]).clamp(-LIMIT, LIMIT)

    def limit(self, readings: Tensor, regime: Tensor) -> Tensor:
        """Readings `[..., C]` in the sensors' units, within `LIMIT` standard deviations of their regime's mean."""
        mean, most = self.mean[regime], LIMIT * self.deviation[regime]
        return torch.minimum(torch.maximum(readings, mean - most), mean + most)

    def age(self, age: Tensor, rows: Tensor) -> Tensor:
        """Age `[B]`, its logarithm, and that of the number of `rows` `[B]` that are known, standardised: `[B, 3] float32`."""
        return ((self._clock(age, rows) - self.usual_age) / self.age_deviation).clamp(-LIMIT, LIMIT).float()

    @property
    def limits(self) -> dict[str, Tensor]:
        """What training readings were like: `lowest`, `highest` `[C]`, `oldest` and `reach` `[]`."""
        return {name: getattr(self, name) for name in ("lowest", "highest", "oldest", "reach")}

    def limits_with(self, lives: Lives) -> dict[str, Tensor]:
        """The limits of a site: those of training, widened to its own lives."""
        count, regime = self.spread.numel(), self.regime(lives.rows)
        standardised = self.standardise(lives.rows[:, count:], regime)
        return {
            "lowest": torch.minimum(self.lowest, standardised.amin(0)),
            "highest": torch.maximum(self.highest, standardised.amax(0)),
            "oldest": torch.maximum(self.oldest, lives.age.max()),
            "reach": torch.maximum(self.reach, self._distance(lives.rows[:, :count]).max()) if count else self.reach,
        }

    def is_known(self, rows: Tensor, age: Tensor, limits: Mapping[str, Tensor] | None = None) -> Tensor:
        """Whether training has seen the like of rows `[B, S + C]` at ages `[B]`, `[B] bool`.

        Args:
            limits: of each row's site, `[B, ...]` each; None: those of training.
        """
        count, of = self.spread.numel(), limits or self.limits
        standardised = (rows[:, count:] - self.mean[regime := self.regime(rows)]) / self.deviation[regime]
        margin = MARGIN * (of["highest"] - of["lowest"])
        known = (standardised >= of["lowest"] - margin) & (standardised <= of["highest"] + margin)
        known = known.all(1) & (age <= OLDER * of["oldest"])
        return known & (self._distance(rows[:, :count]) <= REACH * of["reach"] + 1e-9) if count else known

    def _clock(self, age: Tensor, rows: Tensor) -> Tensor:
        share = age / self.oldest
        return torch.stack([share, torch.log1p(99 * share.clamp_min(0)), torch.log1p(rows.to(share))], dim=-1)

    def _distance(self, settings: Tensor) -> Tensor:
        """The distance of settings `[N, S]` from the nearest regime's centre, `[N]`."""
        return ((settings.unsqueeze(-2) - self.centres) / self.spread).square().sum(-1).amin(-1).sqrt()
