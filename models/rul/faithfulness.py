"""Whether explanations are about the prediction: the effect of deleting what they rank highest, and agreement with gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tocsin.models.rul.explainer import Explainer, integrated_gradients
from tocsin.models.rul.network import Inputs, Network

SHARE = 0.1


def faithfulness(network: Network, explainer: Explainer, inputs: Inputs, *, cap: float) -> dict[str, float]:
    """How faithful explanations are.

    Returns:
        `deleted`: by how many cycles the prediction moves if the `SHARE` of sensors and steps that an explanation ranks highest are
        set to their mean; `deleted_random`: the same share at random; `agreement`: Spearman's correlation of the size of an
        explanation's values with that of integrated gradients. All are means over the rows.
    """
    maps, gradients = explainer(inputs).abs().flatten(1), integrated_gradients(network, inputs).abs().flatten(1)
    count = math.ceil(SHARE * maps.shape[1])
    chance = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved = [_moved(network, inputs, ranks.topk(count).indices) * cap for ranks in (maps, chance)]
    return {"deleted": moved[0], "deleted_random": moved[1], "agreement": _spearman(maps, gradients)}


def _moved(network: Network, inputs: Inputs, deleted: Tensor) -> float:
    """How far the prediction moves without the values at flat places `[B, K]`, a share of the cap."""
    steps = inputs.steps.flatten(1).scatter(1, deleted, 0.0).view_as(inputs.steps)
    return float((network(inputs)[:, 0] - network(inputs._replace(steps=steps))[:, 0]).abs().mean())


def _spearman(one: Tensor, other: Tensor) -> float:
    """The mean over rows `[B, N]` of the correlation of ranks."""
    ranks = torch.stack([values.argsort(1).argsort(1).double() for values in (one, other)])
    ranks = ranks - ranks.mean(2, keepdim=True)
    return float((ranks.prod(0).sum(1) / ranks.square().sum(2).prod(0).sqrt()).mean())
