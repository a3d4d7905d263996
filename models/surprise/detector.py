"""Finds events in scores: a level follows each camera's last minutes, and a score above it begins an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class DetectorConfig:
    """When an event begins and ends.

    Args:
        smoothing: weight of a frame's own score in the running score.
        window: number of past frames whose median and deviation define the usual level.
        warmup: frames of a camera before its first event can begin.
        factor: median absolute deviations above the window's median at which an event begins.
        least: lowest running score at which an event begins.
        release: an event ends when the running score is below this share of the way from the median to the level.
        longest: frames after which an event ends; a score that is still high then counts as usual.
        cooldown: least number of frames between the beginnings of two events.
    """

    smoothing: float = 0.4
    window: int = 300
    warmup: int = 20
    factor: float = 4.0
    least: float = 0.0
    release: float = 0.5
    longest: int = 100
    cooldown: int = 30


class DetectorState(NamedTuple):
    """The detector's state for B cameras.

    Args:
        past: `[B, W]`, running scores of frames outside events, newest last; negative where there is none yet.
        smooth: `[B]`, the running score.
        frames: `[B]`, number of frames so far.
        since: `[B]`, frames since the last event began.
        novel: `[B]`, 1 during an event, -1 while the score stays high after an event that reached `longest`, else 0.
    """

    past: Tensor
    smooth: Tensor
    frames: Tensor
    since: Tensor
    novel: Tensor


class Verdict(NamedTuple):
    """The detector's result for one frame of B cameras, `[B]` each.

    Args:
        raw: the frame's own score.
        score: the running score.
        level: the running score above which an event begins.
        novel: whether the frame belongs to an event.
        begins: whether an event begins at the frame.
    """

    raw: Tensor
    score: Tensor
    level: Tensor
    novel: Tensor
    begins: Tensor


def blank(count: int, config: DetectorConfig) -> DetectorState:
    """The state before the first frame."""
    zero = torch.zeros(count)
    return DetectorState(torch.full((count, config.window), -1.0), zero, zero, torch.full((count,), 1e6), zero)


def step(
    state: DetectorState, score: Tensor, config: DetectorConfig, *, heights: tuple[Tensor, Tensor] | None = None
) -> tuple[Verdict, DetectorState]:
    """Process each camera's next score `[B]`.

    A novelty does not raise the level: median and deviation do not follow a few large scores, and an event's scores are left out.

    Args:
        heights: `factor` and `least`, `[B]` each, in place of the config's; used to try several.
    """
    c = config
    smooth = torch.where(state.frames > 0, state.smooth + c.smoothing * (score - state.smooth), score)
    scores = state.past.masked_fill(state.past < 0, torch.nan)
    median = scores.nanmedian(1).values.nan_to_num(0.0)
    spread = (scores - median[:, None]).abs().nanmedian(1).values.nan_to_num(0.0)
    factor, least = heights or (c.factor, spread.new_tensor(c.least))
    height = torch.maximum(factor * spread + 1e-6, least - median)
    level = median + height
    ready = (state.frames >= c.warmup) & (state.since >= c.cooldown)
    high = smooth > median + c.release * height
    begins = (state.novel == 0) & ready & (smooth > level)
    novel = begins | ((state.novel > 0) & high & (state.since < c.longest))
    # A score that stays high for too long becomes usual. It begins no new event until it has dropped.
    expired = ~novel & high & (state.novel != 0)
    past = torch.where(novel[:, None], state.past, torch.cat([state.past[:, 1:], smooth[:, None]], 1))
    since = torch.where(begins, 0.0, state.since) + 1
    return Verdict(score, smooth, level, novel, begins), DetectorState(
        past, smooth, state.frames + 1, since, novel.float() - expired.float()
    )
