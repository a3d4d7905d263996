"""Splits a step into parts at each key's deadlines: the readings before a deadline, what is due, the readings after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import FAR
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Timer, state_names
from tocsin.pipelines.runtime.declare.state import State
from tocsin.pipelines.runtime.declare.stores import CellStore
from tocsin.pipelines.runtime.engine.clock import Arrivals, before_each, crossed, segments

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.declare.stage import StepContext


class StepParts:
    """Runs a step's rows through the stages.

    Each key has its own clock: the time of its rows, and after the last of them the step's clock. A timer that is due between
    two rows fires between them, at exactly its time. So it makes no difference which other rows a step holds. The first parts of
    all keys are processed together, then their second parts, and so on. If no deadline passes between two
    rows of a key, the step has one part.

    Args:
        emit: called for each part with the last stage's rows, and the wall clock of each of these rows (`[B]` int64, ms).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        state: State,
        ctx: StepContext,
        forget_after: int,
        emit: Callable[[Rows, Tensor], None],
    ) -> None:
        self._state, self._ctx, self._forget_after, self._key = state, ctx, forget_after, pipeline.key
        names = state_names(pipeline.stages)
        self._stages = [(stage, state.of(name)) for stage, name in zip(pipeline.stages, names, strict=True)]
        self._timers = list[tuple[CellStore, Timer]]()
        for stage, stores in self._stages:
            for timer in getattr(stage, "timers", ()):
                self._timers.append((stores.cell(timer.heard), timer))
        self._silences, self._clock = pipeline.silences, torch.full((state.capacity,), state.ticked)
        self._emit, self._part_count = emit, 0

    def run(self, readings: Rows, arrivals: Arrivals, wall: int | None) -> None:
        """Process the step."""
        self._readings, self._wall, state = readings, wall, self._state
        if state.leaving:
            self._forget_leaving()
        if len(readings):
            part = self._split(readings, arrivals)
            if part is None:
                self._process(readings, arrivals.earliest, arrivals.last_active, due=False)
            else:
                for n in range(int(part.max()) + 1):
                    index = (part == n).nonzero()[:, 0]
                    self._process(readings.take(index), arrivals.earliest[index], arrivals.last_active[index], due=True)
        if self._ctx.now >= state.quiet_until:
            self._fire_timers(torch.tensor(self._ctx.now))
            pending = [self._next_due(timer, torch.tensor(FAR)) for timer in self._timers]
            state.quiet_until = int(torch.cat([*pending, torch.tensor([FAR])]).min())
        if not self._part_count:
            self._run_stages(self._no_rows, torch.zeros(0, dtype=torch.int64), ticks=False)

    def _forget_leaving(self) -> None:
        """Forget the keys that a person has ordered to be forgotten.

        With their state cleared, their pending rows are due at once. A second clearing removes what those rows leave in the state.
        """
        state = self._state
        if len(slots := state.leavers()):
            state.blank(slots)
            self._run_stages(self._no_rows, torch.zeros(0, dtype=torch.int64), ticks=True)
            state.blank(slots)
            self._ctx.counts["forgotten"] += len(slots)
        state.leaving, state.changed = set(), True

    def _split(self, readings: Rows, arrivals: Arrivals) -> Tensor | None:
        """The part of the step that each row belongs to, `[B]` int64; None: nothing is due before any row."""
        g, oldest, newest = readings.groups(), int(arrivals.last_active.min()), int(arrivals.earliest.max())
        earliest, last_active = arrivals.earliest[g.order], arrivals.last_active[g.order]
        cuts, all_rows = torch.zeros(len(readings), dtype=torch.bool), torch.ones(len(readings), dtype=torch.bool)
        pending = [(cell[g.slots], timer.after, timer.counts) for cell, timer in self._timers]
        pending.append((self._state.seen(g.slots), self._forget_after + 1, None))
        for last, after, counts in pending:
            if min(oldest, int(torch.where(last == 0, FAR, last).min())) + after > newest:
                continue  # no key has been inactive for so long
            counted = all_rows if counts is None else counts(readings)[g.order]
            before = before_each(g, last_active, counted, last)
            cuts |= (before != 0) & crossed(g, earliest, self._clock, before + after)
        if self._wall is None and self._silences:
            cuts |= crossed(g, earliest, self._clock, self._mute_ends(readings)[g.order])
        return segments(g, cuts) if bool(cuts.any()) else None

    def _process(self, rows: Rows, earliest: Tensor, last_active: Tensor, *, due: bool) -> None:
        """Process one part of some keys: what is due before it, then its rows."""
        g, state = rows.groups(), self._state
        first, last = g.order[g.starts], g.newest
        if due:
            limit = torch.full_like(self._clock, -FAR)
            limit[g.slots] = earliest[first]
            self._fire_timers(limit)
        self._ctx.counts["forgotten"] += state.lapse(g.slots, earliest[first], self._forget_after)
        state.saw(g.slots, earliest[last] if self._wall is None else torch.full_like(last, self._wall))
        self._clock[g.slots] = earliest[last]
        soonest = min((timer.after for _, timer in self._timers), default=FAR)
        state.quiet_until = min(state.quiet_until, min(int(last_active.min()), int(earliest.min())) + soonest)
        self._run_stages(rows, last_active, ticks=False)

    def _fire_timers(self, limit: Tensor) -> None:
        """Fire the timers due up to `limit` (`[capacity]`, or one time for all keys), each at its own time."""
        while self._timers:
            due = torch.stack([self._next_due(timer, limit) for timer in self._timers]).amin(0)
            if not bool((is_due := due < FAR).any()):
                return
            self._clock = torch.where(is_due, due, self._clock)
            self._run_stages(self._no_rows, torch.zeros(0, dtype=torch.int64), ticks=True)

    def _next_due(self, timer: tuple[CellStore, Timer], limit: Tensor) -> Tensor:
        """When a timer is due next for each key, `[capacity]`; `FAR` if not up to `limit`."""
        cell, after = timer[0], timer[1].after
        last = cell.all()
        due = last + after
        is_due = (last != 0) & (self._clock < due) & (due <= limit)
        if after > self._forget_after and bool(is_due.any()):
            is_due &= ~self._state.forgotten(due, self._forget_after)
        return torch.where(is_due, due, FAR)

    def _run_stages(self, rows: Rows, last_active: Tensor, *, ticks: bool) -> None:
        ctx = self._ctx
        ctx.came, ctx.heard, ctx.clock, ctx.ticks = rows, last_active, self._clock, ticks
        for stage, stores in self._stages:
            rows = stage.step(rows, stores, ctx)
        walls = self._clock[rows.slots] if self._wall is None else torch.full_like(rows.slots, self._wall)
        self._emit(rows, walls)
        self._part_count += 1

    @property
    def _no_rows(self) -> Rows:
        return Rows(self._readings.table.slice(0, 0), self._readings.slots[:0])

    def _mute_ends(self, rows: Rows) -> Tensor:
        """When the mute of each row's asset ends, ms since the epoch; `-FAR` if it is not muted."""
        index = pc.index_in(rows.table.column(self._key).cast(pa.string()), value_set=pa.array([*self._silences]))
        until = torch.tensor([*self._silences.values(), -FAR])
        return until[torch.from_numpy(index.fill_null(len(self._silences)).to_numpy().copy()).long()]
