"""Losses of clips some of whose touches are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from tocsin.models.touch.loss import numbers, weight
from tocsin.models.touch.truth import KINDS, Touch
from tocsin.models.wrong_labels.labels import Labels, Robust
from tocsin.models.wrong_labels.losses import cross_entropy, two_classes, two_targets

RECIPE = Robust(start="own")
"""Events are few. A bounded loss pulls them too little to be learned at all, so training begins with cross-entropy."""


class RobustLoss:
    """A contact or a release is one label, right or wrong.

    Other frames, and whether hands hold something, keep the loss of the warm-up.

    Args:
        clips: the touches and the number of frames of each.
        steps: of the training.
        radius: frames around an event that it labels.
    """

    def __init__(
        self, clips: Sequence[tuple[Sequence[Touch], int]], robust: Robust, *, steps: int, radius: int
    ) -> None:
        firsts = list(accumulate((len(touches) for touches, _ in clips), initial=0))
        self._robust = robust
        self._numbers = [
            numbers(touches, length, first=first, radius=radius)
            for (touches, length), first in zip(clips, firsts, strict=False)
        ]
        events = torch.ones(len(KINDS) * firsts[-1], dtype=torch.int64)
        self.labels = Labels(events, classes=2, robust=robust, steps=steps)

    def score(self, logits: Tensor, labels: Tensor, *, batch: Sequence[tuple[int, range]], mask: Tensor) -> Tensor:
        """Weighted losses of scores, `[B, L, 2, 2]`.

        Args:
            logits, labels: `[B, L, 2, 2]`.
            batch: the windows, as numbers of clips and ranges of frames.
            mask: `[B, L] bool`, the frames that exist.
        """
        pieces = [self._numbers[n][torch.tensor(at).clamp(0, len(self._numbers[n]) - 1)] for n, at in batch]
        at = torch.where(mask[..., None, None], torch.stack(pieces), -1)
        log_p, target = two_classes(logits).flatten(0, -2), two_targets(labels).flatten(0, -2)
        return weight(labels) * self.labels.loss(at.flatten(), log_p, target=target).view_as(labels)

    def holding(self, logits: Tensor, holds: Tensor) -> Tensor:
        """The loss of whether hands hold something, `[N, 2]` both."""
        log_p, target = two_classes(logits), two_targets(holds)
        return (
            cross_entropy(log_p, target) if self._robust.start == "own" else self._robust.robust(log_p, target)
        ).mean()
