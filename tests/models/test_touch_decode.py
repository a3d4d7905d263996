"""Events from scores: against a naive scatter by maximum, windows against whole clips, and touches as alerts report them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tocsin.models.touch.decode import MIN_SCORE, Spot, decode, paired, peak, peaks, softened, spots
from tocsin.models.touch.loss import targets
from tocsin.models.touch.truth import Touch

RADIUS, APART = 4, 3
WAIT = RADIUS + APART


def verdicts(length: int, seed: int, *, coarse: bool = False) -> tuple[Tensor, Tensor]:
    """Random scores and displacements, some beyond the radius. `coarse` ones have many ties."""
    generator = torch.Generator().manual_seed(seed)
    scores, displacement = torch.rand(2, length, 2, 2, generator=generator)
    displacement = 4 * RADIUS * (displacement - 0.5)
    return ((4 * scores).round() / 4, displacement.round()) if coarse else (scores, displacement)


def naive_decode(scores: Tensor, displacement: Tensor) -> Tensor:
    """Loop over hands, kinds and frames: a score is split between the two frames it points at, and each keeps its maximum."""
    decoded = torch.zeros_like(scores)
    for hand, kind in ((0, 0), (0, 1), (1, 0), (1, 1)):
        arrived = [0.0] * len(scores)
        said = zip(scores[:, hand, kind].tolist(), displacement[:, hand, kind].tolist(), strict=True)
        for frame, (score, since) in enumerate(said):
            centre = frame - min(max(since, -RADIUS), RADIUS)
            low = math.floor(centre)
            for to, share in ((low, 1 - (centre - low)), (low + 1, centre - low)):
                if 0 <= to < len(scores):
                    arrived[to] = max(arrived[to], share * score)
        decoded[:, hand, kind] = torch.tensor(arrived)
    return decoded


@given(st.integers(1, 30), st.integers(0, 999), st.booleans())
@settings(max_examples=40, deadline=None)
def test_decoding_is_a_scatter_by_maximum(length: int, seed: int, coarse: bool) -> None:
    scores, displacement = verdicts(length, seed, coarse=coarse)
    torch.testing.assert_close(decode(scores, displacement, radius=RADIUS), naive_decode(scores, displacement))


def test_clips_of_a_batch_are_decoded_by_themselves() -> None:
    clips = [verdicts(12, seed) for seed in range(6)]
    scores, displacement = (torch.stack(part).unflatten(0, (2, 3)) for part in zip(*clips, strict=True))
    together = decode(scores, displacement, radius=RADIUS)
    for n, clip in enumerate(clips):
        assert torch.equal(together[divmod(n, 3)], decode(*clip, radius=RADIUS))


def test_what_is_right_decodes_to_the_events_and_nothing_else() -> None:
    touches = [Touch(0, 10, 31), Touch(1, 2, 40), Touch(1, 55, None)]
    decoded = decode(*targets(touches, 60), radius=RADIUS)
    expected = [(0, 0, 10), (0, 1, 31), (1, 0, 2), (1, 0, 55), (1, 1, 40)]
    assert decoded.nonzero().tolist() == sorted([frame, hand, kind] for hand, kind, frame in expected)
    for found in (spots(decoded, apart=APART), softened(decoded)):
        assert sorted((s.hand, s.kind, s.frame) for s in found) == expected and all(s.score == 1 for s in found)
        assert paired(found, (0.5, 0.5)) == sorted(touches, key=lambda touch: touch.contact)


@given(st.integers(1, 40), st.integers(0, 999), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_window_says_of_its_middle_what_the_clip_says(length: int, seed: int, coarse: bool) -> None:
    clip = verdicts(length, seed, coarse=coarse)
    decoded = decode(*clip, radius=RADIUS)
    padding = (0, 0, 0, 0, WAIT, WAIT)
    windows = [F.pad(part, padding, value=torch.nan).unfold(0, 2 * WAIT + 1, 1).movedim(-1, 1) for part in clip]
    score, is_peak = peak(*windows, ~windows[0][:, :, 0, 0].isnan(), radius=RADIUS, apart=APART)
    assert torch.equal(score, decoded) and torch.equal(is_peak, peaks(decoded, apart=APART))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(0, 4))
def test_a_peak_has_no_more_beside_it_and_less_before(values: list[int], apart: int) -> None:
    decoded = torch.zeros(len(values), 2, 2)
    decoded[:, 1, 0] = torch.tensor(values)
    expected = [
        value > max([0, *values[max(t - apart, 0) : t]]) and value >= max(values[t : t + apart + 1])
        for t, value in enumerate(values)
    ]
    found = peaks(decoded, apart=apart)
    assert found[:, 1, 0].tolist() == expected and not found[:, 0].any() and not found[:, :, 1].any()


def test_spots_are_peaks_that_reach_the_least_in_order_of_time() -> None:
    decoded = torch.zeros(12, 2, 2)
    decoded[2, 0, 0], decoded[3, 0, 0], decoded[8, 0, 0], decoded[5, 1, 1] = 0.5, 0.25, 0.125, 0.75
    assert spots(decoded, apart=2, min_score=0.2) == [Spot(0, 0, 2, 0.5), Spot(1, 1, 5, 0.75)]
    assert spots(decoded, apart=2, min_score=0.125)[-1] == Spot(0, 0, 8, 0.125)


def naive_softened(values: list[float], window: int) -> list[float]:
    values, waiting = list(values), set(range(len(values)))
    while waiting:
        top = min(waiting, key=lambda t: (-values[t], t))
        waiting.remove(top)
        for t in waiting:
            if abs(t - top) <= window:
                values[t] *= (abs(t - top) / window) ** 2
    return values


@given(st.integers(1, 25), st.integers(0, 999), st.integers(1, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_soft_suppression_goes_from_the_largest_down(length: int, seed: int, window: int, coarse: bool) -> None:
    decoded, _ = verdicts(length, seed, coarse=coarse)
    found = {(s.hand, s.kind, s.frame): s.score for s in softened(decoded, window=window)}
    for hand in range(2):
        for kind in range(2):
            for frame, score in enumerate(naive_softened(decoded[:, hand, kind].tolist(), window)):
                assert found.pop((hand, kind, frame), None) == (pytest.approx(score) if score >= MIN_SCORE else None)
    assert not found


def test_touches_are_what_contact_raises_and_release_clears() -> None:
    found = [
        Spot(0, 1, 1, 0.9),  # ignored: the hand holds nothing
        Spot(0, 0, 5, 0.9),
        Spot(0, 0, 9, 0.9),  # ignored: the hand holds something
        Spot(1, 0, 10, 0.9),
        Spot(0, 1, 12, 0.3),  # ignored: below the threshold
        Spot(0, 0, 20, 0.9),  # releases and touches in one frame
        Spot(0, 1, 20, 0.4),
        Spot(0, 0, 2, 0.5),  # ignored: below the threshold
    ]
    assert paired(found, (0.6, 0.4)) == [Touch(0, 5, 20), Touch(1, 10, None), Touch(0, 20, None)]


def test_errors_name_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"scores are \[5, 2, 2\], displacement \[6, 2, 2\]; expected"):
        decode(torch.zeros(5, 2, 2), torch.zeros(6, 2, 2), radius=4)
    with pytest.raises(ValueError, match="14 must be 15"):
        peak(*torch.zeros(2, 1, 14, 2, 2), torch.ones(1, 14, dtype=torch.bool), radius=4, apart=3)
