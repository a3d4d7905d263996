"""State lives per (partition, key): declared by stages; stored, grown, cut into snapshots and expired here."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Rows

log = logging.getLogger(__name__)
NEVER = -(2**62)
"""A time, ms since the epoch, before all others: of what has not happened."""
FAR = 2**62
"""A time, ms since the epoch, that never comes."""


@dataclass(frozen=True)
class Cell:
    """One tensor of a key; `added`: it is no part of the state's shape, and a snapshot that lacks it leaves it at its fill."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    fill: float = 0
    added: bool = field(default=False, repr=False)

    def store(self, state: State) -> CellStore:
        return CellStore(state, self)


@dataclass(frozen=True)
class Ring:
    """The last rows of a key; `columns` are what people call a row's values, and no part of its shape."""

    rows: int
    width: int
    dtype: torch.dtype = torch.float32
    columns: Sequence[str] = field(default=(), repr=False, compare=False)

    def store(self, state: State) -> RingStore:
        return RingStore(state, self)


@dataclass(frozen=True)
class Pending:
    """Rows that wait: for look-ahead, or for the watermark; `added` as of `Cell`."""

    added: bool = field(default=False, repr=False)

    def store(self, state: State) -> PendingStore:
        return PendingStore(state)


Declared = Cell | Ring | Pending


class CellStore:
    """`store[slots]` reads `[K, *shape]`, `store[slots] = values` writes."""

    def __init__(self, state: State, declared: Cell) -> None:
        self._state, self._declared = state, declared
        self._data = torch.full((0, *declared.shape), declared.fill, dtype=declared.dtype)

    def __getitem__(self, slots: Tensor) -> Tensor:
        return self._room().index_select(0, slots)  # `[slots]` is 5-10x slower on rows of a window's size

    def __setitem__(self, slots: Tensor, values: Tensor | float) -> None:
        values = torch.as_tensor(values, dtype=self._declared.dtype)
        self._room().index_copy_(0, slots, values.expand(len(slots), *self._declared.shape))
        self._state.touch(slots)

    def all(self) -> Tensor:
        """`[capacity, *shape]`, a slot that is free holds the fill."""
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
        self._room()[slots] = tensors[""]

    def clear(self, slots: Tensor) -> None:
        self._room()[slots] = torch.tensor(self._declared.fill, dtype=self._declared.dtype)


class RingStore:
    """The last rows of each key, oldest first, right-aligned: `data[slot, -count:]` are filled."""

    def __init__(self, state: State, declared: Ring) -> None:
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
    """Rows set aside until a later step; `None` when nothing waits."""

    def __init__(self, state: State) -> None:
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
    """One stage's state, by the names that it declared."""

    def cell(self, name: str) -> CellStore:
        """What was declared as a `Cell`."""
        return self._of(name, CellStore)

    def ring(self, name: str) -> RingStore:
        """What was declared as a `Ring`."""
        return self._of(name, RingStore)

    def pending(self, name: str) -> PendingStore:
        """What was declared as `Pending`."""
        return self._of(name, PendingStore)

    @property
    def cells(self) -> dict[str, CellStore]:
        """All that was declared as a `Cell`."""
        return {name: store for name, store in self.items() if isinstance(store, CellStore)}

    def _of(self, name: str, kind: type[S]) -> S:
        if not isinstance(store := self.get(name), kind):
            raise ConfigError(
                f"state {name}: expected it to be declared for a {kind.__name__}, got {store}; declare it so"
            )
        return store


@dataclass(frozen=True)
class StateDelta:
    """What a snapshot stores: the slots touched since the last one (all of them when `full`), rows that wait, small facts."""

    full: bool
    keys: pa.RecordBatch  # slot, partition, key, last_seen
    freed: Tensor
    cells: Mapping[str, Tensor]
    waiting: Mapping[str, Rows]
    facts: Mapping[str, Any]


