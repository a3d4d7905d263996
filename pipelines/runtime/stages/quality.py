"""Judges whether the last readings of each key can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Groups, Rows, milliseconds_of
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores

QUALITY, REASON, CHANNEL = COLUMNS = ("quality", "reason", "channel")
"""The columns that the stage adds."""
SPAN = 4096
"""Trusted rows after which the memory forgets: each later row replaces a remembered one as often as if it were this one."""
YOUNG = 1024
"""Trusted rows up to which a window is trusted at a lower level: a key that is hardly known does much that is new."""
LARGEST = 1e30
"""Readings beyond this are limited to it."""
TURNS = (0.7548776662466927, 0.5698402909980532)
"""Parts of a turn from one row to the next: which rows are remembered, and in whose place, evenly and without random numbers."""


class Judge(Protocol):
    """Judges windows of several keys."""

    def __call__(
        self, times: Tensor, windows: Tensor, memory: Tensor, limits: Tensor, seen: Tensor
    ) -> Mapping[str, Tensor]:
        """Judge a batch.

        Args:
            times: `[B, T + 1] float64`. windows: `[B, T + 1, C] float32`, NaN where missing; the first row is the one before the
                window.
            memory: `[B, R, 2 C + 1] float32`, rows of the key that were trusted: their readings, those of the rows before them, and
                the time between; NaN where there is none.
            limits: `[B, 2, C] float32`, the lowest and highest trusted readings.
            seen: `[B] int64`, trusted rows so far.

        Returns:
            `quality` `[B]`, 1 is good; `reason` `[B] int64`; `channel` `[B] int64`, -1 for none of them.
        """
        ...


class Quality(Stage):
    """Adds `quality` (1: good, 0: bad), and where it is below `level` the `reason` and the `channel` at fault, if it is one.

    Every `every` rows of a key, its last `window` rows are judged against rows of its own past that were trusted; the rows up to
    the next time carry that verdict. A window is trusted if none of its verdicts, nor those of the window after it, is below
    `level`; while fewer than `YOUNG` rows were trusted, a proportionally lower level will do. The memory is filled by the first
    rows, which are trusted as they are; until then, the columns are null. It then changes ever more slowly, up to a `SPAN` of rows.

    Rows are taken as they come: put it behind `Reorder` where their order matters. It changes no reading.

    Args:
        columns: columns of numbers; null is a missing reading.
        judge: judges windows.
        window, memory: rows that it sees and remembers.
        reasons: the names of what it may find.
        level: quality below which a window is bad.
        time: the column with the rows' time; None: rows are evenly spaced.
        every: rows from one verdict to the next; divides `window`.
        fresh: a column whose `<column>_age` (s, as `Resample` has it) is above this is missing. None: one that is null.
        sparse: pass on only the rows with a verdict of their own.
        relearn: rows in a row without trust after which the past is forgotten, and what comes is usual. None: never.
    """

    numbered = False

    def __init__(
        self,
        columns: Sequence[str],
        judge: Judge,
        *,
        window: int,
        memory: int,
        reasons: Sequence[str],
        level: float,
        time: str | None = None,
        every: int = 8,
        fresh: float | None = None,
        sparse: bool = False,
        relearn: int | None = None,
    ) -> None:
        if window % every:
            raise ValueError(f"every: expected a divisor of the window ({window}), got {every}")
        self._columns, self._judge, self._window, self._memory = tuple(columns), judge, window, memory
        self._level, self._time, self._every, self._fresh = level, time, every, fresh
        self._sparse, self._relearn = sparse, relearn
        self._reasons, self._names = pa.array(reasons, pa.string()), pa.array(self._columns, pa.string())
        # The state's name tells its shape: other columns begin anew.
        self.stored_as = f"Quality-{window}x{len(self._columns)}"

    @property
    def state(self) -> Mapping[str, Declared]:
        width, past = len(self._columns), 2 * self._window
        whole = Cell(dtype=torch.int64, added=True)
        return {
            "past": Cell((past, width), fill=np.nan, added=True),
            "times": Cell((past,), torch.float64, np.nan, added=True),
            "memory": Cell((self._memory, 2 * width + 1), fill=np.nan, added=True),
            "limits": Cell((2, width), fill=np.nan, added=True),
            "rows": whole,
            "trusted": whole,
            "doubted": whole,  # rows without trust, in a row
            "worst": Cell(fill=1, added=True),  # verdict since the last window ended
            "good": Cell(dtype=torch.bool, added=True),  # the last window
            "quality": Cell(fill=np.nan, added=True),
            "reason": whole,
            "channel": whole,
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        if not len(rows):
            return self._marked(rows, torch.empty(0), torch.empty(0).long(), torch.empty(0).long())
        g = rows.groups()
        laid = _Laid(g, self._times(rows), self._readings(rows), state, past=2 * self._window)
        verdicts = self._verdicts(laid, state)
        quality, reason, channel, own = _spread(laid, verdicts, state)
        laid.keep(state)
        marked = self._marked(rows, *map(g.unsorted, (quality, reason, channel)))
        return marked.keep(g.unsorted(own)) if self._sparse else marked

    def _verdicts(self, laid: _Laid, state: Stores) -> _Verdicts:
        """Judge each window that ends in these rows; a key's windows in turn, as they change what is trusted."""
        due = (laid.count % self._every == 0).nonzero()[:, 0]
        verdicts = _Verdicts.none(due)
        block = (laid.count - 1) // self._window
        turn = block - laid.g.each(block[laid.g.starts])
        turns = turn[due]
        for number in range(int(turns.max()) + 1 if len(due) else 0):
            index = (turns == number).nonzero()[:, 0]
            slots = laid.slots[due[index]]
            ready = state.cell("trusted")[slots] >= self._window
            self._judged(laid, verdicts, index[ready], state)
            low = torch.ones(len(index)).masked_scatter(ready, verdicts.quality[index[ready]])
            # Of each key: the worst verdict since its last window ended; its rows here are next to each other.
            unique, place = torch.unique_consecutive(slots, return_inverse=True)
            worst = state.cell("worst")[unique].scatter_reduce(0, place, low, "amin")
            state.cell("worst")[unique] = worst
            ends = (laid.count[due[index]] % self._window == 0).nonzero()[:, 0]
            if len(ends):
                self._end(laid, due[index[ends]], worst[place[ends]], state)
        return verdicts

    def _judged(self, laid: _Laid, verdicts: _Verdicts, index: Tensor, state: Stores) -> None:
        """Set the verdicts at `index`."""
        if not len(index):
            return
        at, slots = verdicts.at[index], laid.slots[verdicts.at[index]]
        times, windows = laid.rows(at, torch.arange(-self._window, 1))
        found = self._judge(
            times - times[:, -1:],
            windows,
            state.cell("memory")[slots],
            state.cell("limits")[slots],
            state.cell("trusted")[slots].clamp(max=SPAN),
        )
        verdicts.quality[index] = found["quality"]
        verdicts.reason[index], verdicts.channel[index] = found["reason"], found["channel"]

    def _end(self, laid: _Laid, at: Tensor, worst: Tensor, state: Stores) -> None:
        """Windows have ended at the rows `at`: those before them are remembered if both are trusted."""
        slots = laid.slots[at]
        good = worst >= self._level * (state.cell("trusted")[slots] / YOUNG).clamp(max=1)
        before = good & state.cell("good")[slots]
        if before.any():
            self._remember(laid, at[before], state)
        doubted = torch.where(good, 0, state.cell("doubted")[slots] + self._window)
        if self._relearn is not None and (again := doubted >= self._relearn).any():
            for name, value in (("memory", np.nan), ("limits", np.nan), ("trusted", 0), ("quality", np.nan)):
                state.cell(name)[slots[again]] = value
            doubted[again], good = 0, good | again
        state.cell("doubted")[slots], state.cell("good")[slots], state.cell("worst")[slots] = doubted, good, 1.0

    def _remember(self, laid: _Laid, at: Tensor, state: Stores) -> None:
        """Put rows of the window before the last one into the memory; the later a row, the less likely."""
        slots, size = laid.slots[at], self._memory
        times, rows = laid.rows(at, torch.arange(-2 * self._window, 1 - self._window))
        interval = times.diff(dim=1).float().unsqueeze(-1)
        new = torch.cat([rows[:, 1:], rows[:, :-1], interval], -1)  # [K, T, 2 C + 1]
        trusted = state.cell("trusted")[slots]
        number = trusted.unsqueeze(1) + torch.arange(self._window)  # [K, T], from 0
        kept, place = ((number.double() * turn).frac() for turn in TURNS)
        first = number < size
        is_kept = first | (kept * (number + 1).clamp(max=SPAN) < size)
        place = torch.where(first, number, (place * size).long())
        goes = is_kept.unsqueeze(2) & (place.unsqueeze(2) == torch.arange(size))  # [K, T, R]
        last = torch.where(goes, torch.arange(1, self._window + 1).view(1, -1, 1), 0).amax(1)  # [K, R], 0: none
        chosen = new.gather(1, (last - 1).clamp(min=0).unsqueeze(-1).expand(-1, -1, new.shape[-1]))
        memory = state.cell("memory")
        memory[slots] = torch.where((last > 0).unsqueeze(-1), chosen, memory[slots])
        low, high = state.cell("limits")[slots].unbind(1)
        low = torch.fmin(low, torch.where(rows.isnan(), np.inf, rows)[:, 1:].amin(1))
        high = torch.fmax(high, torch.where(rows.isnan(), -np.inf, rows)[:, 1:].amax(1))
        limits = torch.stack([low, high], 1)
        state.cell("limits")[slots] = torch.where(limits.isinf(), torch.nan, limits)
        state.cell("trusted")[slots] = trusted + self._window

    def _readings(self, rows: Rows) -> Tensor:
        """The columns, `[B, C] float32`, NaN where missing."""
        readings = np.empty((len(rows), len(self._columns)), np.float32)
        for i, name in enumerate(self._columns):
            values = rows.table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            readings[:, i] = values.clip(-LARGEST, LARGEST)
            if self._fresh is not None:
                age = rows.table.column(f"{name}_age").to_numpy(zero_copy_only=False)
                readings[~(age <= self._fresh), i] = np.nan
        return torch.from_numpy(readings)

    def _times(self, rows: Rows) -> Tensor | None:
        """The rows' times, `[B] float64`; those of a moment in s. None: they are evenly spaced."""
        if self._time is None:
            return None
        column = rows.table.column(self._time)
        if pa.types.is_timestamp(column.type):
            return torch.from_numpy(milliseconds_of(column).astype(np.float64) / 1000)
        return torch.from_numpy(column.to_numpy(zero_copy_only=False).astype(np.float64))

    def _marked(self, rows: Rows, quality: Tensor, reason: Tensor, channel: Tensor) -> Rows:
        """The rows with the columns."""
        values = quality.numpy()
        with np.errstate(invalid="ignore"):
            bad = values < self._level
        reasons = self._reasons.take(pa.array(reason.numpy(), mask=~bad))
        channels = self._names.take(pa.array(channel.numpy(), mask=~bad | (channel.numpy() < 0)))
        return rows.with_columns(
            {QUALITY: pa.array(values, pa.float32(), from_pandas=True), REASON: reasons, CHANNEL: channels}
        )


