"""Targets around events, and losses against their formulas number by number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tocsin.models.touch.loss import Targets, losses, numbers, targets, weight
from tocsin.models.touch.robust import RobustLoss
from tocsin.models.touch.truth import Touch
from tocsin.models.wrong_labels.labels import Robust
from tocsin.models.wrong_labels.losses import generalised_cross_entropy, two_classes, two_targets

LENGTH = 20
TOUCHES = st.lists(
    st.builds(
        lambda hand, contact, held: Touch(hand, contact, None if held is None else contact + held),
        st.integers(0, 1),
        st.integers(0, LENGTH - 1),
        st.none() | st.integers(1, 12),
    ),
    max_size=5,
)


def given_values(seed: int = 0) -> tuple[Tensor, Tensor, Targets, Tensor]:
    """Logits, displacement, targets and presence of frames, for two windows."""
    generator = torch.Generator().manual_seed(seed)
    logits, displacement = (
        2 * torch.randn(2, LENGTH, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    windows = [targets([Touch(0, 5, 14), Touch(1, 9, None)], LENGTH), targets([Touch(1, 2, 4)], LENGTH)]
    target = Targets(*(torch.stack(part).double() for part in zip(*windows, strict=True)))
    return logits, displacement, target, torch.rand(2, LENGTH, generator=generator) < 0.7


@given(TOUCHES, st.integers(1, 5))
def test_a_frame_has_the_closest_event_of_its_hand_and_kind(touches: list[Touch], radius: int) -> None:
    got = targets(touches, LENGTH, radius=radius)
    assert got.labels.shape == got.displacement.shape == (LENGTH, 2, 2)
    for frame in range(LENGTH):
        for hand in range(2):
            for kind in range(2):
                events = [t.release if kind else t.contact for t in touches if t.hand == hand]
                since = [frame - at for at in events if at is not None and abs(frame - at) <= radius]
                best = min(since, key=lambda i: (abs(i), -i), default=None)  # the earlier of two
                label = 0 if best is None else math.exp(-(best**2) / (2 * radius**2)) if best else 1
                assert got.labels[frame, hand, kind].item() == pytest.approx(label)
                assert got.displacement[frame, hand, kind].item() == (best or 0)


@given(TOUCHES, st.integers(0, LENGTH - 1), st.integers(1, LENGTH))
def test_a_piece_has_the_targets_of_the_clip(touches: list[Touch], first: int, length: int) -> None:
    whole, piece = targets(touches, 3 * LENGTH), targets(touches, length, first=first)
    for part, all_of_it in zip(piece, whole, strict=True):
        assert torch.equal(part, all_of_it[first : first + length])


def test_the_loss_of_scores_is_focal_and_the_mean_over_what_is_there() -> None:
    logits, displacement, target, there = given_values()
    terms = []
    for z, y in zip(logits[there].flatten().tolist(), target.labels[there].flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        alpha, right = 0.9 * y + 0.1 * (1 - y), y * p + (1 - y) * (1 - p)
        terms.append(-alpha * (1 - right) ** 2 * (y * math.log(p) + (1 - y) * math.log(1 - p)))
    assert losses(logits, displacement, target, there).score.item() == pytest.approx(sum(terms) / len(terms))


def test_the_frames_around_an_event_are_one_label_and_others_none() -> None:
    touches = [Touch(0, 5, 14), Touch(1, 6, None)]
    found = numbers(touches, LENGTH, first=3, radius=2)
    assert found[:, 0, 0].tolist() == [6 if 3 <= frame <= 7 else -1 for frame in range(LENGTH)]
    assert found[:, 0, 1].tolist() == [7 if 12 <= frame <= 16 else -1 for frame in range(LENGTH)]
    assert found[:, 1, 0].tolist() == [8 if 4 <= frame <= 8 else -1 for frame in range(LENGTH)]
    assert (found[:, 1, 1] == -1).all()
    assert torch.equal(found >= 0, targets(touches, LENGTH, radius=2).labels > 0)


def test_the_robust_loss_of_a_window_is_weighted_bounded_and_knows_what_it_saw() -> None:
    touches = [Touch(0, 5, 14)]
    robust = RobustLoss([(touches, LENGTH)], Robust(split=None, q=0.7), steps=10, radius=4)
    labels, mask = targets(touches, LENGTH).labels[None], torch.ones(1, LENGTH, dtype=torch.bool)
    logits = torch.full((1, LENGTH, 2, 2), -200.0, requires_grad=True)
    mask[0, 10:] = False  # the release is not seen
    score = robust.score(logits, labels, batch=[(0, range(LENGTH))], mask=mask)
    expected = weight(labels) * labels / 0.7  # every event is denied, every frame without one is right
    torch.testing.assert_close(score, expected)
    score.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert robust.labels.seen.tolist() == [True, False]
    held = robust.holding(torch.tensor([[200.0, -200.0]]), torch.tensor([[1.0, 1.0]]))
    assert held.item() == pytest.approx(1 / 0.7 / 2)


def test_displacement_counts_within_the_radius_alone_in_radii() -> None:
    logits, displacement, target, there = given_values()
    within = (target.labels > 0) & there[..., None, None]
    assert 0 < within.sum() < there.sum() * 4
    expected = ((displacement - target.displacement)[within] / 4).square().mean()
    torch.testing.assert_close(losses(logits, displacement, target, there).displacement, expected)


def _robust(logits: Tensor, labels: Tensor) -> Tensor:
    return weight(labels) * generalised_cross_entropy(two_classes(logits), two_targets(labels), 0.7)


@pytest.mark.parametrize("score", [None, _robust])
def test_frames_that_are_not_there_count_for_nothing(score: Callable[[Tensor, Tensor], Tensor] | None) -> None:
    results = []
    for content in (0.0, torch.nan, 1e6):
        logits, displacement, target, there = given_values()
        leaves = [torch.where(there[..., None, None], x, content).requires_grad_() for x in (logits, displacement)]
        got = losses(*leaves, target, there, score=score)
        sum(got).backward()
        results.append([*got, *(leaf.grad for leaf in leaves)])
    for zero, nan, large in zip(*results, strict=True):
        assert torch.equal(zero, nan) and torch.equal(zero, large) and torch.isfinite(zero).all()
    logits, displacement, target, there = given_values()
    nothing = losses(logits, displacement, target, torch.zeros_like(there), score=score)
    assert nothing.score == 0 and nothing.displacement == 0


@pytest.mark.parametrize("score", [None, _robust])
def test_gradients_are_those_of_finite_differences(score: Callable[[Tensor, Tensor], Tensor] | None) -> None:
    logits, displacement, target, there = given_values()
    leaves = [x.requires_grad_() for x in (logits, displacement)]
    assert torch.autograd.gradcheck(lambda *x: tuple(losses(*x, target, there, score=score)), leaves)
