"""Rows for inactive keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.rows import Rows, concat
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores


class Inactivity(Stage):
    """Adds a row for each key that has been inactive for `after`: no offset, every reading null, `silent` true.

    The row's event time is that of the key's last row, so the alert is the same however late the inactivity is noticed. A key
    that has had no row gets none. What counts is when readings arrived, not when an earlier stage passed their rows on: a row
    that a stage passes on while its key is inactive, because the clock closed it, is `silent` too and does not end the inactivity.
    """

    stored_as = "Silence"

    def __init__(self, after: str) -> None:
        self._after = milliseconds(after)

    @property
    def state(self) -> Mapping[str, Declared]:
        time = Cell(dtype=torch.int64)
        return {"heard": time, "event_time": time, "told": Cell(dtype=torch.bool, fill=True)}

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("heard", self._after)]

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        last_active, event_time, reported = state.cell("heard"), state.cell("event_time"), state.cell("told")
        ctx.hear(last_active)
        due = ctx.due(last_active, self._after)
        if len(rows):
            g = rows.groups()
            known = event_time[g.slots] != 0  # 0: the key's first row; `reported` still has its fill
            reported[g.slots] = reported[g.slots] & known & due[g.slots]
            event_time[g.slots] = ctx.times(rows)[g.newest]
        rows = rows.with_columns({"silent": pa.array(reported[rows.slots].numpy())})
        inactive = (~reported.all() & due).nonzero()[:, 0]
        if not len(inactive):
            return rows
        reported[inactive] = True
        silent = ctx.timed(inactive, event_time[inactive], rows.table.schema)
        input_rows = Rows(rows.table.cast(silent.table.schema), rows.slots)
        silent = silent.with_columns({"silent": pa.repeat(pa.scalar(True), len(inactive))})
        return concat([input_rows, silent])
