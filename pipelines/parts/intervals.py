"""The stage that shows a model the intervals of a pipeline's context: past, running and planned."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import torch

from tocsin.models.timetable import Timetable
from tocsin.pipelines.runtime import Rows, Stage, StepContext, Stores


class Nearby(Stage):
    """Passes each row on with `tensors["slots"]`, the intervals near to its event time, for a model with context.

    `[B, S, 3 + N] float32`, see `Timetable.near`, with times in the model's unit; S is 0 while nothing is known of any asset. As
    with `InContext`, a row gets what is known when its step runs.

    Args:
        kinds, numbers: of the model, in its order.
        unit: ms of event time in one unit of the slots' times.
        horizon: how far intervals are read, in that unit.
    """

    numbered = False  # it has no state, and models of a running pipeline may come with it or without

    def __init__(self, kinds: Sequence[str], numbers: Sequence[str] = (), *, unit: float, horizon: float) -> None:
        self._kinds, self._numbers, self._unit, self._horizon = tuple(kinds), tuple(numbers), unit, horizon
        self._version, self._timetable = "", Timetable(EMPTY, kinds=())

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        known = ctx.context
        if not len(known):
            return rows.with_tensors(slots=torch.zeros(len(rows), 0, 3 + len(self._numbers)))
        if known.version != self._version:
            table = known.table.with_columns(
                pl.lit(None, pl.Float64).alias(n) for n in self._numbers if n not in known.table
            )
            self._timetable = Timetable(table, kinds=self._kinds, numbers=self._numbers)
            self._version = known.version
        assets = pl.Series(rows.table.column(ctx.key).cast(pa.string()))
        slots = self._timetable.near(assets, ctx.times(rows).numpy(), unit=self._unit, horizon=self._horizon)
        return rows.with_tensors(slots=slots)


EMPTY = pl.DataFrame(schema={"asset": pl.String, "kind": pl.String, "from": pl.Int64, "to": pl.Int64})
