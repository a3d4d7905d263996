"""A step in parts: the readings up to where something falls due for their key, what is due, the readings after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Timer, state_names
from tocsin.pipelines.runtime.declare.state import FAR, CellStore, State
from tocsin.pipelines.runtime.engine.clock import Arrivals, before_each, crossed, segments

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline
    from tocsin.pipelines.runtime.declare.stage import StepContext


class StepParts:
    """Runs a step's rows through the stages.

    Each key has a time of its own: that of its rows, and after the last of them the step's clock. Whatever is due in between is
    done in between, at exactly its time, so it makes no difference which other rows a step holds. All keys' first parts are
    judged together, then their second ones, and so on; a step in which no key pauses has one part.

    Args:
        give: takes what the last stage gives in each part, and the wall's clock for each of these rows (`[B]` int64, ms).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        state: State,
        ctx: StepContext,
        forget_after: int,
        give: Callable[[Rows, Tensor], None],
    ) -> None:
        self._state, self._ctx, self._forget_after, self._key = state, ctx, forget_after, pipeline.key
        names = state_names(pipeline.stages)
        self._stages = [(stage, state.of(name)) for stage, name in zip(pipeline.stages, names, strict=True)]
        self._timers = list[tuple[CellStore, Timer]]()
        for stage, stores in self._stages:
            for timer in getattr(stage, "timers", ()):
                self._timers.append((stores.cell(timer.heard), timer))
        self._silences, self._clock = pipeline.silences, torch.full((state.capacity,), state.ticked)
        self._give, self._parts = give, 0

    def run(self, came: Rows, arrivals: Arrivals, wall: int | None) -> None:
        """Judge the step."""
        self._came, self._wall, state = came, wall, self._state
        if state.leaving:
            self._leave()
        if len(came):
            part = self._split(came, arrivals)
            if part is None:
                self._take(came, arrivals.least, arrivals.heard, due=False)
            else:
                for n in range(int(part.max()) + 1):
                    index = (part == n).nonzero()[:, 0]
                    self._take(came.take(index), arrivals.least[index], arrivals.heard[index], due=True)
        if self._ctx.now >= state.quiet_until:
            self._tick(torch.tensor(self._ctx.now))
            pending = [self._next(timer, torch.tensor(FAR)) for timer in self._timers]
            state.quiet_until = int(torch.cat([*pending, torch.tensor([FAR])]).min())
        if not self._parts:
            self._stage(self._nothing, torch.zeros(0, dtype=torch.int64), ticks=False)

    def _leave(self) -> None:
        """Forget keys by a person's order: without a past, rows of theirs that wait are due, and then leave no trace either."""
        state = self._state
        if len(slots := state.leavers()):
            state.blank(slots)
            self._stage(self._nothing, torch.zeros(0, dtype=torch.int64), ticks=True)
            state.blank(slots)
            self._ctx.counts["forgotten"] += len(slots)
        state.leaving, state.changed = set(), True

    def _split(self, came: Rows, arrivals: Arrivals) -> Tensor | None:
        """Which part of the step each row belongs to, `[B]` int64; None: nothing is due before any of them."""
        g, oldest, newest = came.groups(), int(arrivals.heard.min()), int(arrivals.least.max())
        least, heard = arrivals.least[g.order], arrivals.heard[g.order]
        cuts, every = torch.zeros(len(came), dtype=torch.bool), torch.ones(len(came), dtype=torch.bool)
        pending = [(cell[g.slots], timer.after, timer.counts) for cell, timer in self._timers]
        pending.append((self._state.seen(g.slots), self._forget_after + 1, None))
        for last, after, counts in pending:
            if min(oldest, int(torch.where(last == 0, FAR, last).min())) + after > newest:
                continue  # nobody has paused for so long
            counted = every if counts is None else counts(came)[g.order]
            before = before_each(g, heard, counted, last)
            cuts |= (before != 0) & crossed(g, least, self._clock, before + after)
        if self._wall is None and self._silences:
            cuts |= crossed(g, least, self._clock, self._until(came)[g.order])
        return segments(g, cuts) if bool(cuts.any()) else None

    def _take(self, rows: Rows, least: Tensor, heard: Tensor, *, due: bool) -> None:
        """One part of some keys: what is due before it, then its rows."""
        g, state = rows.groups(), self._state
        first, last = g.order[g.starts], g.order[g.starts + g.lengths - 1]
        if due:
            limit = torch.full_like(self._clock, -FAR)
            limit[g.slots] = least[first]
            self._tick(limit)
        self._ctx.counts["forgotten"] += state.lapse(g.slots, least[first], self._forget_after)
        state.saw(g.slots, least[last] if self._wall is None else torch.full_like(last, self._wall))
        self._clock[g.slots] = least[last]
        soonest = min((timer.after for _, timer in self._timers), default=FAR)
        state.quiet_until = min(state.quiet_until, min(int(heard.min()), int(least.min())) + soonest)
        self._stage(rows, heard, ticks=False)

    def _tick(self, limit: Tensor) -> None:
        """Do what is due up to `limit` (`[capacity]`, or one time for all), each thing at its time."""
        while self._timers:
            due = torch.stack([self._next(timer, limit) for timer in self._timers]).amin(0)
            if not bool((there := due < FAR).any()):
                return
            self._clock = torch.where(there, due, self._clock)
            self._stage(self._nothing, torch.zeros(0, dtype=torch.int64), ticks=True)

    def _next(self, timer: tuple[CellStore, Timer], limit: Tensor) -> Tensor:
        """When it is due next for each key, `[capacity]`; `FAR` where not up to `limit`."""
        cell, after = timer[0], timer[1].after
        last = cell.all()
        due = last + after
        there = (last != 0) & (self._clock < due) & (due <= limit)
        if after > self._forget_after and bool(there.any()):
            there &= ~self._state.forgotten(due, self._forget_after)
        return torch.where(there, due, FAR)

    def _stage(self, rows: Rows, heard: Tensor, *, ticks: bool) -> None:
        ctx = self._ctx
        ctx.came, ctx.heard, ctx.clock, ctx.ticks = rows, heard, self._clock, ticks
        for stage, stores in self._stages:
            rows = stage.step(rows, stores, ctx)
        walls = self._clock[rows.slots] if self._wall is None else torch.full_like(rows.slots, self._wall)
        self._give(rows, walls)
        self._parts += 1

    @property
    def _nothing(self) -> Rows:
        return Rows(self._came.table.slice(0, 0), self._came.slots[:0])

    def _until(self, rows: Rows) -> Tensor:
        """Until when each row's asset is silenced, ms since the epoch."""
        place = pc.index_in(rows.table.column(self._key).cast(pa.string()), value_set=pa.array([*self._silences]))
        until = torch.tensor([*self._silences.values(), -FAR])
        return until[torch.from_numpy(place.fill_null(len(self._silences)).to_numpy().copy()).long()]
