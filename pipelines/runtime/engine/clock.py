"""Arrival times of rows, and the deadlines before each row. Results do not depend on the split into steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Groups, arrival_times, edges

OLD_MS = 60_000
"""Age from which a row counts as an old recording. Clocks and batches of producers that share a partition differ by less, so it
makes no difference which of their rows share a step."""


@dataclass(frozen=True)
class Arrivals:
    """Arrival times of a step's rows.

    They are derived from Kafka's timestamps. Within a partition they never decrease. A timestamp ahead of the wall clock is
    ignored.

    Args:
        earliest: `[B]` int64, ms since the epoch: the row arrived at this time or later.
        last_active: `[B]` int64, ms since the epoch: when each row's key was last active. This is `earliest`, except for rows of
            old recordings that were sent just now. Those have a timestamp at least `OLD_MS` older than what was known before the
            step, and the step's clock is ahead of all rows. For them it is the step's clock.
        reached: partition -> `earliest` of its newest row.
    """

    earliest: Tensor
    last_active: Tensor
    reached: Mapping[int, int]

    @classmethod
    def of(
        cls, batch: pa.RecordBatch, now: int, wall: int | None, previous: int, reached: Mapping[int, int]
    ) -> Arrivals:
        """Compute the arrival times of a step's rows.

        Args:
            now: the step's clock.
            wall: the wall clock; None: there is none, and the rows are in order of arrival, as if from one partition.
            previous: the clock of the previous step.
            reached: as of the previous step.
        """
        timestamps = arrival_times(batch)
        partitions = batch.column("_partition").to_numpy() if wall is not None else np.zeros(len(timestamps), np.int32)
        timestamps = timestamps if wall is None else np.where(timestamps > wall, 0, timestamps)
        floor, earliest, newest = np.empty_like(timestamps), np.empty_like(timestamps), dict(reached)
        for start, end in pairwise(edges(partitions)):
            p = int(partitions[start])
            floor[start:end] = max(previous, newest.get(p, 0))
            earliest[start:end] = np.maximum(np.maximum.accumulate(timestamps[start:end]), floor[start])
            newest[p] = int(earliest[end - 1])
        sent_now = (timestamps <= floor - OLD_MS) & (now > earliest.max(initial=0))
        return cls(torch.from_numpy(earliest), torch.from_numpy(np.where(sent_now, now, earliest)), newest)

    def take(self, index: Tensor) -> Arrivals:
        """The arrival times of the rows at `index`."""
        return Arrivals(self.earliest[index], self.last_active[index], self.reached)


def crossed(g: Groups, earliest: Tensor, clock: Tensor, due: Tensor) -> Tensor:
    """Mark the rows before which a deadline of their key passes, in the groups' order, `[B]` bool.

    Args:
        earliest: `[B]`, arrival times of the rows, in the groups' order.
        clock: `[capacity]`, the time up to which each key's deadlines have been handled.
        due: `[B]`, the deadline that is pending before each row.
    """
    previous = torch.empty_like(earliest)
    previous[1:] = earliest[:-1]
    previous[g.starts] = clock[g.slots]
    return (previous < due) & (due <= earliest)


def before_each(g: Groups, values: Tensor, counts: Tensor, start: Tensor) -> Tensor:
    """For each row, the value of the last counted row before it, in the groups' order; `start` (`[K]`) if there is none."""
    n = len(values)
    index = torch.arange(n)
    last = torch.where(counts, index, -1).cummax(0).values
    last = torch.cat([last.new_full((1,), -1), last[:-1]])
    return torch.where(last >= g.each(g.starts), values[last.clamp(min=0)], g.each(start))


def segments(g: Groups, cuts: Tensor) -> Tensor:
    """For each row, the number of cuts since its key's first row, `[B]` int64 in the rows' original order."""
    totals = cuts.long().cumsum(0)
    return g.unsorted(totals - g.each(totals[g.starts]))
