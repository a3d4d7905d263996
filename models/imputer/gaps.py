"""Series of readings with simulated gaps: at random, in blocks as when a sensor drops out, or whole rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tocsin.models.imputer.config import ImputerConfig
from tocsin.models.imputer.levels import Levels
from tocsin.models.imputer.network import FAR

RANDOM, BLOCKS, ROWS = KINDS = ("random", "blocks", "rows")
"""Single readings; stretches of one sensor; all sensors of a row."""


def gaps(rows: int, columns: int, kind: str, *, share: float, length: float, generator: torch.Generator) -> Tensor:
    """Which readings of one series are missing, `[rows, columns] bool`.

    Args:
        share: of the readings, on average; above 0 and below 1.
        length: mean length of a stretch in rows, of `BLOCKS`.
    """
    if kind == RANDOM:
        return torch.rand(rows, columns, generator=generator) < share
    if kind == ROWS:
        return (torch.rand(rows, 1, generator=generator) < share).expand(rows, columns)
    missing = torch.zeros(rows, columns, dtype=torch.bool)
    means = (max(1.0, length * (1 - share) / share), length)  # of stretches with and without readings
    for column in missing.unbind(1):
        is_out, at = bool(torch.rand((), generator=generator) < share), 0
        while at < rows:
            until = at + 1 + int(torch.empty(()).exponential_(1 / means[is_out], generator=generator))
            column[at:until] = is_out
            is_out, at = not is_out, until
    return missing


class Batch(NamedTuple):
    """Windows of a stream with gaps, as `Imputer` gets them, and the truth.

    Args:
        windows: `[B, T, C]`, NaN in gaps. carried, age: `[B, C]`.
        truth: `[B, T, C]`, NaN where there never was a reading.
    """

    windows: Tensor
    carried: Tensor
    age: Tensor
    truth: Tensor

    @property
    def missing(self) -> Tensor:
        """The gaps whose truth is known, `[B, T, C] bool`."""
        return self.windows.isnan() & ~self.truth.isnan()


@dataclass(frozen=True)
class Gapped:
    """Series, one after the other, standardised and with gaps.

    Attributes:
        truth: `[N, C] float32`, NaN where there never was a reading.
        shown: `[N, C]`, the same with the gaps.
        carried, age: `[N, C]`, the last shown value and how many rows ago it was.
        first: `[N] int64`, the first row of each row's series.
    """

    truth: Tensor
    shown: Tensor
    carried: Tensor
    age: Tensor
    first: Tensor

    @classmethod
    def of(cls, series: Sequence[Tensor], levels: Levels, missing: Sequence[Tensor]) -> Gapped:
        """Standardise series `[n, C]` and open their gaps, each `[n, C] bool`."""
        shown_rows = [torch.where(gap, torch.nan, rows.double()) for rows, gap in zip(series, missing, strict=True)]
        rows, shown_raw = torch.cat([each.double() for each in series]), torch.cat(shown_rows)
        shown, regime = levels.standardise(shown_raw)  # the regime must not see what is missing
        truth = ((rows - levels.mean[regime]) / levels.deviation[regime]).float()
        lengths = torch.tensor([len(each) for each in series])
        first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        at = torch.arange(len(rows)).unsqueeze(1)
        last = torch.where(shown.isnan(), -1, at).cummax(0).values
        has = last >= first.unsqueeze(1)
        carried = torch.where(has, shown.gather(0, last.clamp(min=0)), 0.0)
        return cls(truth, shown, carried, torch.where(has, (at - last).float(), FAR), first)

    def at(self, rows: Tensor, config: ImputerConfig, *, ahead: int = 0) -> Batch:
        """The windows of some rows `[B]`.

        Args:
            ahead: steps of the window that come after each row: 0 in a stream.
        """
        back = config.stride * torch.arange(1 - config.times + ahead, 1 + ahead)
        places = rows.unsqueeze(1) + back
        first = self.first[rows].unsqueeze(1)
        inside = (places >= first) & (places < len(self.first))
        places = places.clamp(min=0, max=len(self.first) - 1)
        inside &= self.first[places] == first
        end = torch.where(inside, places, 0).amax(1)
        inside = inside.unsqueeze(-1)
        windows, truth = (x[places].masked_fill(~inside, math.nan) for x in (self.shown, self.truth))
        return Batch(windows, self.carried[end], self.age[end], truth)


def opened(
    series: Sequence[Tensor],
    levels: Levels,
    kind: str | None,
    *,
    share: float | tuple[float, float],
    length: float | tuple[float, float],
    generator: torch.Generator,
) -> Gapped:
    """Series with random gaps; kind None: each series has one of `KINDS`.

    A share or a length is drawn from its range for each series; a length on a logarithmic scale.
    """

    def drawn(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    missing = []
    for rows in series:
        which = kind or KINDS[(0, 1, 1, 1, 2)[int(torch.randint(5, (), generator=generator))]]
        part = drawn(*share) if isinstance(share, tuple) else share
        mean = math.exp(drawn(*map(math.log, length))) if isinstance(length, tuple) else length
        missing.append(gaps(len(rows), rows.shape[1], which, share=part, length=mean, generator=generator))
    return Gapped.of(series, levels, missing)