class _Verdicts:
    """The verdicts of a step.

    Attributes:
        at: `[K]`, the rows in the groups' order that they end in.
        quality, reason, channel: `[K]`; the quality is NaN where a key is not known well enough.
    """

    def __init__(self, at: Tensor, quality: Tensor, reason: Tensor, channel: Tensor) -> None:
        self.at, self.quality, self.reason, self.channel = at, quality, reason, channel

    @classmethod
    def none(cls, at: Tensor) -> _Verdicts:
        return cls(at, torch.full((len(at),), torch.nan), torch.zeros_like(at), torch.full_like(at, -1))


class _Laid:
    """The rows of a step in the groups' order, each key's last rows before its new ones.

    Attributes:
        g: the groups.
        slots, count: `[B]`, each row's slot, and its number among the rows of its key, from 1.
    """

    def __init__(self, g: Groups, times: Tensor | None, readings: Tensor, state: Stores, *, past: int) -> None:
        self.g, self._past = g, past
        self.slots = g.each(g.slots)
        self.count = g.each(state.cell("rows")[g.slots]) + g.ranks + 1
        length, _, old, self._at = g.laid_out(past)
        self._readings = torch.empty(length, readings.shape[1])
        self._times = torch.empty(length, dtype=torch.float64)
        self._readings[old], self._times[old] = state.cell("past")[g.slots], state.cell("times")[g.slots]
        self._readings[self._at] = readings[g.order]
        self._times[self._at] = self.count.double() if times is None else times[g.order]

    def rows(self, at: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Times `[K, M]` and readings `[K, M, C]` at places relative to the rows `at`."""
        places = self._at[at].unsqueeze(1) + offsets
        flat = places.flatten()
        return self._times[flat].view(places.shape), self._readings[flat].unflatten(0, places.shape)

    def keep(self, state: Stores) -> None:
        """Store each key's last rows."""
        last = self.g.ends
        times, readings = self.rows(last, torch.arange(1 - self._past, 1))
        state.cell("times")[self.g.slots], state.cell("past")[self.g.slots] = times, readings
        state.cell("rows")[self.g.slots] = self.count[last]


def _spread(laid: _Laid, verdicts: _Verdicts, state: Stores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row's verdict, in the groups' order, and whether it is the row's own; the last ones are stored."""
    g, rows = laid.g, len(laid.slots)
    own = torch.zeros(rows, dtype=torch.bool)
    own[verdicts.at] = True
    latest = torch.full((rows,), -1)
    latest[verdicts.at] = torch.arange(len(verdicts.at))
    latest = latest.cummax(0).values
    before = torch.cat([torch.zeros(1, dtype=torch.int64), own.long().cumsum(0)])[
        g.starts
    ]  # verdicts of earlier groups
    is_new = latest >= g.each(before)
    found = []
    for name in COLUMNS:
        stored, new = g.each(state.cell(name)[g.slots]), getattr(verdicts, name)
        values = torch.where(is_new, new[latest.clamp(min=0)], stored) if len(new) else stored
        state.cell(name)[g.slots] = values[g.ends]
        found.append(values)
    return found[0], found[1], found[2], own & ~found[0].isnan()
