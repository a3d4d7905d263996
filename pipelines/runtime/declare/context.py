"""Context: intervals of an asset's time, such as maintenance, loads or bookings, with which rows are joined by event time."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.errors import ConfigError

EVERY = "*"
"""The asset of an interval that holds for all assets, such as a holiday."""
TIME = pa.timestamp("us", tz="UTC")
OPEN = (1 << 43) - 1
"""The end of an interval whose end is not known, ms since the epoch: the year 2248. No asset's time goes beyond."""
BITS = 43
STORED = ("asset", "kind", "from", "to")


@dataclass(frozen=True, kw_only=True)
class ContextTopic:
    """The context of a pipeline, which arrives on the topic `context.<pipeline>`, one interval a record.

    A record has `asset` (`*`: all), `kind`, `from`, `to` (absent: not known yet), numbers, and an `id` if its beginning may change.
    A later record of the same asset, kind and `id`, or without an `id` of the same beginning, replaces an earlier one. With `to`
    equal to `from` it withdraws it.

    Args:
        kinds: the kinds of intervals; a record of another kind is a dead letter.
        numbers: fields of numbers that an interval may have, such as `load`.
    """

    kinds: Sequence[str]
    numbers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if clash := {*self.numbers} & {*STORED, "id"}:
            raise ConfigError(f"context: expected names of numbers other than its own fields, got {sorted(clash)}")

    @property
    def schema(self) -> pa.Schema:
        """One record."""
        return pa.schema(
            [
                pa.field("asset", pa.string(), nullable=False),
                pa.field("kind", pa.string(), nullable=False),
                pa.field("from", TIME, nullable=False),
                pa.field("to", TIME),
                pa.field("id", pa.string()),
                *(pa.field(name, pa.float64()) for name in self.numbers),
            ]
        )


class Intervals:
    """The intervals of a context topic, each as its last record says.

    Args:
        table: `asset`, `kind`, `from`, `to` (ms since the epoch), and numbers; in a stable order.
    """

    def __init__(self, table: pl.DataFrame | None = None) -> None:
        self.table = pl.DataFrame(schema=dict.fromkeys(STORED, pl.String)) if table is None else table
        self._kinds: dict[str, _Kind] = {}

    @classmethod
    def of(cls, records: pl.DataFrame) -> Intervals:
        """The intervals that records say, in the order in which they were sent.

        Args:
            records: the columns of a context topic's schema. Other columns of floats are its numbers; the rest is ignored.
        """
        milliseconds = [pl.col(name).dt.epoch("ms") for name in ("from", "to")]
        begins = pl.col("from").dt.epoch("ms").cast(pl.String)
        newest = (
            records.with_columns(_id=pl.when(pl.col("id").is_null()).then("@" + begins).otherwise("=" + pl.col("id")))
            .group_by("asset", "kind", "_id", maintain_order=True)
            .last()
        )
        ends = pl.col("to").fill_null(OPEN).clip(upper_bound=OPEN)
        known = newest.with_columns(milliseconds).with_columns(ends)
        table = known.filter(pl.col("to") > pl.col("from")).drop("_id", "id").sort(*STORED)
        return cls(table.select(*STORED, cs.float()))

    def dump(self) -> bytes:
        """The table as an Arrow file, equal for equal intervals."""
        out = BytesIO()
        self.table.write_ipc(out, compression="zstd")
        return out.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Intervals:
        """Read what `dump` wrote."""
        return cls(pl.read_ipc(BytesIO(content)))

    def __len__(self) -> int:
        return self.table.height

    @cached_property
    def version(self) -> str:
        """A name of this state of the context, from its content; "": nothing is known."""
        return hashlib.sha256(self.dump()).hexdigest()[:12] if len(self) else ""

    def covering(self, kind: str, assets: pa.Array, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The interval of a kind that covers each asset's time.

        Of several that do, the one that began last; of those, the one that ends first. An asset's own precede those of `EVERY`.

        Args:
            assets: `[B]` keys of any type.
            times: `[B]`, ms since the epoch.

        Returns:
            `[B]` rows of `table`; -1: none does.
        """
        if kind not in self._kinds:
            self._kinds[kind] = _Kind(self.table.with_row_index("row").filter(pl.col("kind") == kind))
        return self._kinds[kind].covering(assets, times)

    def numbers(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """A number of intervals: of rows of `table`, NaN for -1 and where the interval has none."""
        if name not in self.table.columns or not len(self):
            return np.full(len(rows), np.nan)
        values = self.table[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return np.where(rows >= 0, values[np.maximum(rows, 0)], np.nan)


class _Kind:
    """The intervals of one kind, cut into segments that do not overlap.

    A segment has a key, its asset's number and its beginning, and the row of the interval that covers it; -1: none does.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        ordered = table.sort("asset", "from", "to", descending=[False, False, True])
        parts = ordered.partition_by("asset", maintain_order=True)
        self._assets = [part["asset"][0] for part in parts]
        keys, rows = list[int](), list[int]()
        for number, own in enumerate(parts):
            for begin, row in _segments(own["from"].to_list(), own["to"].to_list(), own["row"].to_list()):
                keys.append(number << BITS | begin)
                rows.append(row)
        self._keys, self._rows = np.array(keys, np.int64), np.array([*rows, -1], np.int64)
        self._common = self._assets.index(EVERY) if EVERY in self._assets else -1

    def covering(self, assets: pa.Array, times: NDArray[np.int64]) -> NDArray[np.int64]:
        found = pc.index_in(assets.cast(pa.string()), value_set=pa.array(self._assets, pa.string()))
        numbers = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        rows = self._of(numbers, times)
        if self._common < 0:
            return rows
        return np.where(rows < 0, self._of(np.full_like(numbers, self._common), times), rows)

    def _of(self, numbers: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = (np.maximum(numbers, 0) << BITS) | np.clip(times, 0, OPEN - 1)
        at = np.searchsorted(self._keys, keys, side="right") - 1
        is_own = (at >= 0) & (numbers >= 0) & (self._keys[at] >> BITS == numbers if len(self._keys) else False)
        return np.where(is_own, self._rows[at], -1)


def _segments(begins: Sequence[int], ends: Sequence[int], rows: Sequence[int]) -> list[tuple[int, int]]:
    """Where another interval begins to cover an asset's time, and its row; -1: none does.

    Args:
        begins, ends: sorted by the beginning, then from the last end to the first.
    """
    segments, covering, following = list[tuple[int, int]](), list[tuple[int, int]](), 0
    for moment in sorted({*begins, *ends}):
        while following < len(begins) and begins[following] <= moment:
            heapq.heappush(covering, (-following, following))
            following += 1
        while covering and ends[covering[0][1]] <= moment:
            heapq.heappop(covering)
        row = rows[covering[0][1]] if covering else -1
        if not segments or segments[-1][1] != row:
            segments.append((max(moment, 0), row))
    return segments
