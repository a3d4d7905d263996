"""What the network should say of each frame, and how far it is from that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.touch.truth import HANDS, KINDS, Touch

ALPHA, GAMMA = 0.9, 2.0
"""Of the focal loss: weight of events, and how much less what is right already counts."""
Q = 0.7
"""Of the generalised cross-entropy: 0 would be cross-entropy, 1 the absolute error."""


class Targets(NamedTuple):
    """What is right, `[..., L, 2, 2]` both, a hand (left, right) and kind (contact, release) each.

    Args:
        labels: 1 at an event, falling to both sides as a Gaussian, 0 beyond the radius.
        displacement: frames since the event, 0 beyond the radius.
    """

    labels: Tensor
    displacement: Tensor


class Losses(NamedTuple):
    """How far off scores and displacements are; a training weighs them. Displacements are in units of the radius, squared."""

    score: Tensor
    displacement: Tensor


def targets(touches: Iterable[Touch], length: int, *, first: int = 0, radius: int = 4) -> Targets:
    """What should be said of frames `first` to `first + length - 1` of a clip: `[length, 2, 2]` each.

    A frame belongs to the closest event of its hand and kind, of two to the earlier. Source: HiCE (arXiv 2604.12343), whose
    Gaussian has the radius for its deviation.
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


def losses(
    logits: Tensor, displacement: Tensor, target: Targets, there: Tensor, *, radius: int = 4, q: float | None = None
) -> Losses:
    """How far off a judgement is.

    Scores: focal cross-entropy with soft labels, the mean over frames that are there. Displacements: squared error, the mean
    over frames within the radius of an event alone. HiCE takes it over all frames; the others, nearly all, have nothing to
    point at, their scores do not count, and pulling them to 0 would pull the few that matter along.

    Args:
        logits, displacement: `[..., L, 2, 2]`, of the network.
        target: from `targets`.
        there: `[..., L] bool`; other frames count for nothing, in the gradient too.
        radius: of the targets.
        q: for labels that are not to be trusted: generalised cross-entropy (Zhang and Sabuncu, arXiv 1805.07836) in place of the
            focal one, say `Q`. A frame's loss is then bounded, and few wrong labels do not win over many right ones; soft labels
            are learned as sharper than they are.
    """
    labels, wanted = target
    each = there[..., None, None].expand_as(labels)
    logits, displacement = torch.where(each, logits, 0), torch.where(each, displacement, 0)
    score = _focal(logits, labels) if q is None else _generalised(logits, labels, q)
    within = each & (labels > 0)
    off = (displacement - wanted) / radius
    return Losses(_mean(score, each), _mean(off.square(), within))


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    right = labels * p + (1 - labels) * (1 - p)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return _weight(labels) * (1 - right) ** GAMMA * cross_entropy


def _generalised(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """`(1 - p^q) / q`, of each answer as far as it is right. By logarithms: a power of 0 has no gradient."""
    yes, no = (-torch.expm1(q * F.logsigmoid(sign * logits)) / q for sign in (1, -1))
    return _weight(labels) * (labels * yes + (1 - labels) * no)


def _weight(labels: Tensor) -> Tensor:
    return ALPHA * labels + (1 - ALPHA) * (1 - labels)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Zero of nothing."""
    return (values * where).sum() / where.sum().clamp(min=1)
