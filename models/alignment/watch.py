"""Whether a camera of a rig has moved: the last alignments of its frames against the first confident ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tocsin.models.alignment.geometry import Matrix, moved

SIDE = 3
"""Places along each side of the frame at which alignments are compared."""
NUMBERS = 2 * SIDE * SIDE
"""Numbers of an alignment: how far those places move, in x and y."""
SPREAD = 4.0
"""Deviations of the difference of both means that a move has to exceed."""
TO_DEVIATION = 1.4826
"""A median of absolute differences times this is a deviation."""


@dataclass(frozen=True)
class WatchConfig:
    """How a move is found.

    Args:
        confident: least confidence of an alignment that counts.
        references: first confident alignments, whose median is the reference.
        recent: last confident alignments, whose median is compared with it.
    """

    confident: float = 0.8
    references: int = 15
    recent: int = 9


class Watch(NamedTuple):
    """What is known of a rig.

    Args:
        reference: `[NUMBERS]`, of the first confident alignments; spread: `[]`, the usual distance of one from it, pixels.
        ring: `[max(references, recent), NUMBERS]`, the last confident alignments, newest last; held: `[] int64`, their number.
        settled: `[] bool`, whether there is a reference.
    """

    reference: Tensor
    spread: Tensor
    ring: Tensor
    held: Tensor
    settled: Tensor


class Verdict(NamedTuple):
    """How far this alignment is from the reference, pixels, mean over the frame; and how far the last ones are; None: not known.

    `moved` is 0 where the last alignments differ by no more than they vary.
    """

    shift: float | None
    moved: float | None


def blank(config: WatchConfig) -> Watch:
    """Nothing is known."""
    size = max(config.references, config.recent)
    none, no = torch.tensor(0), torch.tensor(False)
    return Watch(torch.zeros(NUMBERS), torch.tensor(0.0), torch.zeros(size, NUMBERS), none, no)


def step(watch: Watch, homography: Matrix, size: tuple[int, int], config: WatchConfig) -> tuple[Verdict, Watch]:
    """Take up a confident alignment.

    Args:
        size: of the frames.
    """
    offsets = described(homography, size)
    ring = torch.cat([watch.ring[1:], offsets[None]])
    held = (watch.held + 1).clamp(max=len(ring))
    if not watch.settled:
        if held < config.references:
            return Verdict(None, None), watch._replace(ring=ring, held=held)
        first = ring[-config.references :]
        reference = first.median(0).values
        spread = TO_DEVIATION * apart(first, reference).median()
        settled = blank(config)._replace(reference=reference, spread=spread, settled=torch.tensor(True))
        return Verdict(float(apart(offsets, reference)), 0.0), settled
    shift = float(apart(offsets, watch.reference))
    kept = watch._replace(ring=ring, held=held)
    if held < config.recent:
        return Verdict(shift, None), kept
    last = ring[-config.recent :]
    middle = last.median(0).values
    usual = max(float(watch.spread), TO_DEVIATION * float(apart(last, middle).median()))
    distance = float(apart(middle, watch.reference))
    likely = usual * (1 / config.recent + 1 / config.references) ** 0.5
    return Verdict(shift, distance if distance > SPREAD * likely else 0.0), kept


def renewed(watch: Watch, config: WatchConfig) -> Watch:
    """The same rig with its last alignments as the reference."""
    last = watch.ring[-config.recent :]
    return watch._replace(reference=last.median(0).values)


def described(homography: Matrix, size: tuple[int, int]) -> Tensor:
    """How far some places of the frame move, `[NUMBERS]`."""
    points = _points(size)
    return torch.from_numpy(np.nan_to_num(moved(homography, points) - points, posinf=1e4).astype(np.float32).ravel())


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Mean distance in pixels of alignments `[..., NUMBERS]`, `[...]`."""
    return (one - other).unflatten(-1, (-1, 2)).norm(dim=-1).mean(-1)


@cache
def _points(size: tuple[int, int]) -> Matrix:
    rows, columns = size
    y, x = (np.arange(SIDE) * 2 + 1) / (2 * SIDE) * (rows - 1), (np.arange(SIDE) * 2 + 1) / (2 * SIDE) * (columns - 1)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
