"""Sorts each key's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.dead_letter import TOO_LATE
from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.rows import Rows, concat
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
from tocsin.pipelines.runtime.declare.stores import Cell, CellStore, Declared, Pending, Stores
from tocsin.pipelines.runtime.stages.confirmation import Confirmation, Order
from tocsin.pipelines.runtime.stages.positions import PARTS, positions

_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Reorder(Stage):
    """Passes each key's rows on in order, each position once.

    A row waits until its key has advanced `late` past it. A row that arrives later becomes a dead letter (`TooLate`). A row that
    repeats a waiting position, or the last one passed on, is dropped and counted (`duplicates`).

    Args:
        by: a column of numbers or times; fractions are compared to a millionth. None: the event time.
        late: how far a row may be behind its key's newest: a number in the column's own unit, or a duration for time.
        wait: rows of an inactive key are passed on after this long.
        jump: a reading that is further ahead of its key's newest than this, in the column's own unit, waits for the key's next
            one. If the next one continues from there, both are passed on; otherwise the reading becomes a dead letter
            (`Outlier`). None: no reading waits.
        restart: the column is a counter that may restart at this value or below. A reading up to this value that would be too
            late waits for the key's next one. If the next one continues from there, the counter has restarted. None: the
            counter never restarts.
    """

    stored_as = "Sorted"

    def __init__(
        self,
        *,
        by: str | None = None,
        late: int | str = 0,
        wait: str = "10s",
        jump: float | None = None,
        restart: float | None = None,
    ) -> None:
        self._by, self._late, self._wait = by, milliseconds(late) if isinstance(late, str) else late, milliseconds(wait)
        self._late_is_ms = isinstance(late, str)
        self._confirmation = Confirmation(by, jump, restart) if jump is not None or restart is not None else None

    @property
    def state(self) -> Mapping[str, Declared]:
        newest = Cell(dtype=torch.int64, fill=NEVER)
        declared: dict[str, Declared] = {"newest": newest}
        if self._late:
            declared |= {"through": newest, "seen_at": Cell(dtype=torch.int64), "waiting": Pending()}
        return declared | dict(self._confirmation.state if self._confirmation else {})

    @property
    def timers(self) -> Sequence[Timer]:
        confirmation_timers = self._confirmation.timers if self._confirmation else []
        return [Timer("seen_at", self._wait), *confirmation_timers] if self._late else confirmation_timers

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        rows = self._placed(ctx.require(rows, self._by or ctx.event_time, stage="sorted"), ctx)
        if not self._confirmation:
            return self._in_order(rows, state, ctx)
        out, newest = list[Rows](), state.cell("newest")
        scale = PARTS if pa.types.is_floating(rows.table.schema.field(self._by or ctx.event_time).type) else 1
        order = Order(lambda r: self._position(r, ctx), self._allowed(rows, ctx), scale, newest)
        for restarted, line in self._confirmation.lines(rows, order, state, ctx):
            if len(restarted):
                out.append(self._release(restarted, newest, state, line))
            out.append(self._in_order(line, state, ctx))
        return concat(out)

    def _in_order(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return self._hold(rows, state, ctx) if self._late else self._pass(rows, state, ctx)

    def _release(self, slots: Tensor, newest: CellStore, state: Stores, template: Rows) -> Rows:
        """The waiting rows of keys whose counter has restarted, in order. Resets the order of these keys."""
        newest[slots] = NEVER
        released = template.take(slots[:0])
        if self._late:
            through, waiting = state.cell("through"), state.pending("waiting")
            through[slots] = NEVER
            if waiting.rows is not None:
                is_released = torch.isin(waiting.rows.slots, slots)
                released, waiting.rows = waiting.rows.keep(is_released), waiting.rows.keep(~is_released)
        return released

    def _placed(self, rows: Rows, ctx: StepContext) -> Rows:
        """The rows whose position is a number in range; the others go to the dead letters."""
        name = self._by or ctx.event_time
        column = rows.table.column(name)
        if pa.types.is_floating(column.type):
            values, low, high, between = column.to_numpy(), NEVER / PARTS, -NEVER / PARTS, "between -4.6e12 and 4.6e12"
        else:
            values = (column if column.type == pa.uint64() else column.cast(pa.int64())).to_numpy()
            low, high, between = NEVER, 2**63, "above -2**62 and below 2**63"
        fits = torch.from_numpy((values > low) & (values < high))
        if not bool(fits.all()):
            lines = [f"expected {name} {between}, got {v}" for v in values[~fits.numpy()].tolist()]
            ctx.refuse(rows.keep(~fits), stage="sorted", error="BadValue", messages=lines)
        return rows.keep(fits)

    def _position(self, rows: Rows, ctx: StepContext) -> Tensor:
        return positions(rows.table.column(self._by or ctx.event_time))

    def _allowed(self, rows: Rows, ctx: StepContext) -> int:
        """`late` in the column's own unit."""
        kind = rows.table.schema.field(self._by or ctx.event_time).type
        if pa.types.is_floating(kind):
            return self._late * PARTS
        scaled = self._late_is_ms and pa.types.is_timestamp(kind)
        return self._late * _PER_S[kind.unit] // 1000 if scaled else self._late

    def _pass(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        """Pass rows on when no lateness is allowed: a row must be ahead of all earlier rows of its key."""
        newest = state.cell("newest")
        if not len(rows):
            return rows
        g, position = rows.groups(), self._position(rows, ctx)
        before, last = g.running_max(position[g.order], newest[g.slots])
        newest[g.slots] = last
        reached = torch.empty_like(before)
        reached[g.order] = before
        ctx.counts["duplicates"] += int((position == reached).sum())
        self._refuse(rows, position < reached, position, reached, ctx)
        return rows.keep(position > reached)

    def _hold(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        newest, through, seen_at, waiting = (
            state.cell("newest"),
            state.cell("through"),
            state.cell("seen_at"),
            state.pending("waiting"),
        )
        late = self._allowed(rows, ctx)
        ctx.hear(seen_at)
        if len(rows):
            g, position = rows.groups(), self._position(rows, ctx)
            before, last = g.running_max(position[g.order], newest[g.slots])
            newest[g.slots] = last
            reached = torch.empty_like(before)
            reached[g.order] = before
            passed = through[rows.slots]
            floor = torch.maximum(reached - late, passed)
            is_repeated = (position == passed) & (position == floor)
            ctx.counts["duplicates"] += int(is_repeated.sum())
            self._refuse(rows, position < floor, position, floor, ctx)
            rows = rows.keep((position >= floor) & ~is_repeated)
        if waiting.rows is not None:
            rows = concat([waiting.rows, rows]) if len(rows) else waiting.rows
        if not len(rows):
            return rows
        position = self._position(rows, ctx)
        order = np.lexsort((position.numpy(), rows.slots.numpy()))  # stable: the first to arrive of two equals stays
        rows, position = rows.take(torch.from_numpy(order)), position[torch.from_numpy(order)]
        is_duplicate = (rows.slots[1:] == rows.slots[:-1]) & (position[1:] == position[:-1])
        ctx.counts["duplicates"] += int(is_duplicate.sum())
        first = torch.cat([torch.ones(1, dtype=torch.bool), ~is_duplicate])
        rows, position = rows.keep(first), position[first]
        silent = ctx.due(seen_at, self._wait)[rows.slots]
        ready = (position <= newest[rows.slots] - late) | silent
        waiting.rows = rows.keep(~ready)
        rows, position = rows.keep(ready), position[ready]
        if len(rows):
            g = rows.groups()
            through[g.slots] = torch.maximum(through[g.slots], position[g.ends])
        return rows

    def _refuse(self, rows: Rows, late: Tensor, position: Tensor, floor: Tensor, ctx: StepContext) -> None:
        if not bool(late.any()):
            return
        name = self._by or ctx.event_time
        actual, after = position[late], floor[late]
        if pa.types.is_floating(rows.table.schema.field(name).type):
            actual, after = actual.double() / PARTS, after.double() / PARTS
        lines = [f"expected {name} after {f}, got {p}" for p, f in zip(actual.tolist(), after.tolist(), strict=True)]
        ctx.refuse(rows.keep(late), stage="sorted", error=TOO_LATE, messages=lines)