class State:
    """All state of one shard: keys, their slots, and the stages' stores."""

    def __init__(self, declared: Mapping[str, Declared], key_type: pa.DataType) -> None:
        self.capacity = 0
        self.changed = False
        self._key_type = key_type
        self._index: dict[int, dict[Any, int]] = {}
        self._keys: list[tuple[int, Any] | None] = []
        self._seen = np.zeros(0, np.int64)
        self._dirty = np.zeros(0, bool)
        self._free: list[int] = []  # a heap: which slot a key gets must not depend on restarts
        self._freed: set[int] = set()
        self._next_sweep = 0
        self.now = 0
        """The clock of the last step that changed something."""
        self.ticked = 0
        """Up to when what stages do by the clock has been done."""
        self.reached: Mapping[int, int] = {}
        """See `Arrivals.reached`."""
        self.leaving: set[str] = set()
        """Keys, as text, that the next step forgets by a person's order."""
        self.quiet_until = 0
        """No timer is due before this, ms since the epoch; found anew after a restart."""
        self.key_clashes = 0
        self._declared: dict[str, Declared] = {}
        self._stores: dict[str, Store] = {}
        self.declare(declared)

    def declare(self, declared: Mapping[str, Declared]) -> bool:
        """Hold what is declared and no more: what was there before keeps its content. Returns whether anything changed."""
        changed = dict(declared) != self._declared
        kept = {n: s for n, s in self._stores.items() if self._declared[n] == declared.get(n)}
        self._stores = {n: kept[n] if n in kept else d.store(self) for n, d in declared.items()}
        self._declared = dict(declared)
        return changed

    def __len__(self) -> int:
        return sum(map(len, self._index.values()))

    def of(self, stage: str) -> Stores:
        """The stores of one stage."""
        return Stores({name.split("/", 1)[1]: s for name, s in self._stores.items() if name.startswith(f"{stage}/")})

    @property
    def waiting(self) -> dict[str, Rows]:
        """Rows that wait, by the store that holds them."""
        held = {n: s.rows for n, s in self._stores.items() if isinstance(s, PendingStore)}
        return {name: rows for name, rows in held.items() if rows is not None}

    def slots(self, partitions: np.ndarray, keys: pa.Array) -> Tensor:
        """Each row's slot, `[B]` int64; new keys get one. `partitions` is sorted."""
        out = np.empty(len(keys), np.int64)
        values = keys.to_pylist()
        edges = np.flatnonzero(np.diff(partitions, prepend=-1, append=-1)).tolist() if len(keys) else []
        for start, end in itertools.pairwise(edges):
            partition = int(partitions[start])
            get = self._index.setdefault(partition, {}).get
            out[start:end] = [get(k, -1) for k in values[start:end]]
            for i in start + np.flatnonzero(out[start:end] < 0):
                out[i] = self._new(partition, values[i])
        slots = torch.from_numpy(out)
        self.touch(slots)
        return slots

    def seen(self, slots: Tensor) -> Tensor:
        """When these keys were last seen, ms since the epoch; 0: never."""
        return torch.from_numpy(self._seen[slots.numpy()])

    def saw(self, slots: Tensor, times: Tensor) -> None:
        """Note when these keys were seen."""
        self._seen[slots.numpy()] = times.numpy()

    def keys_of(self, slots: Tensor) -> tuple[pa.Array, pa.Array]:
        """The partitions and the keys that live in `slots`."""
        held = [self._keys[s] or (None, None) for s in slots.tolist()]
        return pa.array([p for p, _ in held], pa.int32()), pa.array([k for _, k in held], self._key_type)

    def touch(self, slots: Tensor) -> None:
        """Mark slots as changed since the last cut."""
        if len(slots):
            self._dirty[slots.numpy()] = True
            self.changed = True

    def _new(self, partition: int, key: Any) -> int:
        index = self._index[partition]
        if key in index:
            return index[key]
        if other := [p for p, keys in self._index.items() if p != partition and key in keys]:
            if not self.key_clashes:  # the first is an example, `keys_on_two_partitions` says how many
                place = {"partition": partition, "asset": str(key)}
                line = "key %s: expected it on partition %d alone, got it on %d too, so its state is split; mend its feeder"
                log.warning(line, key, other[0], partition, extra=place)
            self.key_clashes += 1
        if not self._free:
            self._reserve(max(1024, 2 * self.capacity))
        slot = heapq.heappop(self._free)
        index[key] = slot
        self._keys[slot] = (partition, key)
        self._freed.discard(slot)
        return slot

    def forget(self, now: int, after: int) -> int:
        """Free the slots of keys not seen for `after` ms; looks at most 64 times in that span. Returns how many."""
        if now < self._next_sweep:
            return 0
        self._next_sweep, first = now + max(after // 64, 1), self._next_sweep == 0
        self.changed = True  # when the next look is due is state, too
        if first:
            return 0
        old = np.flatnonzero(self.forgotten(torch.tensor(now), after).numpy()).tolist()
        for slot in map(int, old):
            partition, key = self._keys[slot] or (0, None)
            del self._index[partition][key]
            self._keys[slot] = None
            self._seen[slot] = 0
            heapq.heappush(self._free, slot)
            self._freed.add(slot)
        if old:
            self._clear(torch.tensor(old, dtype=torch.int64))
        return len(old)

    def lapse(self, slots: Tensor, times: Tensor, after: int) -> int:
        """Begin these keys anew if they had not been seen for `after` ms by these times. Returns how many.

        What `forget` does at its time, it has to do where a key comes back before it looks.
        """
        if not bool((times - self.seen(slots) > after).any()):
            return 0
        limits = torch.zeros(self.capacity, dtype=torch.int64)
        limits[slots] = times
        old = self.forgotten(limits, after).nonzero()[:, 0]
        self.blank(old)
        return len(old)

    def leavers(self) -> Tensor:
        """The keys of `leaving`, by slot."""
        there = [s for s, held in enumerate(self._keys) if held is not None and str(held[1]) in self.leaving]
        return torch.tensor(there if self.leaving else [], dtype=torch.int64)

    def blank(self, slots: Tensor) -> None:
        """Begin these keys anew; rows of them that wait stay."""
        self._clear(slots)
        self.touch(slots)

    def forgotten(self, times: Tensor, after: int) -> Tensor:
        """Which keys had not been seen for `after` ms by `times`, `[capacity]` bool; none of them has rows that wait."""
        seen = torch.from_numpy(self._seen)
        old = (seen != 0) & (times - seen > after)
        for rows in self.waiting.values():
            old[rows.slots] = False
        return old

    def _clear(self, slots: Tensor) -> None:
        self._dirty[slots.numpy()] = False
        for store in self._stores.values():
            if not isinstance(store, PendingStore):
                store.clear(slots)

    def delta(self, *, full: bool) -> StateDelta:
        """Copy what changed since the last cut (everything when `full`), to be written while steps go on."""
        chosen = np.flatnonzero([k is not None for k in self._keys] if full else self._dirty)
        slots = torch.from_numpy(chosen)
        held = [self._keys[s] or (0, None) for s in chosen]
        keys = pa.RecordBatch.from_arrays(
            [
                pa.array(chosen, pa.int64()),
                pa.array([p for p, _ in held], pa.int32()),
                pa.array([k for _, k in held], self._key_type),
                pa.array(self._seen[chosen], pa.int64()),
            ],
            names=["slot", "partition", "key", "last_seen"],
        )
        cells: dict[str, Tensor] = {}
        for name, store in self._stores.items():
            if not isinstance(store, PendingStore):
                cells |= {f"{name}|{part}": t for part, t in store.delta(slots).items()}
        freed = torch.tensor(sorted(() if full else self._freed), dtype=torch.int64)
        self._dirty[:] = False
        self._freed.clear()
        facts = {
            "next_sweep": self._next_sweep,
            "capacity": self.capacity,
            "now": self.now,
            "ticked": self.ticked,
            "reached": {str(p): ms for p, ms in self.reached.items()},
            "leaving": sorted(self.leaving),
        }
        return StateDelta(full, keys, freed, cells, self.waiting, facts)

    def restore(self, deltas: Sequence[StateDelta]) -> None:
        """Become what the cuts say: a full one, then those that follow it."""
        for delta in deltas:
            self._reserve(int(delta.facts["capacity"]))
            if len(delta.freed):
                self._clear(delta.freed)
                for slot in map(int, delta.freed):
                    self._drop(slot)
            slots = torch.from_numpy(delta.keys["slot"].to_numpy().copy())
            for slot, partition, key, seen in zip(*(c.to_pylist() for c in delta.keys.columns), strict=True):
                self._drop(slot)
                self._index.setdefault(partition, {})[key] = slot
                self._keys[slot] = (partition, key)
                self._seen[slot] = seen
            for name, store in self._stores.items():
                if not isinstance(store, PendingStore):
                    marked = f"{name}|"
                    parts = {n.removeprefix(marked): t for n, t in delta.cells.items() if n.startswith(marked)}
                    if parts:  # a rule that was added since has none
                        store.restore(slots, parts)
        last = deltas[-1]
        for name, store in self._stores.items():
            if isinstance(store, PendingStore):
                store.rows = last.waiting.get(name)
        self._free = [slot for slot, held in enumerate(self._keys) if held is None]
        self._next_sweep = int(last.facts["next_sweep"])
        self.now, self.ticked = (int(last.facts.get(n, 0)) for n in ("now", "ticked"))  # older ones lack them
        self.reached = {int(p): int(ms) for p, ms in last.facts.get("reached", {}).items()}
        self.leaving = set(last.facts.get("leaving", ()))
        self.quiet_until = 0
        self._dirty[:] = False
        self.changed = False

    def _reserve(self, capacity: int) -> None:
        """Room for `capacity` keys."""
        if (grown := capacity - self.capacity) <= 0:
            return
        self._free += range(self.capacity, capacity)
        self._keys += [None] * grown
        self._seen = np.concatenate([self._seen, np.zeros(grown, np.int64)])
        self._dirty = np.concatenate([self._dirty, np.zeros(grown, bool)])
        self.capacity = capacity

    def _drop(self, slot: int) -> None:
        if held := self._keys[slot]:
            self._keys[slot], self._seen[slot] = None, 0
            if self._index[held[0]].get(held[1]) == slot:  # the key may live in another slot by now
                del self._index[held[0]][held[1]]
