"""Figures counted by hand, and average precision against its definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.models.touch.decode import Spot
from tocsin.models.touch.evaluate import (
    ClipResult,
    alert_figures,
    average_precision,
    best_threshold,
    errors,
    matched,
    operating_figures,
    precision_figures,
)
from tocsin.models.touch.truth import Miss, Touch

MINUTE = 1800
SPOTS = st.lists(
    st.builds(Spot, st.integers(0, 1), st.integers(0, 1), st.integers(0, 14), st.integers(1, 6).map(lambda n: n / 8)),
    max_size=8,
)
TOUCHES = st.lists(st.builds(Touch, st.integers(0, 1), st.integers(0, 14), st.none() | st.integers(0, 14)), max_size=5)
CLIPS = st.lists(st.builds(ClipResult, SPOTS, TOUCHES, st.just(()), st.just(15)), min_size=1, max_size=3)


def naive_average_precision(clips: Sequence[ClipResult], kind: int, tolerance: int, hands: bool) -> float:
    """Rank the scores of all clips, highest first, each with the precision so far. Sum the best precision at each recall."""
    ranked = sorted(
        ((s, n) for n, clip in enumerate(clips) for s in clip.found if s.kind == kind), key=lambda pair: -pair[0].score
    )
    truths = [
        [n, t.hand, (t.contact, t.release)[kind]]
        for n, clip in enumerate(clips)
        for t in clip.touches
        if (t.contact, t.release)[kind] is not None
    ]
    there, hits, curve = len(truths), 0, []
    for rank, (spot, n) in enumerate(ranked, 1):
        near = [
            (abs(at - spot.frame), i)
            for i, (m, hand, at) in enumerate(truths)
            if m == n and abs(at - spot.frame) <= tolerance and (hand == spot.hand or not hands)
        ]
        if near:
            del truths[min(near)[1]]
            hits += 1
        curve.append((hits, hits / rank))
    if not there:
        return math.nan
    return sum(max((p for h, p in curve if h >= recall), default=0) for recall in range(1, there + 1)) / there


@given(CLIPS, st.integers(0, 1), st.integers(0, 2), st.booleans())
def test_average_precision_is_its_definition(clips: list[ClipResult], kind: int, tolerance: int, hands: bool) -> None:
    expected = naive_average_precision(clips, kind, tolerance, hands)
    assert average_precision(clips, kind, tolerance, hands=hands) == pytest.approx(expected, nan_ok=True)


def test_average_precision_of_a_clip_counted_by_hand() -> None:
    found = [Spot(0, 0, 10, 0.9), Spot(0, 0, 50, 0.8), Spot(0, 0, 32, 0.7), Spot(0, 0, 33, 0.6), Spot(0, 1, 20, 0.5)]
    clip = ClipResult(found, [Touch(0, 10, 21), Touch(0, 30, None), Touch(0, 70, 80)], (), MINUTE)
    figures = precision_figures([clip])
    # Contacts at a tolerance of 2 frames: right, wrong, right, too late. There are three true ones.
    assert figures["ap_contact_2"] == pytest.approx((1 + 2 / 3) / 3)
    assert figures["ap_contact_1"] == figures["ap_contact_0"] == pytest.approx(1 / 3)
    assert figures["ap_release_0"] == 0 and figures["ap_release_1"] == figures["ap_release_2"] == 0.5
    assert figures["map_2"] == pytest.approx((5 / 9 + 1 / 2) / 2)
    assert figures["map"] == pytest.approx((1 / 6 + 5 / 12 + 19 / 36) / 3)


def test_a_later_better_precision_counts_for_lower_recalls_too() -> None:
    clip = ClipResult(
        [Spot(0, 0, 90, 0.9), Spot(0, 0, 10, 0.8), Spot(0, 0, 30, 0.7)], [Touch(0, 10, 20), Touch(0, 30, 40)], (), 99
    )
    assert average_precision([clip], 0, 0) == pytest.approx(2 / 3)  # not (1/2 + 2/3) / 2


def test_each_true_event_is_found_once_the_closest_first_by_the_surest() -> None:
    clip = ClipResult(
        [Spot(0, 0, 11, 0.5), Spot(0, 0, 12, 0.9), Spot(0, 0, 10, 0.4)], [Touch(0, 10, 20), Touch(0, 13, 30)], (), 99
    )
    assert [(pair.spot.frame, pair.truth) for pair in matched(clip, 0, 2)] == [(12, 13), (11, 10), (10, None)]


def test_the_hand_must_be_right_unless_hands_are_left_out() -> None:
    clip = ClipResult([Spot(1, 0, 10, 0.9)], [Touch(0, 10, 20)], (), 99)
    assert average_precision([clip], 0, 2) == 0 and average_precision([clip], 0, 2, hands=False) == 1
    assert errors([clip], 0) == [] and errors([clip], 0, hands=False) == [0]


def test_clips_do_not_lend_each_other_their_events() -> None:
    clips = [ClipResult([Spot(0, 0, 10, 0.9)], (), (), 99), ClipResult((), [Touch(0, 10, 20)], (), 99)]
    assert average_precision(clips, 0, 2) == 0


def test_what_rings_at_an_operating_point() -> None:
    found = [
        Spot(0, 0, 101, 0.9),  # one frame late
        Spot(0, 1, 150, 0.8),
        Spot(1, 0, 205, 0.9),  # five frames late: false at a tolerance of two, an error of five
        Spot(1, 1, 260, 0.3),  # below the threshold
        Spot(0, 0, 410, 0.7),  # in a near miss
        Spot(0, 0, 420, 0.7),  # in the same near miss
        Spot(1, 0, 510, 0.7),  # by the other hand, during a near miss
        Spot(0, 0, 598, 0.9),  # a contact, two frames early, at the end of a near miss
    ]
    touches = [Touch(0, 100, 150), Touch(1, 200, 260), Touch(0, 600, None)]
    misses = [Miss(0, 400, 450), Miss(0, 500, 550), Miss(0, 560, 599), Miss(1, 700, 750)]
    figures = operating_figures(
        [ClipResult(found, touches, misses, MINUTE), ClipResult((), (), (), MINUTE)], (0.5, 0.5)
    )
    assert (figures["contact_precision"], figures["contact_recall"]) == (2 / 6, 2 / 3)
    assert figures["contact_f1"] == pytest.approx(4 / 9)
    assert (figures["release_precision"], figures["release_recall"]) == (1, 0.5)
    assert (figures["contact_error"], figures["contact_lag"]) == (2, 1)  # medians of 1, 5 and -2
    assert (figures["release_error"], figures["release_lag"]) == (0, 0)
    assert (figures["missed_rings_per_minute"], figures["false_rings_per_minute"]) == (0.5, 2)
    # The spots form three touches: one right, one open from 205, one open from 410.
    assert figures["touches_f1"] == pytest.approx(1 / 3)
    either = operating_figures([ClipResult(found, touches, misses, MINUTE)], (0.5, 0.5), hands=False, rate=60)
    assert either["missed_rings_per_minute"] == 4
    nothing = operating_figures([ClipResult((), touches, misses, MINUTE)], (0.5, 0.5))
    assert math.isnan(nothing["contact_error"]) and nothing["contact_precision"] == nothing["touches_f1"] == 0


@pytest.mark.parametrize(
    ("found", "f1"),
    [((11, 19), 1), ((13, 20), 0), ((10, 23), 0), ((10, None), 0)],
    ids=["right", "late", "held", "open"],
)
def test_both_ends_of_a_touch_must_be_right(found: tuple[int, int | None], f1: float) -> None:
    spots = [Spot(0, kind, at, 0.9) for kind, at in enumerate(found) if at is not None]
    assert operating_figures([ClipResult(spots, [Touch(0, 10, 20)], (), 99)], (0.5, 0.5))["touches_f1"] == f1
    assert (
        operating_figures([ClipResult(spots, [Touch(1, 10, 20)], (), 99)], (0.5, 0.5), hands=False)["touches_f1"] == 0
    )


def test_a_touch_that_the_clip_cuts_short_is_right_when_it_is_found_open() -> None:
    clip = ClipResult([Spot(0, 0, 90, 0.9)], [Touch(0, 91, None)], (), 99)
    assert operating_figures([clip], (0.5, 0.5))["touches_f1"] == 1


@given(CLIPS, st.integers(0, 1))
def test_the_best_threshold_is_the_one_of_the_best_f1(clips: list[ClipResult], kind: int) -> None:
    name, best = ("contact", "release")[kind], best_threshold(clips, kind)
    of = {at: operating_figures(clips, (at, at))[f"{name}_f1"] for at in (*(n / 8 for n in range(1, 7)), best)}
    assert of[best] == max(of.values())
    if of[best] == 0:
        assert best == 1
        return
    scores = sorted({s.score for clip in clips for s in clip.found if s.kind == kind})
    counts = [score for score in scores if score >= best]
    assert of[counts[0]] == of[best] and all(of[score] < of[best] for score in counts[1:])
    assert best == (counts[0] + max((score for score in scores if score < best), default=0.0)) / 2


def test_alerts_are_found_within_three_frames_and_counted_by_their_beginnings_and_ends() -> None:
    touches = [Touch(0, 10, 40), Touch(1, 100, None), Touch(1, 200, 230)]
    found = [
        Spot(0, 0, 13, 0.9),  # 3 late
        Spot(0, 1, 40, 0.9),
        Spot(1, 0, 96, 0.9),  # 4 early
        Spot(1, 1, 150, 0.9),  # never ended there
        Spot(0, 0, 200, 0.9),  # the wrong hand
    ]
    figures = alert_figures([ClipResult(found, touches, (), 300)])
    assert (figures["touches"], figures["found"], figures["alerts"]) == (3, 1, 3)
    assert (figures["precision"], figures["recall"], figures["error"]) == (1 / 3, 1 / 3, 3)
    assert (figures["releases"], figures["releases_found"], figures["cleared"]) == (2, 1, 2)
    assert (figures["cleared_precision"], figures["cleared_recall"], figures["cleared_error"]) == (0.5, 0.5, 0)
    either = alert_figures([ClipResult(found, touches, (), 300)], hands=False)
    assert (either["found"], either["error"]) == (2, 1.5)


def test_without_alerts_or_touches_there_is_no_precision_recall_or_error() -> None:
    silent = alert_figures([ClipResult((), [Touch(0, 1, None)], (), 9)])
    assert (silent["precision"], silent["recall"], silent["error"]) == (None, 0, None)
    assert (silent["cleared_precision"], silent["cleared_recall"]) == (None, None)


def test_what_lies_outside_the_labelled_span_is_not_scored() -> None:
    touches = [Touch(0, 19, 30), Touch(0, 50, 60)]
    found = [Spot(0, kind, frame, 0.9) for kind, frame in ((0, 19), (1, 30), (0, 50), (1, 60), (0, 70))]
    clip = ClipResult(found, touches, (), 1800, range(20, 60))
    figures = alert_figures([clip])
    assert [figures[name] for name in ("touches", "found", "alerts")] == [1, 1, 1]
    assert [figures[name] for name in ("releases", "releases_found", "cleared")] == [1, 1, 1]
    at_once = operating_figures([replace(clip, span=range(45, 105))], (0.5, 0.5), rate=60)
    assert (at_once["touches_f1"], at_once["false_rings_per_minute"]) == (pytest.approx(2 / 3), 60)
