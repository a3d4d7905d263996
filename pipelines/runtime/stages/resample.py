"""Resamples irregular readings of several properties onto a regular grid of event time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tocsin.pipelines.runtime.declare.dead_letter import TOO_LATE
from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Ring, Stores

Array = np.ndarray
FAR = -NEVER


class Resample(Stage):
    """Makes one row per key and step of event time from irregular readings `(property, time, value)`.

    A step of a key closes once the key has advanced `late` past its end, or has been inactive for `wait`. No key and no property
    waits for another. Readings within `late` may arrive in any order. A repeated (key, property, time) is dropped and counted
    (`duplicates`), and so is a property that is not listed (`ignored`). A reading for a closed step becomes a dead letter
    (`TooLate`). A step without a reading has a row, too, as long as the last reading is no older than `gap`.

    For each property p a row has four columns: `p`, the last value at the step's end; `p_mean`, the mean of the step, null
    without a reading; `p_slope`, the slope per second by least squares over the last `slope`, null below two readings; `p_age`,
    the seconds from the last reading to the step's end. The row's time is the step's end. Like a timer's row it has no offset.

    Args:
        step: the length of a step; steps are counted from 1970.
        properties: the values of the column `by` that are resampled; the column `value` has the number.
        slope: how far back a slope looks from the step's end; None: one step.
        most: the most readings of a key in open steps; any more become dead letters (`TooMany`).
    """

    stored_as = "Grid"

    def __init__(
        self,
        step: str,
        properties: Sequence[str],
        *,
        by: str = "property",
        value: str = "value",
        late: str = "0s",
        wait: str = "10s",
        slope: str | None = None,
        gap: str = "1h",
        most: int = 64,
    ) -> None:
        self.properties, self.most = tuple(properties), most
        self.step_ms, self.late, self.wait = milliseconds(step), milliseconds(late), milliseconds(wait)
        self.span, self.gap = milliseconds(slope) if slope else self.step_ms, milliseconds(gap) // self.step_ms
        self._by, self._value = by, value

    @property
    def state(self) -> Mapping[str, Declared]:
        time, width = Cell(dtype=torch.int64, fill=NEVER), (len(self.properties),)
        return {
            "readings": Ring(self.most, 3, torch.float64, columns=("time", "property", "value")),
            "newest": time,
            "closed": time,  # the end of the last closed step
            "read": time,  # the number of the last closed step with a reading
            "seen_at": Cell(dtype=torch.int64),
            "open": Cell(dtype=torch.bool),
            "last": Cell(width, torch.float64),
            "last_at": Cell(width, torch.int64, NEVER),
        }

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("seen_at", self.wait, self._listed)]

    def _listed(self, rows: Rows) -> torch.Tensor:
        """Which readings are of a listed property, `[B]` bool; all, if an earlier stage makes the properties."""
        if self._by not in rows.table.schema.names:
            return torch.ones(len(rows), dtype=torch.bool)
        is_listed = pc.is_in(rows.table.column(self._by), value_set=pa.array(self.properties))
        return torch.from_numpy(is_listed.to_numpy(zero_copy_only=False))

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        seen_at = state.cell("seen_at")
        ctx.hear(seen_at, self._listed(ctx.came))
        for column in (ctx.event_time, self._by, self._value):
            rows = ctx.require(rows, column, stage="grid")
        kinds = pc.index_in(rows.table.column(self._by), value_set=pa.array(self.properties)).fill_null(-1).to_numpy()
        known = torch.from_numpy(kinds >= 0)
        ctx.counts["ignored"] += int((~known).sum())
        rows, kinds = rows.keep(known), kinds[kinds >= 0]
        keys = _OpenSteps(self, rows, state, ctx)
        if not len(keys.slots):
            return self._rows(keys.slots, keys.slots, {}, rows, ctx)
        keys.take(rows, kinds, rows.column(self._value).double().numpy(), ctx)
        key, end = keys.close()
        columns = keys.columns(key, end)
        keys.keep(rows, ctx)
        return self._rows(keys.slots[key], end, columns, rows, ctx)

    def _rows(self, slots: Array, end: Array, columns: Mapping[str, Array], rows: Rows, ctx: StepContext) -> Rows:
        """Make the rows of closed steps: keys at the steps' ends."""
        names = dict.fromkeys([*IDENTITY.names, ctx.key, ctx.event_time])
        result = ctx.timed(torch.from_numpy(slots), torch.from_numpy(end), map(rows.table.schema.field, names))
        parts = [f"{p}{part}" for p in self.properties for part in ("", "_mean", "_slope", "_age")]
        empty = np.empty(0)
        return result.with_columns(
            {name: pa.array(columns.get(name, empty), pa.float64(), from_pandas=True) for name in parts}
        )


