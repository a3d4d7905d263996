"""Training of triage on clips whose novelties are labelled by place and frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.surprise.triage import Triage
from tocsin.models.training import Optimization

COVERED, BARE = 0.3, 0.02
"""Covered shares from which a place is novel, and below which it is not. A place in between is ignored in the loss."""
WEIGHT = 4.0
"""Loss weight of a covered place relative to a bare one, because few places are covered."""
WHOLE = 0.05
"""Weight of the loss of a frame's score relative to that of its places."""
MIN_PLACES = 2
"""Minimum number of covered places in a frame that counts as novel."""
LEAD = 2
"""First frames of a piece, which only fill the memory and have no loss."""
LEARNING_RATE = 3e-3


class Lesson(NamedTuple):
    """A clip: evidence `[T, C + 1, h, w]`, warps `[T, 2, 3]`, and covered shares `[T, h, w]`."""

    evidence: Tensor
    warp: Tensor
    covered: Tensor


def teach(
    triage: Triage,
    lessons: Sequence[Lesson],
    *,
    steps: int,
    clips: int,
    length: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train triage in place.

    Args:
        lessons: each longer than `length`.
        steps: of the optimizer; clips: pieces per step, of `length` frames, every second one with a novelty.
        progress: called with each step and its loss.
    """
    optimization = Optimization(triage, steps=steps, learning_rate=LEARNING_RATE, weight_decay=1e-3)
    places = [(n, at) for n, lesson in enumerate(lessons) for at in range(1, len(lesson.covered) - length + 1)]
    eventful = [(n, at) for n, at in places if lessons[n].covered[at : at + length].sum() > MIN_PLACES] or places
    for step in range(steps):
        drawn = []
        for number in range(clips):
            pool = places if number % 2 else eventful
            n, at = pool[int(torch.randint(len(pool), (), generator=generator))]
            drawn.append([part[at : at + length].float() for part in lessons[n]])
        evidence, warp, covered = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        if torch.randint(2, (), generator=generator):  # flip horizontally
            evidence, covered = evidence.flip(-1), covered.flip(-1)
            warp = warp * torch.tensor([[1.0, -1, -1], [-1, 1, 1]])
        loss = optimization.step(_loss(triage, evidence, warp, covered))
        if progress:
            progress(step, loss)


def _loss(triage: Triage, evidence: Tensor, warp: Tensor, covered: Tensor) -> Tensor:
    """Cross-entropy of the places and of the frames after the lead; each argument is `[B, T, ...]`."""
    state = evidence.new_zeros(len(evidence), triage.config.state, *evidence.shape[3:])
    total = evidence.new_zeros(())
    for at in range(evidence.shape[1]):
        logits, state = triage(state, evidence[:, at], warp[:, at])
        if at < LEAD:
            continue
        share = covered[:, at]
        is_novel, covered_area = share > COVERED, share.flatten(1).sum(1)
        counts = torch.where(is_novel, WEIGHT, (share < BARE).float())
        has_novelty = is_novel.flatten(1).sum(1) >= MIN_PLACES
        certain = (has_novelty | (covered_area < 0.1)).float()
        place_loss = F.binary_cross_entropy_with_logits(logits, is_novel.float(), weight=counts)
        frame_loss = F.binary_cross_entropy_with_logits(triage.score(logits), has_novelty.float(), weight=certain)
        total = total + place_loss + WHOLE * frame_loss
    return total / (evidence.shape[1] - LEAD)
