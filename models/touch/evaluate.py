"""Frame-level metrics of events: average precision for benchmarks, and alerts at an operating point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from tocsin.models.touch.decode import Spot, paired
from tocsin.models.touch.truth import KINDS, Miss, Touch

TOLERANCES = (0, 1, 2)
"""The benchmark's tolerances: frames by which an event may be off."""
NEAR = 3
"""Frames by which an alert may be off from its touch."""
REACH = 10
"""Largest distance, in frames, at which an event is matched to a true one when errors are measured."""


@dataclass(frozen=True)
class ClipResult:
    """Events found in a clip, and its truth.

    Args:
        found: events, from `decode.softened` for average precision, or from `decode.spots` for the alerts of a stream.
        touches, misses: the truth.
        frames: length of the clip.
        span: frames that are scored; None: all.
    """

    found: Sequence[Spot]
    touches: Sequence[Touch]
    misses: Sequence[Miss]
    frames: int
    span: range | None = None

    def scored(self, frame: int) -> bool:
        """Whether a frame is scored."""
        return self.span is None or frame in self.span

    @property
    def length(self) -> int:
        """Number of frames that are scored."""
        return self.frames if self.span is None else len(self.span)


@dataclass(frozen=True)
class Matched:
    """A detected event, and the frame of the true event that it is matched to; None if it is false."""

    spot: Spot
    truth: int | None


def matched(clip: ClipResult, kind: int, tolerance: int, *, hands: bool = True) -> list[Matched]:
    """Match a clip's events of a kind, by descending score, each to the closest unmatched true event within the tolerance.

    Args:
        kind: 0 contact, 1 release.
        tolerance: frames.
        hands: whether the hand must be the right one.
    """
    unmatched = _events(clip, kind)
    pairs = []
    found = [spot for spot in clip.found if spot.kind == kind and clip.scored(spot.frame)]
    for spot in sorted(found, key=lambda spot: -spot.score):
        fits = [
            (hand, at)
            for hand, at in unmatched
            if abs(at - spot.frame) <= tolerance and (hand == spot.hand or not hands)
        ]
        best = min(fits, key=lambda event: abs(event[1] - spot.frame), default=None)
        if best:
            unmatched.remove(best)
        pairs.append(Matched(spot, best and best[1]))
    return pairs


def average_precision(clips: Sequence[ClipResult], kind: int, tolerance: int, *, hands: bool = True) -> float:
    """Area under the curve of interpolated precision over recall, all clips counted together; NaN without true events.

    Source: HiCE's TouchMoment (arXiv 2604.12343). Arguments as in `matched`.
    """
    pairs = [pair for clip in clips for pair in matched(clip, kind, tolerance, hands=hands)]
    pairs.sort(key=lambda pair: -pair.spot.score)
    hits = [rank for rank, pair in enumerate(pairs, 1) if pair.truth is not None]
    precisions = [n / rank for n, rank in enumerate(hits, 1)]
    best, total = 0.0, 0.0
    for precision in reversed(precisions):  # the best at this recall or a higher one
        best = max(best, precision)
        total += best
    total_events = _count(clips, kind)
    return total / total_events if total_events else math.nan


def precision_figures(clips: Sequence[ClipResult], *, hands: bool = True) -> dict[str, float]:
    """Compute `ap_contact_0` to `ap_release_2`, their means over the kinds `map_0` to `map_2`, and the mean of those, `map`."""
    figures = {
        f"ap_{name}_{tolerance}": average_precision(clips, kind, tolerance, hands=hands)
        for tolerance in TOLERANCES
        for kind, name in enumerate(KINDS)
    }
    means = {f"map_{t}": fmean(figures[f"ap_{name}_{t}"] for name in KINDS) for t in TOLERANCES}
    return figures | means | {"map": fmean(means.values())}


def alert_figures(clips: Sequence[ClipResult], *, hands: bool = True) -> dict[str, float | None]:
    """Metrics of the alerts that a stream raises and clears.

    Args:
        clips: clips whose `found` are the alerts' beginnings (kind 0) and ends (kind 1).
        hands: whether the hand must be the right one.

    Returns:
        - `touches`: how many begin; `found`: those within `NEAR` frames of the beginning of an alert; `alerts`: how many began;
          `precision`, `recall`; `error`: the median absolute error of those found, frames;
        - the same of the ends: `releases`, `releases_found`, `cleared`, `cleared_precision`, `cleared_recall`, `cleared_error`.

        None without anything to divide by.
    """
    figures: dict[str, float | None] = {}
    for kind, (prefix, names) in enumerate(
        (("", ("touches", "found", "alerts")), ("cleared_", ("releases", "releases_found", "cleared")))
    ):
        pairs = [pair for clip in clips for pair in matched(clip, kind, NEAR, hands=hands)]
        off = [abs(pair.spot.frame - pair.truth) for pair in pairs if pair.truth is not None]
        total = _count(clips, kind)
        figures |= dict(zip(names, (total, len(off), len(pairs)), strict=True))
        figures[f"{prefix}precision"] = len(off) / len(pairs) if pairs else None
        figures[f"{prefix}recall"] = len(off) / total if total else None
        figures[f"{prefix}error"] = median(off) if off else None
    return figures


