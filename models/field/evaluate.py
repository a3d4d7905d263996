"""Figures of estimated fields, and what they have to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tocsin.models.field.hall import KINDS
from tocsin.models.field.inputs import SCALE, Inputs, Scaled
from tocsin.models.field.interpolation import inverse_distance, nearest

WITHIN = 1.645
"""Standard deviations around the estimate that hold 90 % of a normal distribution."""
POWERS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
IDW = "inverse distance"
WALL = 1.0
"""Length that a wall of strength 1 adds to a ray, in half the root of the area."""


def baselines(inputs: Inputs, power: Sequence[float]) -> dict[str, Tensor]:
    """Estimates without a network, `[B, N]` each.

    Args:
        power: of inverse-distance weighting, by kind.
    """
    given = Scaled.of(inputs)
    at = (given.places, given.sensors, given.readings, given.there)
    blocked = given.blocked[:, given.sensors.shape[1] :] * WALL

    def weighted(blocked: Tensor | None) -> Tensor:
        each = torch.stack([inverse_distance(*at, power=one, blocked=blocked) for one in power])
        return each[inputs.kind, torch.arange(len(inputs))]

    found = {
        IDW: weighted(None),
        "inverse distance around walls": weighted(blocked),
        "nearest sensor": nearest(*at),
        "gaussian process": given.interpolated(given.readings),
    }
    return {name: values * given.deviation + given.mean for name, values in found.items()}


def rmse(estimate: Tensor, truth: Tensor, kind: Tensor) -> dict[str, float]:
    """The RMSE of each kind in its unit, and `error`, that of all together in shares of `Kind.scale`.

    Args:
        estimate, truth: `[B, N]`; NaN where it is not known.
        kind: `[B]`.
    """
    wrong = (estimate - truth).double().square()
    found = {}
    for number, name in enumerate(KINDS):
        of_kind = wrong[kind == number]
        known = ~of_kind.isnan()
        found[f"rmse_{name}"] = float(of_kind[known].mean().sqrt()) if known.any() else math.nan
    shares = wrong / SCALE[kind].double().square().unsqueeze(1)
    known = ~shares.isnan()
    return {"error": float(shares[known].mean().sqrt()) if known.any() else math.nan, **found}


def figures(found: Mapping[str, Tensor], truth: Tensor, kind: Tensor) -> dict[str, float]:
    """The figures of a model.

    Args:
        found: estimates `[B, N]` by name: `model` and `IDW`; and `spread`, the model's.
    """
    own = rmse(found["model"], truth, kind)
    return {
        **own,
        "ratio": ratio(own, rmse(found[IDW], truth, kind)),
        "coverage": coverage(found["model"], found["spread"], truth),
    }


def coverage(estimate: Tensor, spread: Tensor, truth: Tensor) -> float:
    """The share of the truth within `WITHIN` standard deviations."""
    known = ~(estimate + truth).isnan()
    held = (estimate - truth).abs() <= WITHIN * spread
    return float(held[known].double().mean()) if known.any() else math.nan


def ratio(figures: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """The error relative to a reference's: the mean over the kinds that are there of the ratios of their RMSE."""
    each = [figures[f"rmse_{name}"] / reference[f"rmse_{name}"] for name in KINDS if reference[f"rmse_{name}"] > 0]
    return sum(each) / len(each) if each else math.nan
