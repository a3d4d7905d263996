"""Marks rows as those of a shadow."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores


class InShadow(Stage):
    """Marks rows as those of a shadow; see `Plan.in_shadow`.

    Args:
        empty: columns that become null.
    """

    def __init__(self, empty: Sequence[str]) -> None:
        self._empty = empty

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        nulls = {name: pa.nulls(len(rows), rows.table.schema.field(name).type) for name in self._empty}
        return rows.with_columns({**nulls, names.IN_SHADOW: pa.repeat(pa.scalar(True), len(rows))})
