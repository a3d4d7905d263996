"""Training targets of each frame, and the loss of the network's predictions against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.touch.truth import HANDS, KINDS, Touch

ALPHA, GAMMA = 0.9, 2.0
"""Of the focal loss: the weight of events, and the exponent that discounts predictions that are already right."""


class Targets(NamedTuple):
    """Targets per frame, hand (left, right) and kind (contact, release): `[..., L, 2, 2]` both.

    Args:
        labels: 1 at an event, a Gaussian to both sides of it, 0 beyond the radius.
        displacement: frames since the event, 0 beyond the radius.
    """

    labels: Tensor
    displacement: Tensor


class Losses(NamedTuple):
    """Losses of scores and displacements, which training weights. Displacement errors are in units of the radius, squared."""

    score: Tensor
    displacement: Tensor


def targets(touches: Iterable[Touch], length: int, *, first: int = 0, radius: int = 4) -> Targets:
    """Targets of frames `first` to `first + length - 1` of a clip: `[length, 2, 2]` each.

    A frame belongs to the closest event of its hand and kind, or to the earlier of two equally close ones. Source: HiCE
    (arXiv 2604.12343), whose Gaussian has the radius as its standard deviation.
    """
    labels, displacement = torch.zeros(2, length, len(HANDS), len(KINDS))
    nearest = torch.full_like(labels, radius + 1)
    frames = torch.arange(first, first + length, dtype=labels.dtype)
    for hand, kind, at in sorted(
        (t.hand, k, at) for t in touches for k, at in enumerate((t.contact, t.release)) if at is not None
    ):
        since = frames - at
        closer = since.abs() < nearest[:, hand, kind]
        nearest[closer, hand, kind] = since[closer].abs()
        displacement[closer, hand, kind] = since[closer]
        labels[closer, hand, kind] = torch.exp(-(since[closer] ** 2) / (2 * radius**2))
    return Targets(labels, displacement)


def holding(touches: Iterable[Touch], length: int) -> Tensor:
    """Whether each hand touches something in each frame of a clip, `[length, 2]`, 0 or 1."""
    holds = torch.zeros(length, len(HANDS))
    for touch in touches:
        holds[touch.contact : touch.release, touch.hand] = 1
    return holds


def numbers(touches: Sequence[Touch], length: int, *, first: int, radius: int = 4) -> Tensor:
    """The number of the label that each frame of a clip is trained on, `[length, 2, 2]`; -1 beyond the radius of an event.

    All frames around an event are one label, that of the touch's contact or release: the touches are numbered from `first` on.
    """
    found = torch.full((length, len(HANDS), len(KINDS)), -1)
    for number, touch in enumerate(touches):
        around = targets([touch], length, radius=radius).labels > 0
        found[around] = (2 * (first + number) + torch.arange(len(KINDS))).expand_as(found)[around]
    return found


def losses(
    logits: Tensor,
    displacement: Tensor,
    target: Targets,
    mask: Tensor,
    *,
    radius: int = 4,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Losses:
    """Losses of a prediction.

    Scores: `score`, averaged over present frames. Displacements: squared error, averaged over frames
    within the radius of an event only. HiCE averages it over all frames. Nearly all of them have no event to point at, and their
    scores do not count. Pulling their displacements to 0 would pull along the few that matter.

    Args:
        logits, displacement: `[..., L, 2, 2]`, from the network.
        target: from `targets`.
        mask: `[..., L] bool`; absent frames add nothing to the losses or the gradient.
        radius: radius of the targets.
        score: logits and labels -> the loss of each score, weighted; None: focal cross-entropy, HiCE's.
    """
    labels, target_displacement = target
    valid = mask[..., None, None].expand_as(labels)
    logits, displacement = torch.where(valid, logits, 0), torch.where(valid, displacement, 0)
    each = (_focal if score is None else score)(logits, labels)
    within = valid & (labels > 0)
    error = (displacement - target_displacement) / radius
    return Losses(_mean(each, valid), _mean(error.square(), within))


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    p_correct = labels * p + (1 - labels) * (1 - p)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return weight(labels) * (1 - p_correct) ** GAMMA * cross_entropy


def weight(labels: Tensor) -> Tensor:
    """How much a label `[...]` counts: events are few."""
    return ALPHA * labels + (1 - ALPHA) * (1 - labels)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of the values that `where` selects; 0 if it selects none."""
    return (values * where).sum() / where.sum().clamp(min=1)
