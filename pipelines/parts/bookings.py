"""The stage by which bookings and holidays move the probability that a room is occupied."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.pipelines.runtime import Rows, StepContext, Stores
from tocsin.pipelines.runtime.stages import InContext

BOOKED, HOLIDAY = "booked", "holiday"
COLUMNS = [pa.field(BOOKED, pa.bool_()), pa.field(HOLIDAY, pa.bool_()), pa.field("context", pa.string())]
"""The result columns that the stage adds."""


class Booked(InContext):
    """Adds `booked`, `holiday` and `context`, and moves `probability` by what is known: a prior by kind of interval.

    The shifts are added to the log-odds. A room of which no booking is known keeps its probability but for holidays; without
    context, all do, bit for bit.
    Source: this project's; `python -m benchmarks.bookings` compares it with a network that reads the intervals.

    Args:
        booked: in a booking.
        free: outside all bookings, in a room that has some.
        holiday: on a holiday, booked or not.
    """

    numbered = False  # so that the state of later stages keeps its name

    def __init__(self, *, booked: float, free: float, holiday: float) -> None:
        super().__init__([BOOKED, HOLIDAY])
        self._booked, self._free, self._holiday = booked, free, holiday

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        rows = super().step(rows, state, ctx)
        known = ctx.context
        if not len(known):
            return rows
        rooms = pa.array(known.table.filter(pl.col("kind") == BOOKED)["asset"].unique().to_list(), pa.string())
        is_booked, is_holiday, has_bookings = (
            column.to_numpy(zero_copy_only=False)
            for column in (
                rows.table.column(BOOKED),
                rows.table.column(HOLIDAY),
                pc.is_in(rows.table.column(ctx.key).cast(pa.string()), value_set=rooms),
            )
        )
        shift = np.where(is_booked, self._booked, np.where(has_bookings, self._free, 0.0))
        shift = np.where(is_holiday, self._holiday, shift)
        given = rows.table.column("probability").to_numpy(zero_copy_only=False)
        moved = np.where(shift == 0, given, shifted(given, shift)).astype(np.float32)
        return rows.with_columns({"probability": pa.array(moved, from_pandas=True)})


def shifted(probability: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Probabilities `[B]`, NaN where unknown, with log-odds moved by `shift` `[B]`."""
    odds = np.exp(shift) * probability
    return odds / (odds + 1 - probability)