class _OpenSteps:
    """The open steps of K keys: those with new readings, and inactive ones with an open step.

    Keys are numbered from 0 to K - 1. Their readings are flat arrays: at first those from the state, after `take` also the new
    ones, sorted by key, property and time.
    """

    def __init__(self, grid: Resample, rows: Rows, state: Stores, ctx: StepContext) -> None:
        self._grid, self._state, self._rows = grid, state, rows
        due = ctx.due(self._state.cell("seen_at"), grid.wait)
        self._groups = g = rows.groups()
        silent = self._state.cell("open").all() & due
        self.slots = np.union1d(g.slots.numpy(), silent.nonzero()[:, 0].numpy())
        slots = torch.from_numpy(self.slots)
        self._silent = due[slots].numpy()
        self.newest, self.closed, self.read = (self._state.cell(n)[slots].numpy() for n in ("newest", "closed", "read"))
        self.last, self.last_at = self._state.cell("last")[slots].numpy(), self._state.cell("last_at")[slots].numpy()
        ring_buffer = state.ring("readings")
        stored, count = (t.numpy() for t in ring_buffer.tail(slots))
        self.key, place = np.nonzero(np.arange(grid.most) >= grid.most - count[:, None])
        time, kind, self.value = stored[self.key, place].T
        self.time, self.kind = time.astype(np.int64), kind.astype(np.int64)
        self.row = np.full(len(self.key), -1)  # index in `rows`; -1: from the state

    def take(self, rows: Rows, kinds: Array, values: Array, ctx: StepContext) -> None:
        """Add the new readings, without late and repeated ones. How readings are split into steps makes no difference."""
        grid, g = self._grid, self._groups
        times = ctx.times(rows)
        time, key = times.numpy(), np.searchsorted(self.slots, rows.slots.numpy())
        reached = np.full(len(rows), NEVER)
        if len(rows):
            touched = np.searchsorted(self.slots, g.slots.numpy())
            before, last = g.running_max(times[g.order], torch.from_numpy(self.newest[touched]))
            reached[g.order.numpy()], self.newest[touched] = before.numpy(), last.numpy()
        floor = np.maximum((reached - grid.late) // grid.step_ms * grid.step_ms, self.closed[key])
        late = np.concatenate([np.zeros(len(self.row), bool), time < floor])
        fresh = np.concatenate([np.ones(len(self.row), bool), time >= reached - grid.late])
        self.row = np.concatenate([self.row, np.arange(len(rows))])
        self.key, self.kind = np.concatenate([self.key, key]), np.concatenate([self.kind, kinds])
        self.time, self.value = np.concatenate([self.time, time]), np.concatenate([self.value, values])
        order = np.lexsort((self.row, self.time, self.kind, self.key))  # of two duplicates the first to arrive stays
        self._order(order)
        late, fresh = late[order], fresh[order]
        is_duplicate = np.zeros(len(order), bool)
        is_duplicate[1:] = np.all([a[1:] == a[:-1] for a in (self.key, self.kind, self.time)], axis=0)
        head = np.maximum.accumulate(np.where(is_duplicate, 0, np.arange(len(order))))
        is_repeated = is_duplicate & ~late[head] & (fresh | ~late)
        ctx.counts["duplicates"] += int(is_repeated.sum())
        self._refuse(
            late & ~is_repeated,
            TOO_LATE,
            lambda i: f"expected {ctx.event_time} to be at least {floor[i]}, got {time[i]}",
            rows,
            ctx,
        )
        self._order(np.flatnonzero(~late & ~is_repeated))
        # Times are replaced by their ranks: with a reading of the year 1, `_rank` would overflow on times.
        self._times = np.unique(self.time)
        self._flat = self._rank(self.key, self.kind, self.time)

    def close(self) -> tuple[Array, Array]:
        """Close the steps that are due. Returns the key and the end of each step that gets a row, in order."""
        grid, step = self._grid, self._grid.step_ms
        due = np.where(self._silent, (self.newest // step + 1) * step, (self.newest - grid.late) // step * step)
        due = np.maximum(due, self.closed)
        number, was_read = self.time // step, np.flatnonzero(self.read != NEVER)
        # Readings of closed steps give no row again; `read` has the last closed step with a reading.
        closing = (number * step < due[self.key]) & (self.time >= self.closed[self.key])
        key = np.concatenate([self.key[closing], was_read])
        number = np.concatenate([number[closing], self.read[was_read]])
        order = np.lexsort((number, key))
        key, number = key[order], number[order]
        new = np.ones(len(key), bool)
        new[1:] = (key[1:] != key[:-1]) | (number[1:] != number[:-1])
        key, number = key[new], number[new]
        following = np.full(len(key), FAR)
        following[:-1][key[1:] == key[:-1]] = number[1:][key[1:] == key[:-1]]
        first = np.maximum(number, np.where(self.closed == NEVER, -FAR, self.closed // step)[key])
        end = np.minimum(np.minimum(number + grid.gap + 1, following), due[key] // step)
        count = np.maximum(end - first, 0)
        self.read[key] = number  # the last one of a key stays
        self.closed = due
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(key, count), (np.repeat(first, count) + rank + 1) * step

    def columns(self, key: Array, end: Array) -> dict[str, Array]:
        """Each property's columns for the steps that end at `end`; NaN where there is no value."""
        grid, columns = self._grid, {}
        for kind, name in enumerate(grid.properties):
            last, last_at = self._last(key, kind, end)
            until, begin = self._place(key, kind, end), self._place(key, kind, end - grid.step_ms)
            count, total, _, _, _ = self._sums(begin, until, end, np.zeros(len(end)))
            n, y, x, xx, xy = self._sums(self._place(key, kind, end - grid.span), until, end, last)
            with np.errstate(divide="ignore", invalid="ignore"):
                columns[name] = np.where(last_at == NEVER, np.nan, last)
                columns[f"{name}_mean"] = np.where(count > 0, total / count, np.nan)
                columns[f"{name}_slope"] = np.where(n > 1, (n * xy - x * y) / (n * xx - x * x), np.nan)
                columns[f"{name}_age"] = np.where(last_at == NEVER, np.nan, (end - last_at) / 1000)
        return columns

    def _place(self, key: Array, kind: int, time: Array) -> Array:
        """The place in the flat order of a reading of a key and a property at `time`."""
        return np.searchsorted(self._flat, self._rank(key, kind, time))

    def _rank(self, key: Array, kind: Array | int, time: Array) -> Array:
        """One number that sorts by key, property, time."""
        ranks = np.searchsorted(self._times, time)
        return (key * len(self._grid.properties) + kind) * (len(self._times) + 1) + ranks

    def _sums(self, begin: Array, until: Array, end: Array, level: Array) -> tuple[Array, ...]:
        """The number of readings from `begin` to `until`, and the sums of y, x, x², xy; y above `level`, x in s relative to `end`.

        The readings of each row are added one by one, oldest first, so the sums do not depend on what else is in a step.
        """
        sums = np.zeros((5, len(begin)))
        for i in range(int((until - begin).max(initial=0))):
            in_range = begin + i < until
            place = np.minimum(begin + i, len(self.time) - 1)
            x, y = (self.time[place] - end) / 1000, self.value[place] - level
            sums += np.where(in_range, [np.ones(len(begin)), y, x, x * x, x * y], 0)
        return tuple(sums)

    def _last(self, key: Array, kind: int, end: Array) -> tuple[Array, Array]:
        """Value and time of the last reading before `end`; from the state if the reading itself is no longer held."""
        until = self._place(key, kind, end)
        is_found = until > self._place(key, kind, np.full(len(end), -FAR))
        place = np.maximum(until - 1, 0)
        value, time = (a[place] if len(a) else np.zeros(len(end), a.dtype) for a in (self.value, self.time))
        return np.where(is_found, value, self.last[key, kind]), np.where(is_found, time, self.last_at[key, kind])

    def keep(self, rows: Rows, ctx: StepContext) -> None:
        """Write back what later steps need."""
        grid, slots, every = self._grid, torch.from_numpy(self.slots), np.arange(len(self.slots))
        last = [self._last(every, kind, self.closed) for kind in range(len(grid.properties))]
        oldest = np.minimum(self.newest - grid.late, self.closed + grid.step_ms - grid.span)
        self._order(np.flatnonzero(self.time >= oldest[self.key]))
        is_waiting = self.time >= self.closed[self.key]
        # The ring holds first the readings of open steps, as they arrived, then the newest for slopes and repeats.
        self._order(np.lexsort((np.where(is_waiting, self.row, -self.time), ~is_waiting, self.key)))
        is_waiting = self.time >= self.closed[self.key]
        rank = np.arange(len(self.key)) - np.searchsorted(self.key, self.key)
        is_excess = rank >= grid.most
        line = (
            f"expected at most {grid.most} readings of a key in open steps, got one more; increase `most` of Resample"
        )
        self._refuse(is_excess & is_waiting, "TooMany", lambda i: line, rows, ctx)
        self._order(np.flatnonzero(~is_excess))
        count = np.bincount(self.key, minlength=len(every))
        stored = np.zeros((len(every), grid.most, 3))
        place = grid.most - count[self.key] + np.arange(len(self.key)) - np.searchsorted(self.key, self.key)
        stored[self.key, place] = np.stack([self.time, self.kind, self.value], axis=1)
        self._state.ring("readings").replace(slots, torch.from_numpy(stored), torch.from_numpy(count))
        for name, values in {
            "newest": self.newest,
            "closed": self.closed,
            "read": self.read,
            "open": self.newest >= self.closed,
            "last": np.stack([value for value, _ in last], axis=1),
            "last_at": np.stack([time for _, time in last], axis=1),
        }.items():
            self._state.cell(name)[slots] = torch.from_numpy(values)

    def _order(self, order: Array) -> None:
        self.key, self.kind, self.time = self.key[order], self.kind[order], self.time[order]
        self.value, self.row = self.value[order], self.row[order]

    def _refuse(self, mask: Array, error: str, line: Callable[[int], str], rows: Rows, ctx: StepContext) -> None:
        """Send the rows of some readings to the dead letters."""
        which = np.sort(self.row[mask])
        if len(which):
            ctx.refuse(rows.take(torch.from_numpy(which)), stage="grid", error=error, messages=[*map(line, which)])
