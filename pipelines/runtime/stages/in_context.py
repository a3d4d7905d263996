"""Joins rows with the context of their assets: which intervals cover their event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from tocsin.pipelines.runtime.declare.rows import Rows, milliseconds_of
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores


class InContext(Stage):
    """Adds what the pipeline's context says of each row's asset at its event time.

    A row is joined with what is known when its step runs. A later correction does not change it; `tocsin reset` judges it again.

    Args:
        kinds: kinds of intervals. Each becomes a boolean column, whether an interval covers the row; null: no context is known.
        numbers: columns of numbers: name -> the kind and the number of the interval that covers the row; null: none does.
        version: the column that names the state of the context, null while nothing is known of any asset.
    """

    def __init__(
        self, kinds: Sequence[str], numbers: Mapping[str, tuple[str, str]] | None = None, *, version: str = "context"
    ) -> None:
        self._kinds, self._numbers, self._version = kinds, numbers or {}, version

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        known, n = ctx.context, len(rows)
        if not len(known):
            nothing = {name: pa.nulls(n, pa.bool_()) for name in self._kinds}
            nothing |= {name: pa.nulls(n, pa.float64()) for name in self._numbers}
            return rows.with_columns({**nothing, self._version: pa.nulls(n, pa.string())})
        assets = rows.table.column(ctx.key)
        times = np.asarray(milliseconds_of(rows.table.column(ctx.event_time)), np.int64)
        kinds = {*self._kinds, *(kind for kind, _ in self._numbers.values())}
        covering = {kind: known.covering(kind, assets, times) for kind in kinds}
        columns = {kind: pa.array(covering[kind] >= 0) for kind in self._kinds}
        columns |= {
            name: pa.array(known.numbers(number, covering[kind]), pa.float64(), from_pandas=True)
            for name, (kind, number) in self._numbers.items()
        }
        return rows.with_columns({**columns, self._version: pa.repeat(pa.scalar(known.version), n)})
