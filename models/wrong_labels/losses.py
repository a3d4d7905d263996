"""Losses that few wrong labels do not dominate, of two or more classes. They take the logarithms of probabilities: a power of a
probability of 0 has no gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = -4.0
"""Stands for the logarithm of a target of 0 in the reverse cross-entropy."""


def two_classes(logits: Tensor) -> Tensor:
    """Logarithms of the probabilities of no and yes, `[..., 2]`, of the logits `[...]` of yes."""
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)


def two_targets(labels: Tensor) -> Tensor:
    """Targets of no and yes, `[..., 2]`, of labels `[...]`, 0 to 1."""
    return torch.stack([1 - labels, labels], -1)


def cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, `[...]`, of the logarithms of probabilities and of targets that sum to 1, both `[..., K]`."""
    return -(target * log_p).sum(-1)


def generalised_cross_entropy(log_p: Tensor, target: Tensor, q: float) -> Tensor:
    """`(1 - p^q) / q` of each class, weighted by its target: cross-entropy for q = 0, the absolute error for q = 1.

    It is at most `1 / q`, so a label that contradicts the network pulls little.
    Source: Zhang and Sabuncu (arXiv 1805.07836), eq. 6.

    Args:
        log_p: logarithms of probabilities, `[..., K]`.
        target: probabilities `[..., K]`; all but one are 0 where the label is hard.
        q: 0 to 1.

    Returns:
        `[...]`.

    Raises:
        ValueError: q is outside 0 to 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"expected a q from 0 to 1, got {q:g}")
    return cross_entropy(log_p, target) if q == 0 else -(target * torch.expm1(q * log_p)).sum(-1) / q


def symmetric_cross_entropy(log_p: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """`alpha` times cross-entropy plus `beta` times reverse cross-entropy, in which label and prediction change places.

    The logarithm of a target is at least `FLOOR`. Source: Wang et al. (arXiv 1908.06112), eq. 5 and 7.

    Args:
        log_p: logarithms of probabilities, `[..., K]`.
        target: probabilities `[..., K]`.

    Returns:
        `[...]`.
    """
    reverse = -(log_p.exp() * target.log().clamp(min=FLOOR)).sum(-1)
    return alpha * cross_entropy(log_p, target) + beta * reverse
