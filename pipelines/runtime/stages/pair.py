"""Joins the rows of a key's two sources in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.dead_letter import TOO_LATE
from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Rows, concat
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Pending, Stores

OTHER = "other_"
"""Prefix of the partner's columns and tensors."""
USED = "_used"
"""Tensor of waiting rows: whether a row of the second source was a partner."""


class Pair(Stage):
    """Passes each row of a key's first source on with the nearest row in time of its second source.

    A row of the first source is joined to the row of the second whose event time is nearest; of two that are equally near, to the
    earlier. A row of the second source may be the partner of several. A row waits until no nearer partner can come: until the
    second source has advanced `late` past where a nearer one would be, or the first one `wait` beyond that, or the key is inactive
    for `wait`. Rows are passed on in order of their event times, each once. So what is joined depends on the order in which rows
    arrived, and not on how they came in steps.

    A row without a partner within `tolerance` is passed on with nulls and zeros, and counted (`unpaired`). A row of the second
    source that was nobody's partner is dropped, and counted (`unused`), as soon as it can be nobody's. A row that is more than
    `late` behind the newest of its source, or that is not after the last one passed on, becomes a dead letter (`TooLate`). A row
    that repeats the event time of a waiting row of its source, or of the last one passed on, is dropped and counted (`duplicates`).
    A row of neither source becomes a dead letter (`BadValue`).

    Adds the partner's columns and tensors, with the prefix `other_`; `apart`, by how many ms it is later than its row; and the
    tensor `paired`, `[B]` bool.

    Args:
        by: a column of texts that says which of the two sources a row is from.
        sources: the first and the second source's text.
        columns: columns of the partner to add.
        tensors: tensors of the partner to add.
        tolerance: how far apart two rows may be.
        late: how far a row may be behind the newest of its source.
        wait: see above.

    Raises:
        ConfigError: the sources are equal.
    """

    def __init__(
        self,
        *,
        by: str,
        sources: tuple[str, str],
        columns: Sequence[str] = (),
        tensors: Sequence[str] = (),
        tolerance: str = "50ms",
        late: str = "0ms",
        wait: str = "2s",
    ) -> None:
        if sources[0] == sources[1]:
            raise ConfigError(f"Pair by {by}: expected two sources, got {sources[0]!r} twice; name the other one")
        self._by, self._sources, self._columns, self._tensors = by, sources, tuple(columns), tuple(tensors)
        self._tolerance, self._late, self._wait = map(milliseconds, (tolerance, late, wait))

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "newest": Cell((2,), torch.int64, NEVER),
            "through": Cell(dtype=torch.int64, fill=NEVER),
            "heard": Cell(dtype=torch.int64),
            "waiting": Pending(),
        }

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("heard", self._wait)]

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        heard, waiting = state.cell("heard"), state.pending("waiting")
        ctx.hear(heard)
        rows = self._of_a_source(ctx.require(rows, self._by, stage="pair"), ctx)
        arrived, before = _copied(rows.by_reference()), 0
        if waiting.rows is not None:
            held, before = waiting.rows.by_reference(), len(waiting.rows)  # a snapshot holds values
            arrived = concat([held, arrived]) if len(arrived) else held
        used = arrived.tensors[USED].clone()  # a snapshot may still hold the old one
        joined = self._joined(arrived.with_tensors(**{USED: used}), before, state, ctx)
        if len(arrived):  # an empty tick changes nothing, but an assignment would mark the state as changed
            waiting.rows = arrived.with_tensors(**{USED: used}).take(torch.tensor(joined.waits, dtype=torch.int64))
        return self._together(arrived, joined)

    def _of_a_source(self, rows: Rows, ctx: StepContext) -> Rows:
        """The rows of the two sources; the others go to the dead letters."""
        names = rows.table.column(self._by).to_pylist()
        known = torch.tensor([name in self._sources for name in names], dtype=torch.bool)
        if not bool(known.all()):
            one, other = self._sources
            lines = [f"expected {self._by} {one!r} or {other!r}, got {n!r}" for n in names if n not in self._sources]
            ctx.refuse(rows.keep(~known), stage="pair", error="BadValue", messages=lines)
        return rows.keep(known)

    def _joined(self, rows: Rows, before: int, state: Stores, ctx: StepContext) -> _Joined:
        """Take up the rows one by one, in the order in which they arrived; the first `before` are those that wait."""
        newest, through = state.cell("newest"), state.cell("through")
        times, slots = ctx.times(rows).tolist(), rows.slots.tolist()
        second = [name == self._sources[1] for name in rows.table.column(self._by).to_pylist()]
        silent = set(ctx.due(state.cell("heard"), self._wait).nonzero()[:, 0].tolist()) if ctx.ticks else set()
        used = rows.tensors[USED]
        joined, keys = _Joined(), dict[int, _Key]()
        touched = sorted({*slots[before:], *(slot for slot in slots if slot in silent)})
        at = torch.tensor(touched, dtype=torch.int64)
        for slot, reached, done in zip(touched, newest[at].tolist(), through[at].tolist(), strict=True):
            keys[slot] = _Key(reached, done)
        late, repeated = list[tuple[int, int]](), 0
        for index, (slot, time, side) in enumerate(zip(slots, times, second, strict=True)):
            if (key := keys.get(slot)) is None:
                joined.waits.append(index)  # no row of its key has come: what it waits for has not changed
                continue
            if index < before:
                key.waits[side].append((time, index))
                continue
            floor = key.newest[side] - self._late
            if not side:
                floor = max(floor, key.through + 1)
            if side == 0 and time == key.through:
                repeated += 1
            elif time < floor:
                late.append((index, floor))
            elif (side and time == key.newest[1]) or any(time == t for t, _ in key.waits[side]):
                repeated += 1
            else:
                key.waits[side].append((time, index))
                key.newest[side] = max(key.newest[side], time)
                self._release(key, joined, used, ctx)
        for slot, key in keys.items():
            if slot in silent:
                self._release(key, joined, used, ctx, all_of_them=True)
            joined.waits += [index for side in key.waits for _, index in side]
        joined.waits.sort()
        if touched:
            newest[at] = torch.tensor([keys[slot].newest for slot in touched])
            through[at] = torch.tensor([keys[slot].through for slot in touched])
        ctx.counts["duplicates"] += repeated
        if late:
            lines = [f"expected {ctx.event_time} after {floor}, got {times[index]}" for index, floor in late]
            refused = rows.take(torch.tensor([index for index, _ in late]))
            ctx.refuse(refused, stage="pair", error=TOO_LATE, messages=lines)
        return joined

    def _release(
        self, key: _Key, joined: _Joined, used: Tensor, ctx: StepContext, *, all_of_them: bool = False
    ) -> None:
        """Join the first rows that no nearer partner can come for, in order; drop the second ones that can be nobody's partner.

        Args:
            used: `[B]` bool, whether each row was a partner; is updated.
            all_of_them: nothing waits any longer.
        """
        firsts, seconds = key.waits
        firsts.sort()
        while firsts:
            time, index = firsts[0]
            near = [(abs(t - time), t, i) for t, i in seconds if abs(t - time) <= self._tolerance]
            reach, at, partner = min(near) if near else (self._tolerance, time, -1)
            # A second row after `time + reach` would be no nearer than the best so far.
            settled = key.newest[1] - self._late >= time + reach
            given_up = key.newest[0] - self._late >= time + self._tolerance + self._wait
            if not (settled or given_up or all_of_them):
                break
            joined.first.append(index)
            joined.partner.append(partner)
            joined.apart.append(at - time)
            if near:
                used[partner] = True
            else:
                ctx.counts["unpaired"] += 1
            key.through = time
            del firsts[0]
        next_first = max(key.through + 1, key.newest[0] - self._late)
        if firsts:
            next_first = min(next_first, firsts[0][0])
        # No second row is kept for longer than `wait`; those that a waiting row may be joined to are younger.
        oldest = max(next_first, key.newest[1] - self._late - self._wait - self._tolerance) - self._tolerance
        gone = [i for t, i in seconds if all_of_them or t < oldest]
        ctx.counts["unused"] += int((~used[gone]).sum())
        seconds[:] = [(t, i) for t, i in seconds if not (all_of_them or t < oldest)]

    def _together(self, rows: Rows, joined: _Joined) -> Rows:
        """The first rows with their partners' columns and tensors."""
        rows = replace(rows, tensors={name: t for name, t in rows.tensors.items() if name != USED})
        out = rows.take(torch.tensor(joined.first, dtype=torch.int64)).by_value()
        partner = torch.tensor(joined.partner, dtype=torch.int64)
        is_there = partner >= 0
        absent = pa.array((~is_there).numpy())
        picked = rows.take(partner.clamp(min=0)) if len(partner) else rows.take(partner)
        picked = picked.by_value()
        columns = {f"{OTHER}{name}": _masked(picked.table.column(name), absent) for name in self._columns}
        columns["apart"] = pa.array(np.array(joined.apart, np.int64), mask=(~is_there).numpy())
        tensors = {f"{OTHER}{name}": _blanked(picked.tensors[name], is_there) for name in self._tensors}
        return replace(out.with_columns(columns), tensors={**out.tensors, **tensors, "paired": is_there})


@dataclass
class _Joined:
    """What a step joined: each passed row, its partner or -1, and by how many ms that is later; and the rows that wait."""

    first: list[int] = field(default_factory=list)
    partner: list[int] = field(default_factory=list)
    apart: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)


class _Key:
    """What is known of a key: the newest event time of each source, that of the last row passed on, and the rows that wait."""

    def __init__(self, newest: list[int], through: int) -> None:
        self.newest, self.through = newest, through
        self.waits: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])


def _copied(rows: Rows) -> Rows:
    """The rows with their tensors in memory of their own, since a snapshot takes no views; and `USED`."""
    tensors = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in rows.tensors.items()}
    return replace(rows, tensors={**tensors, USED: torch.zeros(len(rows), dtype=torch.bool)})


def _masked(column: pa.Array, absent: pa.Array) -> pa.Array:
    """The column, null where there is no partner."""
    return pc.if_else(absent, pa.scalar(None, column.type), column)


def _blanked(tensor: Tensor, is_there: Tensor) -> Tensor:
    """The tensor, zero where there is no partner."""
    return tensor * is_there.view(-1, *[1] * (tensor.dim() - 1)).to(tensor.dtype)
