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
        recent: number of last frames, during an event as well, whose median running score is the score's recent course. An event
            is compared with it once it is as old.
        rise: how far the running score must rise above its recent course to begin another event while it is still high from the
            last one, as a share of the way from the median to the level, and by `factor` deviations of the course at least; 0
            turns this off.
        fall: an event also ends when the running score is below this share of the way from the median to its recent course; 0
            turns this off.
    """

    smoothing: float = 0.4
    window: int = 300
    warmup: int = 20
    factor: float = 4.0
    least: float = 0.0
    release: float = 0.5
    longest: int = 100
    cooldown: int = 30
    recent: int = 20
    rise: float = 0.75
    fall: float = 0.5


class DetectorState(NamedTuple):
    """The detector's state for B cameras.

    Args:
        past: `[B, W]`, running scores of frames outside events, newest last; negative where there is none yet.
        smooth: `[B]`, the running score.
        frames: `[B]`, number of frames so far.
        since: `[B]`, frames since the last event began.
        novel: `[B]`, 1 during an event, -1 while the score stays high after an event that reached `longest`, else 0.
        course: `[B, R]`, the last running scores of all frames, newest last; negative where there is none yet.
    """

    past: Tensor
    smooth: Tensor
    frames: Tensor
    since: Tensor
    novel: Tensor
    course: Tensor


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
    past, course = (torch.full((count, size), -1.0) for size in (config.window, config.recent))
    return DetectorState(past, zero, zero, torch.full((count,), 1e6), zero, course)


def step(
    state: DetectorState, score: Tensor, config: DetectorConfig, *, heights: tuple[Tensor, Tensor] | None = None
) -> tuple[Verdict, DetectorState]:
    """Process each camera's next score `[B]`.

    A novelty does not raise the level: median and deviation do not follow a few large scores, and an event's scores are left out.
    During an event the score is compared with its own recent course, so that the next novelty need not wait for the end of the
    last one: at a rise the event ends, and the next one begins with the next frame.

    Args:
        heights: `factor` and `least`, `[B]` each, in place of the config's; used to try several.
    """
    c = config
    smooth = torch.where(state.frames > 0, state.smooth + c.smoothing * (score - state.smooth), score)
    median = _median(state.past)
    spread = _median((state.past - median[:, None]).abs().masked_fill(state.past < 0, -1.0))
    factor, least = heights or (c.factor, spread.new_tensor(c.least))
    height = torch.maximum(factor * spread + 1e-6, least - median)
    level, course = median + height, _median(state.course)
    course_spread = _median((state.course - course[:, None]).abs().masked_fill(state.course < 0, -1.0))
    ready = (state.frames >= c.warmup) & (state.since >= c.cooldown)
    above = ready & (smooth > level)
    settled = state.since >= c.recent  # the course is all the event's own
    rise = torch.maximum(c.rise * height, factor * course_spread)
    rises = above & settled & (smooth > course + rise) if c.rise else torch.zeros_like(above)
    high = smooth > median + c.release * height
    fallen = settled & (smooth <= median + c.fall * (course - median))
    lasts = high & ~fallen & (state.since < c.longest) & ~rises
    begins = ((state.novel == 0) & above) | ((state.novel < 0) & rises)
    novel = begins | ((state.novel > 0) & lasts)
    # A score that is still high after an event becomes usual. It begins no new event until it has dropped, or rises again.
    stays = ~novel & high & (state.novel != 0) & ~rises
    past = torch.where(novel[:, None], state.past, torch.cat([state.past[:, 1:], smooth[:, None]], 1))
    since = torch.where(begins, 0.0, state.since) + 1
    return Verdict(score, smooth, level, novel, begins), DetectorState(
        past,
        smooth,
        state.frames + 1,
        since,
        novel.float() - stays.float(),
        torch.cat([state.course[:, 1:], smooth[:, None]], 1),
    )


def _median(values: Tensor) -> Tensor:
    """The median of each row, without negative values, `[B, N]` -> `[B]`; 0 for a row without any."""
    return values.masked_fill(values < 0, torch.nan).nanmedian(1).values.nan_to_num(0.0)
