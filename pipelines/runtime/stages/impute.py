"""Fills missing readings from their key's past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.rows import Groups, Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores
from tocsin.pipelines.runtime.stages.positions import positions

FILLED = "filled"
"""The column that names what was filled in a row: a list of columns, empty if nothing was."""
FAR = 1e6
"""Rows since the last reading of a column that has had none."""


class Levels(Protocol):
    """What readings usually are, so that a fill works in standard deviations from there: 0 is usual."""

    def standardise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Readings `[B, C] float64`, NaN where missing -> standardised `[B, C]`, and a tensor `[B]` for `restore`."""
        ...

    def restore(self, values: Tensor, regime: Tensor) -> Tensor:
        """The readings `[B, C] float64` of standardised values."""
        ...


class Fill(Protocol):
    """Fills the last row of windows from the row itself and from those before it."""

    def __call__(self, windows: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        """Fill a batch; values where nothing is missing are ignored.

        Args:
            windows: `[B, T, C] float32`, oldest first; NaN where a reading is missing or there was no row.
            carried: `[B, C]`, the last known value of each column, at any age.
            age: `[B, C]`, how many rows ago that was; `FAR`: never, and `carried` is what is usual.

        Returns:
            `[B, C]`, the last row.
        """
        ...


class Impute(Stage):
    """Fills what is missing in each row from its key's rows so far, and adds `filled`, the names of the columns that were filled.

    It is causal: a row is filled from itself and earlier rows, and what was filled is never a source. Rows without a gap pass
    unchanged. Put it after `Reorder` or `Resample`, and before the stages that need each value.

    A row with fewer than `least` known columns becomes a dead letter (`TooBare`), and so does one whose gap cannot be filled
    (`NoValue`) because its key has had no such reading yet and there are no `levels`.

    Args:
        columns: columns of numbers.
        fill: how to fill; None: with the last value.
        window: rows that `fill` sees.
        levels: what readings usually are; `fill` then sees standardised values. None: it sees readings.
        least: columns of a row that must be known.
        required: fill also the columns that a key has never had, with what is usual. False: these stay null.
        fresh: a column whose `<column>_age` (seconds, as `Resample` has it) is above this is missing. None: one that is null.
        counter: a column that `Reorder` lets restart: nothing is filled from before a restart. None: there is none.
        batch: rows that `fill` gets at once.
    """

    numbered = False

    def __init__(
        self,
        columns: Sequence[str],
        fill: Fill | None = None,
        *,
        window: int = 1,
        levels: Levels | None = None,
        least: int = 1,
        required: bool = True,
        fresh: str | None = None,
        counter: str | None = None,
        batch: int = 64,
    ) -> None:
        self._columns, self._fill, self._window, self._levels = tuple(columns), fill, window, levels
        self._least, self._required, self._counter, self._batch = least, required, counter, batch
        self._fresh = None if fresh is None else milliseconds(fresh) / 1000
        # A last value is passed on as it came; windows are for networks.
        self._dtype = torch.float64 if fill is None else torch.float32
        # The state's name tells its shape: another fill begins anew.
        self.stored_as = f"Impute-{window}x{len(self._columns)}" if fill else f"Impute-last{len(self._columns)}"
        self._names = pa.array(self._columns, pa.string())

    @property
    def state(self) -> Mapping[str, Declared]:
        width = len(self._columns)
        return {
            "past": Cell((self._window - 1, width), self._dtype, np.nan, added=True),
            "carried": Cell((width,), self._dtype, np.nan, added=True),
            "age": Cell((width,), fill=FAR, added=True),
            **({"counter": Cell(dtype=torch.int64, fill=NEVER, added=True)} if self._counter else {}),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        readings = self._readings(rows)
        known = np.count_nonzero(~np.isnan(readings), axis=1)
        if (bare := known < self._least).any():
            columns = "a value" if self._least == 1 else f"{self._least} values"
            line = f"expected {columns} of {len(self._columns)} columns, got "
            is_bare = torch.from_numpy(bare)
            ctx.refuse(
                rows.keep(is_bare), stage="impute", error="TooBare", messages=[f"{line}{n}" for n in known[bare]]
            )
            rows, readings = rows.keep(~is_bare), readings[~bare]
        if not len(rows):
            return rows.with_columns({FILLED: self._filled(np.zeros((0, len(self._columns)), bool))})
        values, regime = self._standardised(readings)
        windows, carried, age = self._remember(rows, values, state)
        gaps = torch.from_numpy(np.isnan(readings))
        if not self._required:
            gaps &= age < FAR
        if len(chosen := gaps.any(1).nonzero()[:, 0]):
            restored = self._restored(self._fills(windows, chosen, carried, age), regime[chosen])
            readings[chosen.numpy()] = np.where(gaps[chosen].numpy(), restored, readings[chosen.numpy()])
            filled = {name: readings[:, i] for i, name in enumerate(self._columns) if gaps[:, i].any()}
            rows = rows.with_columns({n: _as(values, rows.table.schema.field(n).type) for n, values in filled.items()})
        rows = rows.with_columns({FILLED: self._filled(gaps.numpy() & ~np.isnan(readings))})
        return self._complete(rows, readings, ctx) if self._required else rows

    def _readings(self, rows: Rows) -> NDArray[np.float64]:
        """The columns, `[B, C]`, NaN where missing."""
        table, readings = rows.table, np.empty((len(rows), len(self._columns)))
        for i, name in enumerate(self._columns):
            readings[:, i] = table.column(name).to_numpy(zero_copy_only=False)
            if self._fresh is not None:
                age = table.column(f"{name}_age").to_numpy(zero_copy_only=False)
                readings[~(age <= self._fresh), i] = np.nan
        return readings

    def _standardised(self, readings: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        given = torch.from_numpy(readings)
        values, regime = self._levels.standardise(given) if self._levels else (given, torch.zeros(len(given)))
        return values.to(self._dtype), regime

    def _restored(self, values: Tensor, regime: Tensor) -> NDArray[np.float64]:
        return (self._levels.restore(values, regime) if self._levels else values.double()).numpy()

    def _remember(self, rows: Rows, values: Tensor, state: Stores) -> tuple[_Windows, Tensor, Tensor]:
        """The rows' windows, the last known value of each column and its age, `[B, C]`, all in the order of the rows."""
        past, g = self._window - 1, rows.groups()
        length, begins, old, at = g.laid_out(past)
        layout = torch.empty(length, values.shape[1], dtype=self._dtype)
        if past:
            layout[old] = state.cell("past")[g.slots]
        layout[at] = values[g.order]
        first = g.each(begins)  # the first place that a row may look back to
        is_cut = self._restarts(rows, g, first, at, state) if self._counter else torch.zeros(len(at), dtype=torch.bool)

        place = torch.where(layout.isnan(), -1, torch.arange(len(layout)).unsqueeze(1)).cummax(0).values[at]
        is_near = place >= first.unsqueeze(1)
        before = g.each(state.cell("carried")[g.slots])
        waited = g.each(state.cell("age")[g.slots]) + g.ranks.unsqueeze(1) + 1
        is_far = is_cut.unsqueeze(1) | before.isnan()
        carried = torch.where(is_near, layout.gather(0, place.clamp(min=0)), before.masked_fill(is_far, torch.nan))
        age = torch.where(is_near, (at.unsqueeze(1) - place).float(), waited.masked_fill(is_far, FAR)).clamp(max=FAR)

        last = g.ends
        state.cell("carried")[g.slots], state.cell("age")[g.slots] = carried[last], age[last]
        if past:
            kept = at[last].unsqueeze(1) - torch.arange(past - 1, -1, -1)
            newest = layout[kept.flatten()].unflatten(0, kept.shape)
            newest[kept < first[last].unsqueeze(1)] = torch.nan
            state.cell("past")[g.slots] = newest
        windows = _Windows(layout, g.unsorted(at), g.unsorted(first), self._window)
        return windows, g.unsorted(carried), g.unsorted(age)

    def _restarts(self, rows: Rows, g: Groups, first: Tensor, at: Tensor, state: Stores) -> Tensor:
        """Move `first` to the last restart of each row's counter, in the groups' order; returns which rows follow one."""
        assert self._counter
        counter, cell = positions(rows.table.column(self._counter))[g.order], state.cell("counter")
        previous = torch.cat([counter[:1], counter[:-1]])
        previous[g.starts] = cell[g.slots]
        cell[g.slots] = counter[g.ends]
        restart = torch.where(counter < previous, at, -1).cummax(0).values
        is_cut = restart >= first
        first[is_cut] = restart[is_cut]
        return is_cut

    def _fills(self, windows: _Windows, chosen: Tensor, carried: Tensor, age: Tensor) -> Tensor:
        """The chosen rows, filled, `[K, C]` standardised."""
        usual = carried.nan_to_num(0.0) if self._levels else carried
        if self._fill is None:
            return usual[chosen]
        parts = [self._fill(windows.of(index), usual[index], age[index]) for index in chosen.split(self._batch)]
        return torch.cat(parts)

    def _filled(self, gaps: NDArray[np.bool_]) -> pa.Array:
        """The names of the columns that were filled, `[B]` lists."""
        offsets = np.concatenate([[0], gaps.sum(1).cumsum()]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, self._names.take(pa.array(np.nonzero(gaps)[1])))

    def _complete(self, rows: Rows, readings: NDArray[np.float64], ctx: StepContext) -> Rows:
        """The rows without a gap; the others go to the dead letters."""
        gaps = np.isnan(readings)
        if not (is_open := gaps.any(1)).any():
            return rows
        names = [self._columns[i] for i in gaps[is_open].argmax(1)]
        lines = [f"expected {name}, or an earlier one to fill it with, got null" for name in names]
        left = torch.from_numpy(is_open)
        ctx.refuse(rows.keep(left), stage="impute", error="NoValue", messages=lines)
        return rows.keep(~left)


def _as(values: NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    """Filled values as a column of its own type; NaN becomes null."""
    whole = np.rint(values) if pa.types.is_integer(kind) else values
    return pa.array(whole, pa.float64(), from_pandas=True).cast(kind, safe=False)


class _Windows:
    """The windows of rows, laid out one key after the other.

    Args:
        layout: `[P, C]`.
        at: `[B]`, the place of each row.
        first: `[B]`, the first place that belongs to its window.
        length: rows of a window.
    """

    def __init__(self, layout: Tensor, at: Tensor, first: Tensor, length: int) -> None:
        self._layout, self._at, self._first, self._back = layout, at, first, torch.arange(1 - length, 1)

    def of(self, index: Tensor) -> Tensor:
        """The windows `[K, T, C]` of the rows at `index`."""
        places = self._at[index].unsqueeze(1) + self._back
        windows = self._layout[places.clamp(min=0).flatten()].unflatten(0, places.shape)
        return windows.masked_fill((places < self._first[index].unsqueeze(1)).unsqueeze(-1), torch.nan)
