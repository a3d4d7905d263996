"""The rows that pass through the stages: an Arrow table, tensors beside it, and each row's slot in the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

MS, US = pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="UTC")


class Layout(NamedTuple):
    """Places of rows, see `Groups.laid_out`.

    Attributes:
        length: P, their number.
        begins: `[K]`, where each group begins.
        old: `[K, past]`, of its past rows. new: `[B]`, of the sorted rows.
    """

    length: int
    begins: Tensor
    old: Tensor
    new: Tensor


@dataclass(frozen=True)
class Groups:
    """Rows grouped by slot, in arrival order inside a group.

    Attributes:
        order: `[B]`, sorts the rows into groups.
        slots, starts, lengths: `[K]`, each group's slot, the place of its first sorted row and its number of rows.
    """

    order: Tensor
    slots: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, slots: Tensor) -> Groups:
        """Group the rows with these slots, `[B]`."""
        order = torch.argsort(slots, stable=True)
        unique, lengths = torch.unique_consecutive(slots[order], return_counts=True)
        return cls(order, unique, torch.cumsum(lengths, 0) - lengths, lengths)

    @cached_property
    def ranks(self) -> Tensor:
        """`[B]`, the number of each sorted row in its group, from 0."""
        return torch.arange(len(self.order)) - self.each(self.starts)

    @cached_property
    def ends(self) -> Tensor:
        """`[K]`, the place of each group's last sorted row."""
        return self.starts + self.lengths - 1

    @property
    def newest(self) -> Tensor:
        """`[K]`, each group's last row."""
        return self.order[self.ends]

    def previous(self, values: Tensor, first: Tensor) -> Tensor:
        """The value of the row before each one in its group, `[B, ...]`.

        Args:
            values: `[B, ...]`.
            first: `[K, ...]`, what is before each group's first row.
        """
        out = torch.empty_like(values)
        out[self.order[1:]] = values[self.order[:-1]]
        out[self.order[self.starts]] = first
        return out

    def each(self, values: Tensor) -> Tensor:
        """A value of each group, `[K, ...]`, for each sorted row, `[B, ...]`."""
        return values.repeat_interleave(self.lengths, 0)

    def unsorted(self, values: Tensor) -> Tensor:
        """Values of the sorted rows, `[B, ...]`, in the order of arrival."""
        out = torch.empty_like(values)
        out[self.order] = values
        return out

    def laid_out(self, past: int) -> Layout:
        """Places for the rows of all groups in a row, before each group's its `past` last ones."""
        begins = self.starts + past * torch.arange(len(self.slots))
        old = begins.unsqueeze(1) + torch.arange(past)
        return Layout(len(self.order) + old.numel(), begins, old, self.each(begins) + past + self.ranks)

    def running_max(self, values: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The running maximum before each row, `[B]`, and at each group's end, `[K]`.

        Args:
            values: `[B]`, in the groups' order.
            start: `[K]`, each group's maximum before its first row.
        """
        # One cumulative maximum over all groups: lift each group above the ones before it by rank, not by value.
        first = torch.zeros(len(values), dtype=torch.bool)
        first[self.starts] = True
        ranks = torch.argsort(torch.argsort(torch.cat([values, start]), stable=True))
        sorted_all = torch.cat([values, start]).sort().values
        n = len(values)
        lift = torch.repeat_interleave(torch.arange(len(self.slots)), self.lengths) * (len(ranks) + 1)
        lead = torch.repeat_interleave(ranks[n:], self.lengths)
        running = torch.cummax(torch.maximum(ranks[:n], lead) + lift, 0).values - lift
        before = torch.where(first, lead, torch.cat([running[:1], running[:-1]]))
        return sorted_all[before], sorted_all[running[self.ends]]


@dataclass(frozen=True)
class Rows:
    """Columnar rows; may be empty (a tick).

    Args:
        table: identity columns (`_partition`, `_offset`, `_row`, `_timestamp`), then the reading's, then those that stages added.
        slots: `[B]` int64, each key's slot in the state.
        tensors: name -> `[B, ...]`, tensors that stages pass on beside the table.
        held: see `by_reference`.
    """

    table: pa.RecordBatch
    slots: Tensor
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.table.num_rows

    def take(self, index: Tensor) -> Rows:
        """The rows at `index` (`[K]` int64), in its order."""
        if len(index) == len(self) and bool((index == torch.arange(len(self))).all()):
            return self
        tensors = {name: t.index_select(0, index.to(t.device)) for name, t in self.tensors.items()}
        held = {name: values[index.numpy()] for name, values in self.held.items()}
        return Rows(self.table.take(pa.array(index.numpy())), self.slots[index], tensors, held)

    def keep(self, mask: Tensor) -> Rows:
        """The rows where `mask` (`[B]` bool) is true."""
        return self if bool(mask.all()) else self.take(mask.nonzero()[:, 0])

    def by_reference(self) -> Rows:
        """The same rows with their binary columns in `held`, for rows that wait: `take` and `concat` then copy no files.

        The columns are null until `by_value` puts them back.
        """
        table, held = self.table, dict(self.held)
        for at, column in enumerate(table.schema):
            if pa.types.is_binary(column.type) and column.name not in held:
                held[column.name] = np.array(table.column(at).to_pylist(), object)
                table = table.set_column(at, column, pa.nulls(len(self), column.type))
        return replace(self, table=table, held=held) if held else self

    def by_value(self) -> Rows:
        """The same rows with all columns in the table."""
        table = self.table
        for name, values in self.held.items():
            at = table.schema.get_field_index(name)
            column = table.schema.field(at)
            table = table.set_column(at, column, pa.array(values.tolist(), column.type))
        return replace(self, table=table, held={}) if self.held else self

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Rows:
        """The same rows with columns added or replaced."""
        table = self.table
        for name, column in columns.items():
            at = table.schema.get_field_index(name)
            table = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
        return replace(self, table=table)

    def without(self, *columns: str) -> Rows:
        """The same rows without some columns."""
        return replace(self, table=self.table.drop_columns(list(columns)))

    def with_tensors(self, **tensors: Tensor) -> Rows:
        """The same rows with tensors added or replaced."""
        return replace(self, tensors={**self.tensors, **tensors})

    def column(self, name: str) -> Tensor:
        """A numeric column as a `[B]` tensor."""
        return torch.from_numpy(np.asarray(self.table.column(name).to_numpy(zero_copy_only=False)).copy())

    def groups(self) -> Groups:
        """The rows grouped by slot."""
        return self._groups

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.slots)

    def by_key(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Each key's slot, `[1]`, and its rows in arrival order; for what is remembered as a whole, key by key."""
        if len(self):
            g = self.groups()
            for slot, rows in zip(g.slots.split(1), g.order.split(g.lengths.tolist()), strict=True):
                yield slot, rows.tolist()

    def rounds(self) -> list[Tensor]:
        """Row indices in rounds, for recurrent models: each key at most once a round, in arrival order."""
        g = self.groups()
        rank = g.ranks
        by_rank = torch.argsort(rank, stable=True)
        return list(torch.split(g.order[by_rank], torch.bincount(rank).tolist())) if len(self) else []


def edges(values: NDArray[Any]) -> list[int]:
    """Where runs of equal values begin, and the end of the last one."""
    return [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)] if len(values) else []


