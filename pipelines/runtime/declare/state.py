"""The state of a shard: each (partition, key) has a slot, at which the stages' stores keep its state."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Rows, edges
from tocsin.pipelines.runtime.declare.stores import Declared, PendingStore, Store, Stores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateDelta:
    """What a checkpoint stores: the slots changed since the last one (all if `full`), the rows that wait, and a few facts."""

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
        self._free: list[int] = []  # a heap: a key's slot must not depend on restarts
        self._freed: set[int] = set()
        self._next_sweep = 0
        self.now = 0
        """The clock of the last step that changed something."""
        self.ticked = 0
        """The time up to which the stages' timers have fired."""
        self.reached: Mapping[int, int] = {}
        """See `Arrivals.reached`."""
        self.leaving: set[str] = set()
        """Keys, as text, that the next step forgets because a person ordered it."""
        self.quiet_until = 0
        """No timer is due before this, ms since the epoch; determined again after a restart."""
        self.key_clashes = 0
        self._declared: dict[str, Declared] = {}
        self._stores: dict[str, Store] = {}
        self.declare(declared)

    def declare(self, declared: Mapping[str, Declared]) -> bool:
        """Hold exactly the declared stores. Stores declared before keep their content. Returns whether anything changed."""
        changed = dict(declared) != self._declared
        retained = {n: s for n, s in self._stores.items() if self._declared[n] == declared.get(n)}
        self._stores = {n: retained[n] if n in retained else d.store(self) for n, d in declared.items()}
        self._declared = dict(declared)
        return changed

    def __len__(self) -> int:
        return sum(map(len, self._index.values()))

    def of(self, stage: str) -> Stores:
        """The stores of one stage."""
        return Stores({name.split("/", 1)[1]: s for name, s in self._stores.items() if name.startswith(f"{stage}/")})

    @property
    def waiting(self) -> dict[str, Rows]:
        """The rows that wait, by the name of the store that holds them."""
        return {name: rows.by_value() for name, rows in self._waiting.items()}

    def held_records(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Partition and offset, `[N]` each, of the rows that wait in each store. Rows that a timer made are left out."""
        tables = [rows.table.select(["_partition", "_offset"]) for rows in self._waiting.values()]
        return [tuple(c.to_numpy() for c in table.filter(table["_offset"].is_valid()).columns) for table in tables]

    @property
    def _waiting(self) -> dict[str, Rows]:
        pending = {n: s.rows for n, s in self._stores.items() if isinstance(s, PendingStore)}
        return {name: rows for name, rows in pending.items() if rows is not None}

    def slots(self, partitions: np.ndarray, keys: pa.Array) -> Tensor:
        """Each row's slot, `[B]` int64; new keys get one. `partitions` is sorted."""
        out = np.empty(len(keys), np.int64)
        values = keys.to_pylist()
        for start, end in itertools.pairwise(edges(partitions)):
            partition = int(partitions[start])
            get = self._index.setdefault(partition, {}).get
            out[start:end] = [get(k, -1) for k in values[start:end]]
            for i in start + np.flatnonzero(out[start:end] < 0):
                out[i] = self._new(partition, values[i])
        slots = torch.from_numpy(out)
        self.touch(slots)
        return slots

    def seen(self, slots: Tensor) -> Tensor:
        """The times at which these keys were last seen, ms since the epoch; 0: never."""
        return torch.from_numpy(self._seen[slots.numpy()])

    def saw(self, slots: Tensor, times: Tensor) -> None:
        """Record the times at which these keys were seen."""
        self._seen[slots.numpy()] = times.numpy()

    def keys_of(self, slots: Tensor) -> tuple[pa.Array, pa.Array]:
        """The partitions and the keys of `slots`."""
        owners = [self._keys[s] or (None, None) for s in slots.tolist()]
        return pa.array([p for p, _ in owners], pa.int32()), pa.array([k for _, k in owners], self._key_type)

    def touch(self, slots: Tensor) -> None:
        """Mark slots as changed since the last delta."""
        if len(slots):
            self._dirty[slots.numpy()] = True
            self.changed = True

    def _new(self, partition: int, key: Any) -> int:
        index = self._index[partition]
        if key in index:
            return index[key]
        if other := [p for p, keys in self._index.items() if p != partition and key in keys]:
            if not self.key_clashes:  # log the first one; `keys_on_two_partitions` counts them
                place = {"partition": partition, "asset": str(key)}
                line = "key %s: expected it on partition %d only, got it on %d too, so its state is split; correct its producer"
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
        """Free the slots of keys not seen for `after` ms, at most 64 times in that span. Returns how many were freed."""
        if now < self._next_sweep:
            return 0
        self._next_sweep, first = now + max(after // 64, 1), self._next_sweep == 0
        self.changed = True  # the time of the next sweep is state, too
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
        """Reset the keys that had not been seen for `after` ms at these times. Returns how many.

        `forget` runs only now and then. A key that returns before it runs must be reset here.
        """
        if not bool((times - self.seen(slots) > after).any()):
            return 0
        limits = torch.zeros(self.capacity, dtype=torch.int64)
        limits[slots] = times
        old = self.forgotten(limits, after).nonzero()[:, 0]
        self.blank(old)
        return len(old)

    def leavers(self) -> Tensor:
        """The slots of the keys in `leaving`."""
        if not self.leaving:
            return torch.empty(0, dtype=torch.int64)
        leaving = [s for s, owner in enumerate(self._keys) if owner is not None and str(owner[1]) in self.leaving]
        return torch.tensor(leaving, dtype=torch.int64)

    def blank(self, slots: Tensor) -> None:
        """Reset these keys. Their rows that wait stay."""
        self._clear(slots)
        self.touch(slots)

    def forgotten(self, times: Tensor, after: int) -> Tensor:
        """Which keys had not been seen for `after` ms at `times` and have no rows that wait, `[capacity]` bool."""
        seen = torch.from_numpy(self._seen)
        old = (seen != 0) & (times - seen > after)
        for rows in self._waiting.values():
            old[rows.slots] = False
        return old

    def _clear(self, slots: Tensor) -> None:
        self._dirty[slots.numpy()] = False
        for store in self._stores.values():
            if not isinstance(store, PendingStore):
                store.clear(slots)

    def delta(self, *, full: bool) -> StateDelta:
        """Copy what changed since the last delta (everything if `full`), so that it can be written while steps go on."""
        chosen = np.flatnonzero([k is not None for k in self._keys] if full else self._dirty)
        slots = torch.from_numpy(chosen)
        owners = [self._keys[s] or (0, None) for s in chosen]
        keys = pa.RecordBatch.from_arrays(
            [
                pa.array(chosen, pa.int64()),
                pa.array([p for p, _ in owners], pa.int32()),
                pa.array([k for _, k in owners], self._key_type),
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
        """Replace the state by that of the deltas: a full one, then those that follow it."""
        for delta in deltas:
            self._reserve(int(delta.facts["capacity"]))
            if len(delta.freed):
                self._clear(delta.freed)
                for slot in map(int, delta.freed):
                    self._drop(slot)
            slots = torch.from_numpy(delta.keys["slot"].to_numpy().copy())
            self._restore_keys(delta.keys)
            for name, store in self._stores.items():
                if not isinstance(store, PendingStore):
                    prefix = f"{name}|"
                    parts = {n.removeprefix(prefix): t for n, t in delta.cells.items() if n.startswith(prefix)}
                    if parts:  # a rule that was added later has none
                        store.restore(slots, parts)
        last = deltas[-1]
        for name, store in self._stores.items():
            if isinstance(store, PendingStore):
                store.rows = last.waiting.get(name)
        self._free = [slot for slot, owner in enumerate(self._keys) if owner is None]
        self._next_sweep = int(last.facts["next_sweep"])
        self.now, self.ticked = (int(last.facts.get(n, 0)) for n in ("now", "ticked"))  # older ones lack them
        self.reached = {int(p): int(ms) for p, ms in last.facts.get("reached", {}).items()}
        self.leaving = set(last.facts.get("leaving", ()))
        self.quiet_until = 0
        self._dirty[:] = False
        self.changed = False

    def _restore_keys(self, keys: pa.RecordBatch) -> None:
        """Give the keys of a delta their slots."""
        slots, partitions, values, seen = keys.columns
        listed = slots.to_pylist()
        if self._index:
            for slot in listed:
                self._drop(slot)
        for partition in pc.unique(partitions).to_pylist():
            chosen = pc.equal(partitions, partition)
            own = zip(values.filter(chosen).to_pylist(), slots.filter(chosen).to_pylist(), strict=True)
            self._index.setdefault(partition, {}).update(own)
        for slot, *owner in zip(listed, partitions.to_pylist(), values.to_pylist(), strict=True):
            self._keys[slot] = (owner[0], owner[1])
        self._seen[slots.to_numpy()] = seen.to_numpy()

    def _reserve(self, capacity: int) -> None:
        """Make room for `capacity` keys."""
        if (grown := capacity - self.capacity) <= 0:
            return
        self._free += range(self.capacity, capacity)
        self._keys += [None] * grown
        self._seen = np.concatenate([self._seen, np.zeros(grown, np.int64)])
        self._dirty = np.concatenate([self._dirty, np.zeros(grown, bool)])
        self.capacity = capacity

    def _drop(self, slot: int) -> None:
        if owner := self._keys[slot]:
            self._keys[slot], self._seen[slot] = None, 0
            if self._index[owner[0]].get(owner[1]) == slot:  # the key may live in another slot by now
                del self._index[owner[0]][owner[1]]
