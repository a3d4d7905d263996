"""When a score is unusual for its camera: a level that follows the camera's own last minutes, and what counts as one event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class DetectorConfig:
    """When it rings.

    Args:
        smoothing: weight of a frame's own score in the running score.
        window: frames from which the usual level is taken.
        warmup: frames after a camera's first, or after a cut, before anything can be an event.
        factor: an event begins this many median absolute deviations above the median of the window,
        least: but at no score below this,
        release: and ends when the running score is below this share of that height.
        longest: frames after which what is there counts as usual.
        cooldown: frames from one event's beginning to the next one's, at least.
    """

    smoothing: float = 0.4
    window: int = 300
    warmup: int = 20
    factor: float = 4.0
    least: float = 0.0
    release: float = 0.5
    longest: int = 100
    cooldown: int = 30


class Watch(NamedTuple):
    """What is remembered of B cameras.

    Args:
        past: `[B, W]`, running scores of frames without an event, newest last; negative where there were none yet.
        smooth: `[B]`, the running score.
        frames: `[B]`, since the first.
        since: `[B]`, frames since the last event's beginning.
        novel: `[B]`, 1 while an event lasts, -1 while what lasted too long is still there, else 0.
    """

    past: Tensor
    smooth: Tensor
    frames: Tensor
    since: Tensor
    novel: Tensor


class Verdict(NamedTuple):
    """Of a frame, `[B]` each: its own score and the running one, the level above which that is an event, whether one lasts, and
    begins here."""

    raw: Tensor
    score: Tensor
    level: Tensor
    novel: Tensor
    begins: Tensor


def blank(count: int, config: DetectorConfig) -> Watch:
    """What is remembered before a first frame."""
    zero = torch.zeros(count)
    return Watch(torch.full((count, config.window), -1.0), zero, zero, torch.full((count,), 1e6), zero)


def watch(
    seen: Watch, score: Tensor, config: DetectorConfig, *, heights: tuple[Tensor, Tensor] | None = None
) -> tuple[Verdict, Watch]:
    """Take each camera's next score `[B]`; `heights`, `factor` and `least` `[B]` each in place of the config's, to try several.

    Median and deviation do not follow a few large scores, and an event's own are left out: a novelty does not raise the level.
    """
    c = config
    smooth = torch.where(seen.frames > 0, seen.smooth + c.smoothing * (score - seen.smooth), score)
    known = seen.past.masked_fill(seen.past < 0, torch.nan)
    median = known.nanmedian(1).values.nan_to_num(0.0)
    spread = (known - median[:, None]).abs().nanmedian(1).values.nan_to_num(0.0)
    factor, least = heights or (c.factor, spread.new_tensor(c.least))
    height = torch.maximum(factor * spread + 1e-6, least - median)
    level = median + height
    ready = (seen.frames >= c.warmup) & (seen.since >= c.cooldown)
    high = smooth > median + c.release * height
    begins = (seen.novel == 0) & ready & (smooth > level)
    novel = begins | ((seen.novel > 0) & high & (seen.since < c.longest))
    # What lasts too long becomes usual, and is no event again until it has been away.
    worn = ~novel & high & (seen.novel != 0)
    past = torch.where(novel[:, None], seen.past, torch.cat([seen.past[:, 1:], smooth[:, None]], 1))
    since = torch.where(begins, 0.0, seen.since) + 1
    return Verdict(score, smooth, level, novel, begins), Watch(
        past, smooth, seen.frames + 1, since, novel.float() - worn.float()
    )
