"""How the surprise pipeline knows again what it has seen: a bounded memory of each camera's events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa
import torch

from tocsin.models.surprise.revisits import Bank, Frame, Watch, blank, blank_bank
from tocsin.pipelines.runtime import Cell, Declared, Rows, Stage, StepContext, Stores

COLUMNS = (pa.field("again", pa.bool_()), pa.field("since", pa.timestamp("ms", tz="UTC")))
"""The result columns: whether what is new was seen before, and when it was first seen. Both are null outside events, in an event's
first frames until it is decided, and without the stage `Revisits`."""


class Unknown(Stage):
    """Adds `COLUMNS` as nulls: nothing is remembered."""

    numbered = False

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return rows.with_columns({field.name: pa.nulls(len(rows), field.type) for field in COLUMNS})


class Revisits(Stage):
    """Adds `COLUMNS`: whether an event was seen before, and when first.

    Args:
        channels: of the predictor's picture; grid: rows and columns of places.
        away: ms for which an event must have been out of sight before it counts as seen again.
    """

    numbered = False  # snapshots of before have none: it is added to them, and later stages' state keeps its name

    def __init__(self, *, channels: int, grid: tuple[int, int], away: int) -> None:
        self._watch, self._bank = blank(channels, grid), blank_bank(channels, grid)
        self._away = away

    @property
    def state(self) -> Mapping[str, Declared]:
        parts = {**self._watch, **self._bank}
        return {name: Cell(tuple(t.shape), t.dtype, t.flatten()[0].item(), added=True) for name, t in parts.items()}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        again: list[bool | None] = [None] * len(rows)
        since: list[datetime | None] = [None] * len(rows)
        times, t = ctx.times(rows).tolist(), rows.tensors
        for slot, indices in rows.by_key():
            memory = _Memory(state, slot, list(self._bank))
            watch = Watch({name: state.cell(name)[slot][0] for name in self._watch}, memory.open, away=self._away)
            for row in indices:
                frame = Frame(
                    times[row],
                    t["picture"][row],
                    t["warp"][row],
                    t["action"][row],
                    t["places"][row],
                    novel=bool(t["novel"][row]),
                    begins=bool(t["begins"][row]),
                    fresh=bool(t["fresh"][row]),
                )
                again[row] = watch.step(frame)
                if again[row] is not None:
                    since[row] = datetime.fromtimestamp(watch.since / 1000, UTC)
            for name, value in watch.state().items():
                state.cell(name)[slot] = value[None]
            memory.close()
        columns = zip(COLUMNS, (again, since), strict=True)
        return rows.with_columns({field.name: pa.array(values, field.type) for field, values in columns})


class _Memory:
    """A camera's bank, which is read from the state at the first frame that needs it."""

    def __init__(self, state: Stores, slot: torch.Tensor, names: list[str]) -> None:
        self._state, self._slot, self._names = state, slot, names
        self._bank: Bank | None = None

    def open(self) -> Bank:
        """The bank."""
        if self._bank is None:
            self._bank = Bank({name: self._state.cell(name)[self._slot][0] for name in self._names})
        return self._bank

    def close(self) -> None:
        """Write what has changed."""
        for name, value in self._bank.changed().items() if self._bank else ():
            self._state.cell(name)[self._slot] = value[None]