def as_type(column: pa.Array, kind: pa.DataType, *, safe: bool = True) -> pa.Array:
    """A column as another type. Arrow's own `cast` takes microseconds even if there is nothing to convert."""
    return column if column.type == kind else column.cast(kind, safe=safe)


def milliseconds_of(column: pa.Array) -> NDArray[np.int64] | NDArray[np.float64]:
    """A column of times in ms since the epoch; NaN for null."""
    return np.asarray(as_type(column, MS, safe=False).view(pa.int64()))


def arrival_times(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Kafka's timestamps of a batch's rows, ms since the epoch; 0 for none."""
    column = batch.column("_timestamp").view(pa.int64())
    return np.asarray(column.fill_null(0) if column.null_count else column)


def concat(parts: list[Rows]) -> Rows:
    """Concatenate rows of one layout."""
    if len(parts) == 1:
        return parts[0]
    tables = [pa.Table.from_batches([p.table]) for p in parts]
    # A column may be nullable in one part alone: the other part's rows have waited since before an option changed.
    table = pa.concat_tables(tables, promote_options="default").combine_chunks().to_batches()
    tensors = {name: torch.cat([p.tensors[name] for p in parts]) for name in parts[0].tensors}
    held = {name: np.concatenate([p.held[name] for p in parts]) for name in parts[0].held}
    return Rows(table[0] if table else parts[0].table, torch.cat([p.slots for p in parts]), tensors, held)
