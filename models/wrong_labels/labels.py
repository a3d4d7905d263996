"""Labels of which some may be wrong: what the network said of each sample, whether its label is right, and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.wrong_labels.losses import cross_entropy, generalised_cross_entropy, symmetric_cross_entropy
from tocsin.models.wrong_labels.split import by_mixture, by_transport

FEW = 8
"""Labels of a class below which all classes are split together."""
LEAST = 1e-3
"""Least probability in a sample's loss and in the costs of classes."""


@dataclass(frozen=True, kw_only=True)
class Robust:
    """How to train with wrong labels.

    A robust loss first. Then labels are split again and again, and count by their probability to be right: right ones have the
    training's own loss, the rest a robust one, or the network's own earlier predictions as soft labels.

    Source: the recipe of VisPrompt, as described by others. The memory of predictions, by which nothing is computed twice, is this
    project's, after temporal ensembling (arXiv 1610.02242).

    Args:
        loss: of the warm-up, and of labels that are not right.
        q: of the generalised cross-entropy.
        alpha, beta: of the symmetric cross-entropy.
        split: how right labels are told from wrong ones; None: never, so the robust loss stays.
        warm: share of the steps before the first split.
        start: the loss before it: the robust one, or the training's own, where few labels must pull hard to be learned at all.
        splits: number of splits over the other steps.
        rest: what labels that are not right train: the robust loss, or the network's own earlier predictions as far as it is sure.
        memory: share of a sample's earlier prediction that is kept each time it is seen.
    """

    loss: Literal["cross-entropy", "generalised", "symmetric"] = "generalised"
    q: float = 0.7
    alpha: float = 0.5
    beta: float = 1.0
    split: Literal["mixture", "transport"] | None = "mixture"
    warm: float = 0.15
    start: Literal["robust", "own"] = "robust"
    splits: int = 10
    rest: Literal["robust", "own"] = "robust"
    memory: float = 0.7

    def robust(self, log_p: Tensor, target: Tensor) -> Tensor:
        """The robust loss, `[...]`, of the logarithms of probabilities and of targets, both `[..., K]`."""
        if self.loss == "generalised":
            return generalised_cross_entropy(log_p, target, self.q)
        if self.loss == "symmetric":
            return symmetric_cross_entropy(log_p, target, self.alpha, self.beta)
        return cross_entropy(log_p, target)


class Labels:
    """The labels of a training, some of which may be wrong.

    Args:
        given: `[N] int64`, one for each sample. Copies of a picture, which share a label, are one sample.
        classes: number of classes.
        robust: the recipe.
        steps: of the training.
        trusted: `[N] bool`, labels that are known to be right; None: none is.

    Attributes:
        given: the labels.
        right: `[N]`, the probability of each label to be right; 0 where a sample was not judged yet.
        judged: whether there was a split.
    """

    def __init__(
        self, given: Tensor, *, classes: int, robust: Robust, steps: int, trusted: Tensor | None = None
    ) -> None:
        self.given, self._robust = given, robust
        self._trusted = torch.zeros(len(given), dtype=torch.bool) if trusted is None else trusted
        self._said = torch.full((len(given), classes), torch.nan)  # mean prediction of each sample
        self.right = self._trusted.float()
        first = round(robust.warm * steps)
        every = max(1, (steps - first) // max(robust.splits, 1))
        self._due = set(range(first, steps, every)) if robust.split else set[int]()
        self._step = 0
        self.judged = False

    @property
    def seen(self) -> Tensor:
        """Whether each sample was in a batch yet, `[N] bool`."""
        return ~self._said[:, 0].isnan()

    def loss(self, at: Tensor, log_p: Tensor, *, target: Tensor | None = None, own: Tensor | None = None) -> Tensor:
        """The loss of each sample of a batch, `[B]`. To be called once a step.

        Args:
            at: the samples' numbers, `[B] int64`; -1: a sample that is never judged and keeps the loss of the warm-up.
            log_p: logarithms of the predicted probabilities, `[B, K]`.
            target: soft labels `[B, K]`; None: those given.
            own: `[B]`, the training's own loss, for right labels; None: cross-entropy.
        """
        if self._step in self._due:
            self._split()
            self.judged = True
        self._step += 1
        if target is None:
            target = F.one_hot(self.given[at], log_p.shape[-1]).to(log_p.dtype)
        if own is None:
            own = cross_entropy(log_p, target)
        start = torch.full_like(own, float(self._robust.start == "own"))
        right = torch.where(at < 0, start, self.right[at].to(own.dtype))
        if not self.judged:
            right = torch.maximum(right, start)
        rest = self._robust.robust(log_p, target)
        if self._robust.rest == "own" and self.judged:
            known = (at >= 0) & self.seen[at]
            said = self._said[at].to(log_p.dtype).nan_to_num(1 / log_p.shape[-1])
            sure = torch.where(known, (said.amax(-1) - 1 / log_p.shape[-1]) / (1 - 1 / log_p.shape[-1]), 0)
            rest = sure * cross_entropy(log_p, said) + (1 - sure) * rest
        self._remember(at, log_p.detach().exp())
        return right * own + (1 - right) * rest

    def _remember(self, at: Tensor, p: Tensor) -> None:
        """Remember predictions `[B, K]`; those of one sample by their mean."""
        numbers, which = at[at >= 0].unique(return_inverse=True)
        sums = torch.zeros(len(numbers), p.shape[-1]).index_add(0, which, p[at >= 0].float())
        mean = sums / which.bincount(minlength=len(numbers))[:, None]
        earlier = self._said[numbers]
        kept = self._robust.memory * earlier + (1 - self._robust.memory) * mean
        self._said[numbers] = torch.where(earlier.isnan(), mean, kept)

    def _split(self) -> None:
        """Judge again which labels are right. Samples that were not seen yet are not judged, and do not count as right."""
        where = (self.seen & ~self._trusted).nonzero()[:, 0]
        if not len(where):
            return
        given, log_p = self.given[where], self._said[where].clamp(min=LEAST).log()
        if self._robust.split == "transport":
            self.right[where] = by_transport(log_p, given)
            return
        losses = -log_p.gather(1, given[:, None])[:, 0]
        apart = given.bincount().tolist()
        few = torch.tensor([count < FEW for count in apart])[given]
        for number, count in enumerate(apart):
            if count >= FEW:
                mine = given == number
                self.right[where[mine]] = by_mixture(losses[mine])
        if few.any():
            self.right[where[few]] = by_mixture(losses)[few]
