"""What a stage declares as its state, and the stores that hold it, one slot a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Rows


class Slots(Protocol):
    """The slots that a store's data is indexed by: a shard's `State`."""

    capacity: int
    changed: bool

    def touch(self, slots: Tensor) -> None: ...


@dataclass(frozen=True)
class Cell:
    """One tensor for each key.

    Args:
        added: it was added after the pipeline's first version: it is not part of the state's signature, and a snapshot without it
            restores it as `fill`.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    fill: float = 0
    added: bool = field(default=False, repr=False)

    def store(self, state: Slots) -> CellStore:
        return CellStore(state, self)


@dataclass(frozen=True)
class Ring:
    """The last rows of each key.

    Args:
        columns: names of a row's values, for people; not part of the state's signature.
    """

    rows: int
    width: int
    dtype: torch.dtype = torch.float32
    columns: Sequence[str] = field(default=(), repr=False, compare=False)

    def store(self, state: Slots) -> RingStore:
        return RingStore(state, self)


@dataclass(frozen=True)
class Pending:
    """Rows that wait, for look-ahead or for the watermark; `added` as in `Cell`."""

    added: bool = field(default=False, repr=False)

    def store(self, state: Slots) -> PendingStore:
        return PendingStore(state)


Declared = Cell | Ring | Pending


class CellStore:
    """`store[slots]` reads `[K, *shape]`, `store[slots] = values` writes."""

    def __init__(self, state: Slots, declared: Cell) -> None:
        self._state, self._declared = state, declared
        self._data = torch.full((0, *declared.shape), declared.fill, dtype=declared.dtype)

    def __getitem__(self, slots: Tensor) -> Tensor:
        return self._room().index_select(0, slots)  # `[slots]` is 5-10x slower on rows of a window's size

    def __setitem__(self, slots: Tensor, values: Tensor | float) -> None:
        values = torch.as_tensor(values, dtype=self._declared.dtype)
        self._room().index_copy_(0, slots, values.expand(len(slots), *self._declared.shape))
        self._state.touch(slots)

    def all(self) -> Tensor:
        """`[capacity, *shape]`; a free slot holds the fill."""
        return self._room()

    def _room(self) -> Tensor:
        """The data, grown to the number of slots."""
        if (missing := self._state.capacity - len(self._data)) > 0:
            d = self._declared
            self._data = torch.cat([self._data, torch.full((missing, *d.shape), d.fill, dtype=d.dtype)])
        return self._data

    def delta(self, slots: Tensor) -> dict[str, Tensor]:
        return {"": self[slots]}

    def restore(self, slots: Tensor, tensors: Mapping[str, Tensor]) -> None:
        values, count = tensors[""], len(slots)
        if len(self._data) or not torch.equal(slots, torch.arange(count)):
            self._room().index_copy_(0, slots, values)
            return
        d = self._declared  # the usual start: the keys fill the first slots, and each is copied once
        self._data = torch.empty((self._state.capacity, *d.shape), dtype=d.dtype)
        self._data[:count], self._data[count:] = values, d.fill

    def clear(self, slots: Tensor) -> None:
        self._room()[slots] = torch.tensor(self._declared.fill, dtype=self._declared.dtype)


class RingStore:
    """The last rows of each key, oldest first, right-aligned: `data[slot, -count:]` are filled."""

    def __init__(self, state: Slots, declared: Ring) -> None:
        self.rows = declared.rows
        self._data = Cell((declared.rows, declared.width), declared.dtype).store(state)
        self._count = Cell((), torch.int64).store(state)

    def tail(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """`[K, rows, width]` and how many of these rows are filled, `[K]`."""
        return self._data[slots], self._count[slots]

    def replace(self, slots: Tensor, data: Tensor, count: Tensor) -> None:
        """Set the last rows of `slots`; `count` is capped at `rows`."""
        self._data[slots] = data
        self._count[slots] = count.clamp(max=self.rows)

    def delta(self, slots: Tensor) -> dict[str, Tensor]:
        return {"data": self._data[slots], "count": self._count[slots]}

    def restore(self, slots: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self._data.restore(slots, {"": tensors["data"]})
        self._count.restore(slots, {"": tensors["count"]})

    def clear(self, slots: Tensor) -> None:
        self._data.clear(slots)
        self._count.clear(slots)


class PendingStore:
    """Rows that wait for a later step; `rows` is None when there are none."""

    def __init__(self, state: Slots) -> None:
        self._state = state
        self._rows: Rows | None = None

    @property
    def rows(self) -> Rows | None:
        return self._rows

    @rows.setter
    def rows(self, rows: Rows | None) -> None:
        if rows is self._rows:
            return
        self._rows = rows if rows is not None and len(rows) else None
        self._state.changed = True


Store = CellStore | RingStore | PendingStore
S = TypeVar("S", CellStore, RingStore, PendingStore)


class Stores(dict[str, Store]):
    """One stage's state, by the names that the stage declared."""

    def cell(self, name: str) -> CellStore:
        """The store that was declared as a `Cell`."""
        return self._of(name, CellStore)

    def ring(self, name: str) -> RingStore:
        """The store that was declared as a `Ring`."""
        return self._of(name, RingStore)

    def pending(self, name: str) -> PendingStore:
        """The store that was declared as `Pending`."""
        return self._of(name, PendingStore)

    @property
    def cells(self) -> dict[str, CellStore]:
        """All stores that were declared as a `Cell`."""
        return {name: store for name, store in self.items() if isinstance(store, CellStore)}

    def _of(self, name: str, kind: type[S]) -> S:
        if not isinstance(store := self.get(name), kind):
            raise ConfigError(
                f"state {name}: expected a {kind.__name__}, got {store}; declare it in the stage's `state`"
            )
        return store
