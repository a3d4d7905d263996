"""The split of right and wrong labels: by two groups of losses, or by the cheapest assignment of samples to classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 50
"""Most rounds of expectation and maximisation, and of Sinkhorn's scaling."""
CLOSE = 1e-6
"""Change of the log-likelihood a sample, or of the marginals, at which rounds end."""
NARROW = 1e-4
"""Least variance of a group, in units of the losses' range, squared."""


class Mixture(NamedTuple):
    """Two groups of numbers: the share, the mean and the deviation of each, `[2]`, the lower one first."""

    share: Tensor
    mean: Tensor
    deviation: Tensor

    def lower(self, values: Tensor) -> Tensor:
        """The probability that values `[N]` are of the lower group.

        It never rises with the value. Beyond the means a wider group would take over on the narrow one's far side; values there
        count as the mean.
        """
        if not bool(self.mean[1] > self.mean[0]):
            return torch.ones_like(values)
        inside = values.clamp(float(self.mean[0]), float(self.mean[1]))
        return torch.softmax(_joint(inside, self), -1)[:, 0].to(values.dtype)


def mixture(values: Tensor) -> Mixture:
    """Fit two Gaussians to numbers `[N]` by expectation and maximisation. The start is at quantiles, so nothing is random.

    Source: the split of DivideMix (arXiv 2002.07394), whose values are the losses of samples.

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    if not len(values) or not bool(values.isfinite().all()):
        raise ValueError(
            f"expected finite values, got {len(values)} of which {int(values.isfinite().sum())} are finite"
        )
    x = values.double()
    least = float(NARROW * (x.max() - x.min()).square()) + 1e-12
    found = Mixture(
        x.new_tensor([0.5, 0.5]),
        torch.quantile(x[:: max(1, len(x) // 100_000)], x.new_tensor([0.1, 0.9])),
        x.std(correction=0).clamp(min=least**0.5).repeat(2),
    )
    before = -torch.inf
    for _ in range(ROUNDS):
        joint = _joint(x, found)
        likelihood = float(joint.logsumexp(-1).mean())
        if abs(likelihood - before) < CLOSE:
            break
        before = likelihood
        weight = torch.softmax(joint, -1)
        total = weight.sum(0).clamp(min=1e-9)
        mean = (weight * x[:, None]).sum(0) / total
        variance = (weight * (x[:, None] - mean).square()).sum(0) / total
        found = Mixture(total / len(x), mean, variance.clamp(min=least).sqrt())
    order = found.mean.argsort()
    return Mixture(*(part[order] for part in found))


def _joint(values: Tensor, of: Mixture) -> Tensor:
    """Logarithm of the density of values `[N]` and groups together, `[N, 2]`, without a constant."""
    away = (values.double()[:, None] - of.mean) / of.deviation
    return of.share.clamp(min=1e-12).log() - of.deviation.log() - away.square() / 2


def sinkhorn(cost: Tensor, rows: Tensor, columns: Tensor, *, blur: float = 0.1, rounds: int = ROUNDS) -> Tensor:
    """The plan of least cost that moves mass from rows to columns, with entropy, by Sinkhorn's scaling of logarithms.

    Source: Cuturi (arXiv 1306.0895).

    Args:
        cost: `[N, K]`.
        rows, columns: the mass of each, `[N]` and `[K]`; both sum to 1.
        blur: weight of the entropy, in the unit of the cost: 0 would give the sharp plan.

    Returns:
        `[N, K]`; its columns sum to `columns` exactly, its rows to `rows` within 1e-6 once it has converged.
    """
    kernel = -cost.double() / blur
    a, b = rows.double().clamp(min=1e-300).log(), columns.double().clamp(min=1e-300).log()
    left, right = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(rounds):
        left = a - (kernel + right).logsumexp(1)
        change = b - (kernel + left[:, None]).logsumexp(0) - right
        right = right + change
        if float((torch.expm1(-change).abs() * columns).sum()) < CLOSE:
            break
    return (kernel + left[:, None] + right).exp().to(cost.dtype)


def by_mixture(losses: Tensor) -> Tensor:
    """The probability that each label is right, `[N]`: that its loss `[N]` is of the lower of two groups."""
    return mixture(losses).lower(losses)


def by_transport(log_p: Tensor, given: Tensor, *, blur: float = 0.1) -> Tensor:
    """The share of each sample that goes to the class of its label, `[N]`, when samples go to classes at the least cost.

    The cost of a class is its negative log-probability. Each class takes as much as labels name it, so a network that prefers a
    class cannot give it everything. Source: the split of VisPrompt, as described by others; there a label is right if the
    class takes the largest share. The marginals and the share as a probability are this project's.

    Args:
        log_p: logarithms of predicted probabilities, `[N, K]`.
        given: labels `[N] int64`.
    """
    count, classes = log_p.shape
    columns = torch.bincount(given, minlength=classes).double() / count
    plan = sinkhorn(-log_p, torch.full((count,), 1 / count, dtype=torch.float64), columns, blur=blur)
    return (plan / plan.sum(1, keepdim=True)).gather(1, given[:, None])[:, 0]
