"""Windows of each row with its key's rows before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER
from tocsin.pipelines.runtime.declare.rows import Groups, Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Ring, RingStore, Stores
from tocsin.pipelines.runtime.stages.positions import positions


class SlidingWindow(Stage):
    """Passes each row on with a window of its key's last `length` rows; one with fewer rows so far is passed on only if `padded`.

    Passes on `tensors[name]`: `[B, length, len(columns)]` float32, oldest first. A row with a number that float32 cannot hold
    becomes a dead letter: as infinity it would spoil every window that it is in.

    Args:
        counter: a column that `Reorder` lets restart; no window reaches back across a restart. None: there is none.
        padded: pass on every row; NaN stands for the rows that its window lacks.
    """

    stored_as = "Last"

    def __init__(
        self,
        length: int,
        columns: Sequence[str],
        *,
        name: str = "window",
        counter: str | None = None,
        padded: bool = False,
    ) -> None:
        self._length, self._columns, self._name, self._counter = length, tuple(columns), name, counter
        self._padded = padded

    @property
    def state(self) -> Mapping[str, Declared]:
        counter = {"counter": Cell(dtype=torch.int64, fill=NEVER, added=True)} if self._counter else {}
        return {"rows": Ring(self._length - 1, len(self._columns), columns=self._columns), **counter}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        ring_buffer, past, width = state["rows"], self._length - 1, len(self._columns)
        assert isinstance(ring_buffer, RingStore)
        rows, values = self._values(rows, ctx)
        if not len(rows):
            return rows.with_tensors(**{self._name: torch.empty(0, self._length, width)})
        g = rows.groups()
        # Slide over each group's past rows and its new ones, [P].
        tail, count = ring_buffer.tail(g.slots)
        places = g.laid_out(past)
        layout = torch.empty(places.length, width)
        layout.index_copy_(0, places.old.flatten(), tail.flatten(0, 1))
        layout.index_copy_(0, places.new, torch.from_numpy(values).index_select(0, g.order))
        newest = places.old + g.lengths[:, None]
        before = g.each(count) + g.ranks
        if self._counter:
            before -= self._before_restart(positions(rows.table.column(self._counter))[g.order], g, before, state)
        count = before[g.ends] + 1
        ring_buffer.replace(g.slots, layout.index_select(0, newest.flatten()).unflatten(0, newest.shape), count)
        is_passed = torch.ones_like(before, dtype=torch.bool) if self._padded else before >= past
        chosen, order = g.order[is_passed].sort()
        starts = places.new[is_passed][order] - past
        windows = (
            layout.unfold(0, self._length, 1).transpose(1, 2).index_select(0, starts)
            if len(starts)
            else layout.new_empty(0, self._length, width)
        )
        if self._padded:
            is_there = torch.arange(past, -1, -1) <= before[order].unsqueeze(1)
            windows = windows.masked_fill(~is_there.unsqueeze(-1), torch.nan)
        return rows.take(chosen).with_tensors(**{self._name: windows})

    def _before_restart(self, counter: Tensor, g: Groups, before: Tensor, state: Stores) -> Tensor:
        """How many of the rows `before` each row precede its counter's last restart, in the groups' order."""
        last = state.cell("counter")
        previous = torch.cat([counter[:1], counter[:-1]])
        previous[g.starts] = last[g.slots]
        last[g.slots] = counter[g.ends]
        restart = torch.where(counter < previous, torch.arange(len(counter)), -1).cummax(0).values
        return torch.where(restart >= g.each(g.starts), before[restart.clamp(min=0)], 0)

    def _values(self, rows: Rows, ctx: StepContext) -> tuple[Rows, np.ndarray]:
        """The rows that float32 can hold, and their columns, `[B, C]` float32."""
        values = np.empty((len(rows), len(self._columns)), np.float32)
        with np.errstate(over="ignore"):
            for i, column in enumerate(self._columns):
                values[:, i] = rows.table.column(column).to_numpy(zero_copy_only=False)
        if not (is_infinite := np.isinf(values)).any():
            return rows, values
        fits = torch.from_numpy(~is_infinite.any(1))
        large = rows.keep(~fits)
        first = [self._columns[i] for i in is_infinite[~fits.numpy()].argmax(1)]
        lines = [f"expected {c} to fit float32, got {large.table.column(c)[i]}" for i, c in enumerate(first)]
        ctx.refuse(large, stage="last", error="BadValue", messages=lines)
        return rows.keep(fits), values[fits.numpy()]