def operating_figures(
    clips: Sequence[ClipResult],
    thresholds: Sequence[float],
    *,
    tolerance: int = 2,
    rate: float = 30.0,
    hands: bool = True,
) -> dict[str, float]:
    """Metrics of the events that reach their thresholds.

    Args:
        clips: clips with events from `decode.spots`.
        thresholds: score thresholds of `KINDS`, in that order.
        tolerance: frames.
        rate: frames per second.
        hands: whether the hand must be the right one. For `touches_f1` it always must.

    Returns:
        - `contact_precision`, `contact_recall`, `contact_f1`, and the same for `release`;
        - `contact_error`, the median absolute error in frames, over events off by at most `REACH`; `contact_lag`, the same with its
          sign, positive for late events; NaN without events; and the same for `release`;
        - `touches_f1`, over touches with both ends right;
        - `missed_rings_per_minute`: misses that raised an alert; `false_rings_per_minute`: contacts that match no true one.
    """
    clips = [
        replace(clip, found=[spot for spot in clip.found if spot.score >= thresholds[spot.kind]]) for clip in clips
    ]
    figures: dict[str, float] = {}
    for kind, name in enumerate(KINDS):
        pairs = [pair for clip in clips for pair in matched(clip, kind, tolerance, hands=hands)]
        hits = sum(pair.truth is not None for pair in pairs)
        precision, recall = hits / max(len(pairs), 1), hits / max(_count(clips, kind), 1)
        lags = errors(clips, kind, hands=hands)
        figures |= {
            f"{name}_precision": precision,
            f"{name}_recall": recall,
            f"{name}_f1": f1(precision, recall),
            f"{name}_error": median(map(abs, lags)) if lags else math.nan,
            f"{name}_lag": median(lags) if lags else math.nan,
        }
    minutes = max(sum(clip.length for clip in clips), 1) / rate / 60
    false = [[pair.spot for pair in matched(clip, 0, tolerance, hands=hands) if pair.truth is None] for clip in clips]
    raised = sum(
        any(miss.first <= spot.frame <= miss.last and (spot.hand == miss.hand or not hands) for spot in spots)
        for clip, spots in zip(clips, false, strict=True)
        for miss in clip.misses
    )
    return figures | {
        "touches_f1": _touches_f1(clips, tolerance),
        "missed_rings_per_minute": raised / minutes,
        "false_rings_per_minute": sum(map(len, false)) / minutes,
    }


def errors(clips: Sequence[ClipResult], kind: int, *, reach: int = REACH, hands: bool = True) -> list[int]:
    """Frames by which events are late, negative if early, for those within `reach` of a true event."""
    return [
        pair.spot.frame - pair.truth
        for clip in clips
        for pair in matched(clip, kind, reach, hands=hands)
        if pair.truth is not None
    ]


def best_threshold(clips: Sequence[ClipResult], kind: int, *, tolerance: int = 2, hands: bool = True) -> float:
    """Choose the threshold with the best F1; of equals, the largest. 1 if no event is right.

    It lies half way between an event's score and the next lower score. A threshold equal to a score would depend on rounding.
    """
    pairs = [pair for clip in clips for pair in matched(clip, kind, tolerance, hands=hands)]
    pairs.sort(key=lambda pair: -pair.spot.score)
    scores = [pair.spot.score for pair in pairs] + [0.0]
    hits, best, total_events = 0, (0.0, 1.0), max(_count(clips, kind), 1)
    for rank, pair in enumerate(pairs, 1):
        hits += pair.truth is not None
        if scores[rank] < pair.spot.score:  # equal scores count together
            best = max(best, (f1(hits / rank, hits / total_events), (pair.spot.score + scores[rank]) / 2))
    return best[1]


def _touches_f1(clips: Sequence[ClipResult], tolerance: int) -> float:
    hits = found = 0
    for clip in clips:
        unmatched = _whole(clip)
        for touch in paired([spot for spot in clip.found if clip.scored(spot.frame)], (0, 0)):
            found += 1
            fits = [true for true in unmatched if _same(touch, true, tolerance)]
            if fits:
                hits += 1
                unmatched.remove(min(fits, key=lambda true: abs(true.contact - touch.contact)))
    total = sum(len(_whole(clip)) for clip in clips)
    return f1(hits / max(found, 1), hits / max(total, 1))


def _same(touch: Touch, true: Touch, tolerance: int) -> bool:
    ends = ((touch.contact, true.contact), (touch.release, true.release))
    matches = (a == b if a is None or b is None else abs(a - b) <= tolerance for a, b in ends)
    return touch.hand == true.hand and all(matches)


def _whole(clip: ClipResult) -> list[Touch]:
    """The touches of which no end is known to lie outside the scored frames."""
    ends = ((touch, [end for end in (touch.contact, touch.release) if end is not None]) for touch in clip.touches)
    return [touch for touch, known in ends if all(map(clip.scored, known))]


def _events(clip: ClipResult, kind: int) -> list[tuple[int, int]]:
    """Hand and frame of each true event of a kind."""
    ends = ((touch.hand, touch.release if kind else touch.contact) for touch in clip.touches)
    return [(hand, at) for hand, at in ends if at is not None and clip.scored(at)]


def _count(clips: Sequence[ClipResult], kind: int) -> int:
    return sum(len(_events(clip, kind)) for clip in clips)


def f1(precision: float, recall: float) -> float:
    """The harmonic mean of precision and recall; 0 if both are 0."""
    return 2 * precision * recall / max(precision + recall, 1e-9)
