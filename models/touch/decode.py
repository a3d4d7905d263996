"""Decodes per-frame scores into events, and events into touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.touch.config import DecodeConfig
from tocsin.models.touch.truth import KINDS, Touch
from tocsin.operators.shapes import match

MIN_SCORE = 0.01
"""Lowest score of a candidate event in offline evaluation."""


@dataclass(frozen=True)
class Spot:
    """A detected event.

    Args:
        hand: 0 left, 1 right; kind: 0 contact, 1 release.
        frame: frame of the event; score: 0 to 1.
    """

    hand: int
    kind: int
    frame: int
    score: float


def decode(scores: Tensor, displacement: Tensor, *, radius: int) -> Tensor:
    """Move each frame's score to the frame that it points at, and keep the largest score that arrives there.

    A score that points between two frames is split linearly. Frame t gets `max_i score[t+i] * relu(1 - |i - displacement[t+i]|)`
    over the frames within the radius. Source: HiCE (arXiv 2604.12343), which uses a scatter by maximum.

    Args:
        scores: `[..., T, 2, 2]`, 0 to 1; 0 for absent frames.
        displacement: `[..., T, 2, 2]`, frames since the event; clamped to the radius.

    Returns:
        `[..., T, 2, 2]`.

    Raises:
        ValueError: if the shapes do not match.
    """
    if scores.shape != displacement.shape or scores.shape[-2:] != (2, 2):
        raise ValueError(
            f"scores are {list(scores.shape)}, displacement {list(displacement.shape)}; expected [..., T, 2, 2]"
        )
    padding = (0, 0, 0, 0, radius, radius)
    shifted, since = (F.pad(x, padding).unfold(-3, 2 * radius + 1, 1) for x in (scores, displacement))
    i = torch.arange(-radius, radius + 1, device=scores.device)
    weights = torch.relu(1 - (i - since.clamp(-radius, radius)).abs())
    return (shifted * weights).amax(-1)  # over [..., T, 2, 2, 2 * radius + 1]


def peaks(decoded: Tensor, *, apart: int) -> Tensor:
    """Local maxima of `decode`'s output within `apart` frames to either side, `[..., T, 2, 2] bool`; of equals the first."""
    padded = F.pad(decoded, (0, 0, 0, 0, apart, apart))
    around = padded.unfold(-3, 2 * apart + 1, 1)
    before, after = around[..., :apart], around[..., apart + 1 :]
    none = decoded.new_zeros(*decoded.shape, 1)
    before, after = (torch.cat([none, side], -1).amax(-1) for side in (before, after))
    return (decoded > before) & (decoded >= after)


def peak(scores: Tensor, displacement: Tensor, mask: Tensor, *, radius: int, apart: int) -> tuple[Tensor, Tensor]:
    """Compute for a window's middle frame the same bits as `decode` and `peaks` of the whole clip.

    Args:
        scores, displacement: `[B, 2 w + 1, 2, 2]` with w = radius + apart; values of absent frames are ignored.
        mask: `[B, 2 w + 1] bool`, False before the clip and after it.

    Returns:
        The decoded score, and whether it is a peak, `[B, 2, 2]` both.

    Raises:
        ValueError: if the shapes do not match.
    """
    dims = f"B {2 * (radius + apart) + 1}"
    match(scores=(scores, f"{dims} 2 2"), displacement=(displacement, f"{dims} 2 2"), mask=(mask, dims))
    present = mask[..., None, None]
    scores, displacement = torch.where(present, scores, 0), torch.where(present, displacement, 0)
    # `decode` of a whole clip drops scores that point beyond it. Here they must not suppress its first or last frames.
    decoded = torch.where(present, decode(scores, displacement, radius=radius), 0)[:, radius : radius + 2 * apart + 1]
    return decoded[:, apart], peaks(decoded, apart=apart)[:, apart]


def decided(window: Tensor, mask: Tensor, config: DecodeConfig) -> tuple[Tensor, Tensor]:
    """Decode the middle frame of windows of scores and displacements.

    Args:
        window: `[B, 2 w + 1, 2, 2, 2]`, w = `config.wait`: score and displacement, per hand and kind.
        mask: `[B, 2 w + 1] bool`, False where there is no frame.

    Returns:
        Decoded scores, and whether there is an event, `[B, 2, 2]` each, per hand and kind.
    """
    scores, displacement = window.unbind(2)
    decoded, highest = peak(scores, displacement, mask, radius=config.radius, apart=config.apart)
    return decoded, highest & (decoded >= decoded.new_tensor(config.thresholds))


def spots(decoded: Tensor, *, apart: int, min_score: float = MIN_SCORE) -> list[Spot]:
    """The peaks of a clip that reach `min_score`, ordered by time, as a stream finds them. `decoded` is `[T, 2, 2]`."""
    return _spots(decoded, peaks(decoded, apart=apart) & (decoded >= min_score))


def softened(decoded: Tensor, *, window: int = 3) -> list[Spot]:
    """The candidates of a clip after soft suppression, ordered by time, as the benchmark's metric expects them.

    From the largest score down, each candidate multiplies the lower scores of its hand and kind that are less than `window` frames
    away by `(distance / window) ** 2`. Source: HiCE's evaluation (arXiv 2604.12343).

    Args:
        decoded: `[T, 2, 2]`, from `decode`.
    """
    series = decoded.flatten(1).mT.tolist()
    suppressed = torch.tensor([_softened(scores, window) for scores in series], dtype=torch.float64).mT
    scores = suppressed.unflatten(1, decoded.shape[1:])
    return _spots(scores, scores >= MIN_SCORE)


def paired(events: Iterable[Spot], thresholds: Sequence[float]) -> list[Touch]:
    """Pair events into touches, as an alert that contact raises and release clears.

    A contact is ignored while the hand holds something, a release while it holds nothing. Within one frame releases come first,
    since a hand may let go of one thing and take another.

    Args:
        events: of a clip.
        thresholds: score thresholds of `KINDS`, in that order.
    """
    open_touches: dict[int, Touch] = {}
    touches = []
    accepted = (spot for spot in events if spot.score >= thresholds[spot.kind])
    for spot in sorted(accepted, key=lambda spot: (spot.frame, -spot.kind)):
        if KINDS[spot.kind] == "contact":
            open_touches.setdefault(spot.hand, Touch(spot.hand, spot.frame, None))
        elif touch := open_touches.pop(spot.hand, None):
            touches.append(replace(touch, release=spot.frame))
    return sorted([*touches, *open_touches.values()], key=lambda touch: (touch.contact, touch.hand))


def _spots(scores: Tensor, where: Tensor) -> list[Spot]:
    at = where.nonzero().tolist()
    return [Spot(hand, kind, frame, float(scores[frame, hand, kind])) for frame, hand, kind in at]


def _softened(scores: list[float], window: int) -> list[float]:
    waiting = [(-score, frame) for frame, score in enumerate(scores)]
    heapify(waiting)
    processed = set[int]()
    while waiting:
        score, top = heappop(waiting)
        if top in processed or -score != scores[top]:
            continue  # a stale entry: a neighbour has lowered this score since
        processed.add(top)
        for frame in range(max(top - window + 1, 0), min(top + window, len(scores))):
            if frame not in processed:
                scores[frame] *= ((frame - top) / window) ** 2
                heappush(waiting, (-scores[frame], frame))
    return scores
