"""What is remembered of a camera, bounded: what is usual at each of its places, and prints of its last frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.tampering.measures import APPEARANCE, GRID, MOTION, PRINT, Measured

LOOKS = (*APPEARANCE, "structure")
"""Measures of the view of appearance. structure: correlation of the print with the usual one, around each place."""
MOVES = (*MOTION, "repeated", "replayed", "replaying")
"""Measures of the view of motion. repeated: correlation with the print of the past that is most alike, around each place;
replayed: the same of the whole frame; replaying: the mean of it over the last frames at one distance in time."""
UNITS = (
    *(0.1, 0.05, 0.05, 0.5, 0.4, 0.3, 0.3, 0.3, 0.1, 0.3),
    *(0.5, 0.2, 0.4, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2),
)
"""About the deviation of each measure between cameras."""
CELLS = PRINT[0] * PRINT[1]
FEATURES = ("value", "now", "lately", "peak")
"""Of each measure: its value; by how many deviations it is off what is usual; the mean of that lately, and its last peak."""
WINDOW, STRIDE, MARGIN = 6, 2, 2
"""Of the cells of a print around a place."""
FLOOR = 0.3
"""Mean square of a print below which it holds nothing but rounding."""
FAR = 8.0
"""Deviations beyond which it does not matter how far a measure is off."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Spans of the memory, in frames.

    Args:
        usual: over which what is usual is averaged.
        settles: after which frames that are far off change it little.
        lately: over which a deviation is averaged.
        peak: share of a peak that is left after each frame.
        prints: of the last frames that are remembered.
        near: newest frames that do not count as past ones: a camera at rest looks like itself.
        drift: frames over which the usual print is averaged.
        trail: share of the mean at one distance that is left after each frame.
        floor: least deviation of a measure, in `UNITS`.
    """

    usual: int = 200
    settles: int = 20
    lately: int = 6
    peak: float = 0.97
    prints: int = 320
    near: int = 20
    drift: int = 40
    trail: float = 0.8
    floor: float = 0.15


class Memory(NamedTuple):
    """The memory of B cameras, with L measures.

    Args:
        seen: `[B] int64`, frames.
        mean, square: `[B, L, *GRID]`, the usual measures and their mean square deviation.
        lately, peak: `[B, L, *GRID]`, of the deviations.
        prints: `[B, K, CELLS] int8`, the newest last; usual: `[B, CELLS]`, their mean.
        trail: `[B, K]`, the mean likeness to the print of each age.
    """

    seen: Tensor
    mean: Tensor
    square: Tensor
    lately: Tensor
    peak: Tensor
    prints: Tensor
    usual: Tensor
    trail: Tensor

    @classmethod
    def blank(cls, count: int, config: MemoryConfig) -> Memory:
        """Of `count` cameras before their first frame."""
        mean, square, lately, peak = torch.zeros(4, count, len(UNITS), *GRID)
        return cls(
            seen=torch.zeros(count, dtype=torch.int64),
            mean=mean,
            square=square,
            lately=lately,
            peak=peak,
            prints=torch.zeros(count, config.prints, CELLS, dtype=torch.int8),
            usual=torch.zeros(count, CELLS),
            trail=torch.zeros(count, config.prints),
        )


class Evidence(NamedTuple):
    """What the network sees of a frame.

    Args:
        features: `[B, L, 4, *GRID]`, of `LOOKS` and `MOVES`: `FEATURES`.
        seen: `[B]`, frames of its camera before it.
    """

    features: Tensor
    seen: Tensor


def step(
    memory: Memory, appearance: Tensor, motion: Tensor, prints: Tensor, config: MemoryConfig
) -> tuple[Evidence, Memory]:
    """Compare the frames of B cameras with what is usual and with the past, and remember them.

    Args:
        appearance, motion: `[B, ., *GRID]`, as of `Measured`.
        prints: `[B, *PRINT] int8`.
    """
    c, count = config, memory.seen.float()[:, None, None, None]
    print_ = prints.flatten(1).float()
    structure = alike(print_, memory.usual)
    repeated, whole, trail = _past(memory, print_, c)
    replayed, replaying = (found.amax(1)[:, None, None].expand(-1, *GRID) for found in (whole, trail))
    values = torch.cat([appearance, torch.stack([structure], 1), motion], 1)
    values = torch.cat([values, torch.stack([repeated, replayed, replaying], 1)], 1)
    unit = values.new_tensor(UNITS)[:, None, None]
    known = torch.where(values.isnan(), memory.mean, values)
    deviation = (memory.square + (c.floor * unit) ** 2).sqrt()
    off = known - memory.mean
    far = (off / deviation).clamp(-FAR, FAR) * (count >= c.lately)
    mean, square = averaged(memory.mean, memory.square, off, deviation, count, usual=c.usual, settles=c.settles)
    lately = memory.lately + (far - memory.lately) / c.lately
    peak = torch.maximum(c.peak * memory.peak, far.abs())
    drift = (1 / (count[:, :, 0, 0] + 1)).clamp(min=1 / c.drift)
    usual = memory.usual + drift * (print_ - memory.usual)
    kept = torch.cat([memory.prints[:, 1:], prints.flatten(1)[:, None]], 1)
    features = torch.stack([known / unit, far / 2, lately, peak / 2], 2)
    after = Memory(memory.seen + 1, mean, square, lately, peak, kept, usual, trail)
    return Evidence(features, memory.seen), after


def compared(film: Iterable[Measured], config: MemoryConfig) -> Iterator[Evidence]:
    """The evidence of the frames of one camera from its first one on, each a batch of one."""
    memory = Memory.blank(1, config)
    for frame in film:
        appearance, motion, prints = (torch.from_numpy(np.asarray(part))[None] for part in frame)
        evidence, memory = step(memory, appearance, motion, prints, config)
        yield evidence


def averaged(
    mean: Tensor, square: Tensor, off: Tensor, deviation: Tensor, seen: Tensor, *, usual: int, settles: int
) -> tuple[Tensor, Tensor]:
    """A running mean and mean square deviation with one more value; one that is far off changes them little.

    Args:
        off: by how much the value is off the mean; deviation: what is usual, twice of which counts at most.
        seen: values before it.
        usual, settles: see `MemoryConfig`.
    """
    part = (1 / (seen + 1)).clamp(min=1 / usual)
    near = torch.where(seen >= settles, 2 * deviation, torch.inf)
    taken = off.clamp(-near, near)
    return mean + part * taken, square + part * (taken.square() - square)


def _past(memory: Memory, print_: Tensor, c: MemoryConfig) -> tuple[Tensor, Tensor, Tensor]:
    """How much the print is like those of the past: around each place, to the one that is most alike, `[B, *GRID]`; to each,
    `[B, K]`; and its mean at each age, `[B, K]`.

    The usual print is taken off, so that two frames of a camera at rest share nothing but a replay's grain.
    """
    own = print_ - memory.usual  # [B, P]
    past = memory.prints.float() - memory.usual[:, None]  # [B, K, P]
    dot = torch.einsum("bp,bkp->bk", own, past) / CELLS
    norm = (own.square().mean(1, keepdim=True) * past.square().mean(2)).sqrt() + FLOOR
    ages = torch.arange(c.prints, 0, -1)
    counts = (ages > c.near) & (ages <= memory.seen[:, None])
    whole = (dot / norm).where(counts, 0.0)
    best = past[torch.arange(len(past)), whole.argmax(1)]
    trail = c.trail * memory.trail + (1 - c.trail) * whole
    repeated = alike(own, best) * (memory.seen > c.near)[:, None, None]
    return repeated, whole, trail


def alike(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of two prints `[B, CELLS]` around each place, `[B, *GRID]`."""
    maps = torch.stack([one * other, one.square(), other.square()], 1).unflatten(2, PRINT)
    both, own, of_other = F.avg_pool2d(maps, WINDOW, STRIDE, MARGIN).unbind(1)
    return both / ((own * of_other).sqrt() + FLOOR)
