"""When each row of a step came, and what falls due before it: so that any split into steps gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Groups

OLD_MS = 60_000
"""Clocks and batches of producers that share a partition are less apart. Which of their rows share a step makes no difference."""


@dataclass(frozen=True)
class Arrivals:
    """When each of a step's rows came.

    Kafka's timestamps say so as far as they can. Within a partition they never go back, and one that is ahead of the wall's
    clock says nothing.

    Args:
        least: `[B]` int64, ms since the epoch: the row came at this time or later.
        heard: `[B]` int64, when its key counts as heard of: `least`. But the step's clock, if that is ahead of all rows and the
            row's timestamp is `OLD_MS` older than what was known before the step: such rows are of old recordings, sent just now.
        reached: partition -> `least` of its newest row.
    """

    least: Tensor
    heard: Tensor
    reached: Mapping[int, int]

    @classmethod
    def of(cls, batch: pa.RecordBatch, now: int, wall: int | None, before: int, reached: Mapping[int, int]) -> Arrivals:
        """Of a step's rows.

        Args:
            now: the step's clock.
            wall: the wall's clock; None: there is none, and the rows are in the order in which they came, as if of one partition.
            before: the clock of the step before.
            reached: after the step before.
        """
        stamps = batch.column("_timestamp").cast(pa.int64()).fill_null(0).to_numpy()
        partitions = batch.column("_partition").to_numpy() if wall is not None else np.zeros(len(stamps), np.int32)
        stamps = stamps if wall is None else np.where(stamps > wall, 0, stamps)
        known, least, ends = np.empty_like(stamps), np.empty_like(stamps), dict(reached)
        for start, end in pairwise(np.flatnonzero(np.diff(partitions, prepend=-1, append=-1)).tolist()):
            p = int(partitions[start])
            known[start:end] = max(before, ends.get(p, 0))
            least[start:end] = np.maximum(np.maximum.accumulate(stamps[start:end]), known[start])
            ends[p] = int(least[end - 1])
        sent_now = (stamps <= known - OLD_MS) & (now > least.max(initial=0))
        return cls(torch.from_numpy(least), torch.from_numpy(np.where(sent_now, now, least)), ends)

    def keep(self, index: Tensor) -> Arrivals:
        """Those of the rows at `index`."""
        return Arrivals(self.least[index], self.heard[index], self.reached)


def crossed(g: Groups, least: Tensor, clock: Tensor, due: Tensor) -> Tensor:
    """Before which rows something falls due, in the groups' order, `[B]` bool.

    Args:
        least: `[B]`, when rows came, in the groups' order.
        clock: `[capacity]`, up to when each key's dues have been acted on.
        due: `[B]`, when the thing that was pending before each row is due.
    """
    passed = torch.empty_like(least)
    passed[1:] = least[:-1]
    passed[g.starts] = clock[g.slots]
    return (passed < due) & (due <= least)


def before_each(g: Groups, values: Tensor, counts: Tensor, start: Tensor) -> Tensor:
    """The value of the last row that counts before each row, in the groups' order; `start` (`[K]`) where there is none."""
    n = len(values)
    place = torch.arange(n)
    last = torch.where(counts, place, -1).cummax(0).values
    last = torch.cat([last.new_full((1,), -1), last[:-1]])
    first = torch.repeat_interleave(g.starts, g.lengths)
    own = torch.repeat_interleave(start, g.lengths)
    return torch.where(last >= first, values[last.clamp(min=0)], own)


def segments(g: Groups, cuts: Tensor) -> Tensor:
    """How many cuts lie between its key's first row and each row, `[B]` int64 in the rows' own order."""
    counted = cuts.long().cumsum(0)
    out = torch.empty_like(counted)
    out[g.order] = counted - torch.repeat_interleave(counted[g.starts], g.lengths)
    return out
