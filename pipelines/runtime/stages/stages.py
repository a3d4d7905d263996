"""Stages that any pipeline can use: order, windows, a model's judgement, silence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.rows import Groups, Rows, concat
from tocsin.pipelines.runtime.declare.stage import Step, Timer
from tocsin.pipelines.runtime.declare.state import (
    NEVER,
    Cell,
    CellStore,
    Declared,
    Pending,
    PendingStore,
    Ring,
    RingStore,
    Store,
)
from tocsin.pipelines.runtime.stages.outliers import Doubts, Order

PARTS = 1_000_000
"""Into which a position with a fraction is divided, so that it can be counted like one without."""
_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Sorted:
    """Each key's rows in order, each position once.

    A row waits until the key has moved `late` past it. What comes later than that is a dead letter (`TooLate`); what
    repeats a position that waits, or the last one let through, is dropped and counted (`duplicates`).

    Args:
        by: a column of numbers or times, of numbers with fractions a millionth counts; None: the event time.
        late: how far a row may lag behind its key's newest: a number in the column's own unit, or a duration for time.
        wait: rows of a key that has gone silent are let through after this long.
        jump: a reading that is further ahead of its key's newest than this, in the column's own unit, waits for the key's next
            one. If that goes on from there, both are let through; else it is a dead letter (`Outlier`). None: never.
        restart: the column is a counter that may start again, at no more than this. A reading up to here that would be too late
            waits for the key's next one, and if that goes on from there, the counter has started again. None: it never does.
    """

    def __init__(
        self,
        *,
        by: str | None = None,
        late: int | str = 0,
        wait: str = "10s",
        jump: float | None = None,
        restart: float | None = None,
    ) -> None:
        self._by, self._late, self._wait = by, milliseconds(late) if isinstance(late, str) else late, milliseconds(wait)
        self._late_is_ms = isinstance(late, str)
        self._doubts = Doubts(by, jump, restart) if jump is not None or restart is not None else None

    @property
    def state(self) -> Mapping[str, Declared]:
        newest = Cell(dtype=torch.int64, fill=NEVER)
        declared: dict[str, Declared] = {"newest": newest}
        if self._late:
            declared |= {"through": newest, "seen_at": Cell(dtype=torch.int64), "waiting": Pending()}
        return declared | dict(self._doubts.state if self._doubts else {})

    @property
    def timers(self) -> Sequence[Timer]:
        doubts = self._doubts.timers if self._doubts else []
        return [Timer("seen_at", self._wait), *doubts] if self._late else doubts

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        rows = self._placed(at.require(rows, self._by or at.event_time, stage="sorted"), at)
        if not self._doubts:
            return self._in_order(rows, state, at)
        out, newest = list[Rows](), state["newest"]
        assert isinstance(newest, CellStore)
        scale = PARTS if pa.types.is_floating(rows.table.schema.field(self._by or at.event_time).type) else 1
        order = Order(lambda r: self._position(r, at), self._allowed(rows, at), scale, newest)
        for restarted, line in self._doubts.lines(rows, order, state, at):
            if len(restarted):
                out.append(self._let_go(restarted, newest, state, line))
            out.append(self._in_order(line, state, at))
        return concat(out)

    def _in_order(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        return self._hold(rows, state, at) if self._late else self._pass(rows, state, at)

    def _let_go(self, slots: Tensor, newest: CellStore, state: Mapping[str, Store], like: Rows) -> Rows:
        """What waits of keys whose counter has started again, in order; their order begins anew."""
        newest[slots] = NEVER
        done = like.take(slots[:0])
        if self._late:
            through, waiting = state["through"], state["waiting"]
            assert isinstance(through, CellStore) and isinstance(waiting, PendingStore)
            through[slots] = NEVER
            if waiting.rows is not None:
                over = torch.isin(waiting.rows.slots, slots)
                done, waiting.rows = waiting.rows.keep(over), waiting.rows.keep(~over)
        return done

    def _placed(self, rows: Rows, at: Step) -> Rows:
        """Rows whose position is a number that can be counted with; the others go to the dead letters."""
        name = self._by or at.event_time
        column = rows.table.column(name)
        if pa.types.is_floating(column.type):
            values, low, high, between = column.to_numpy(), NEVER / PARTS, -NEVER / PARTS, "between -4.6e12 and 4.6e12"
        else:
            values = (column if column.type == pa.uint64() else column.cast(pa.int64())).to_numpy()
            low, high, between = NEVER, 2**63, "above -2**62 and below 2**63"
        fits = torch.from_numpy((values > low) & (values < high))
        if not bool(fits.all()):
            lines = [f"expected {name} {between}, got {v}" for v in values[~fits.numpy()].tolist()]
            at.refuse(rows.keep(~fits), stage="sorted", error="BadValue", messages=lines)
        return rows.keep(fits)

    def _position(self, rows: Rows, at: Step) -> Tensor:
        return _positions(rows.table.column(self._by or at.event_time))

    def _allowed(self, rows: Rows, at: Step) -> int:
        """`late` in the column's own unit."""
        kind = rows.table.schema.field(self._by or at.event_time).type
        if pa.types.is_floating(kind):
            return self._late * PARTS
        scaled = self._late_is_ms and pa.types.is_timestamp(kind)
        return self._late * _PER_S[kind.unit] // 1000 if scaled else self._late

    def _pass(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        """No lateness allowed: a row must be ahead of all its key's rows before it."""
        newest = state["newest"]
        assert isinstance(newest, CellStore)
        if not len(rows):
            return rows
        g, position = rows.groups(), self._position(rows, at)
        before, last = g.running_max(position[g.order], newest[g.slots])
        newest[g.slots] = last
        reached = torch.empty_like(before)
        reached[g.order] = before
        at.counts["duplicates"] += int((position == reached).sum())
        self._refuse(rows, position < reached, position, reached, at)
        return rows.keep(position > reached)

    def _hold(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        newest, through, seen_at, waiting = (state[n] for n in ("newest", "through", "seen_at", "waiting"))
        assert isinstance(newest, CellStore) and isinstance(through, CellStore)
        assert isinstance(seen_at, CellStore) and isinstance(waiting, PendingStore)
        late = self._allowed(rows, at)
        at.hear(seen_at)
        if len(rows):
            g, position = rows.groups(), self._position(rows, at)
            before, last = g.running_max(position[g.order], newest[g.slots])
            newest[g.slots] = last
            reached = torch.empty_like(before)
            reached[g.order] = before
            passed = through[rows.slots]
            floor = torch.maximum(reached - late, passed)
            again = (position == passed) & (position == floor)
            at.counts["duplicates"] += int(again.sum())
            self._refuse(rows, position < floor, position, floor, at)
            rows = rows.keep((position >= floor) & ~again)
        if waiting.rows is not None:
            rows = concat([waiting.rows, rows]) if len(rows) else waiting.rows
        if not len(rows):
            return rows
        position = self._position(rows, at)
        order = np.lexsort((position.numpy(), rows.slots.numpy()))  # stable: of two alike the first to come stays
        rows, position = rows.take(torch.from_numpy(order)), position[torch.from_numpy(order)]
        same = (rows.slots[1:] == rows.slots[:-1]) & (position[1:] == position[:-1])
        at.counts["duplicates"] += int(same.sum())
        first = torch.cat([torch.ones(1, dtype=torch.bool), ~same])
        rows, position = rows.keep(first), position[first]
        silent = at.due(seen_at, self._wait)[rows.slots]
        ready = (position <= newest[rows.slots] - late) | silent
        waiting.rows = rows.keep(~ready)
        rows, position = rows.keep(ready), position[ready]
        if len(rows):
            g = rows.groups()
            through[g.slots] = torch.maximum(through[g.slots], position[g.starts + g.lengths - 1])
        return rows

    def _refuse(self, rows: Rows, late: Tensor, position: Tensor, floor: Tensor, at: Step) -> None:
        if not bool(late.any()):
            return
        name = self._by or at.event_time
        got, after = position[late], floor[late]
        if pa.types.is_floating(rows.table.schema.field(name).type):
            got, after = got.double() / PARTS, after.double() / PARTS
        lines = [f"expected {name} after {f}, got {p}" for p, f in zip(got.tolist(), after.tolist(), strict=True)]
        at.refuse(rows.keep(late), stage="sorted", error="TooLate", messages=lines)


class Last:
    """Each row together with its key's rows before it, as a window; rows of a key with fewer so far give none.

    Hands on `tensors[name]`: `[B, length, len(columns)]` float32, oldest first. A number that float32 can't hold is a dead
    letter: as infinity it would spoil every window that it is in.

    Args:
        counter: a column that `Sorted` lets start again: no window reaches back across that. None: there is none.
    """

    def __init__(
        self, length: int, columns: Sequence[str], *, name: str = "window", counter: str | None = None
    ) -> None:
        self._length, self._columns, self._name, self._counter = length, tuple(columns), name, counter

    @property
    def state(self) -> Mapping[str, Declared]:
        counter = {"counter": Cell(dtype=torch.int64, fill=NEVER, added=True)} if self._counter else {}
        return {"rows": Ring(self._length - 1, len(self._columns), columns=self._columns), **counter}

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        ring, past, width = state["rows"], self._length - 1, len(self._columns)
        assert isinstance(ring, RingStore)
        rows, values = self._values(rows, at)
        if not len(rows):
            return rows.with_tensors(**{self._name: torch.empty(0, self._length, width)})
        g = rows.groups()
        # Lay every group out as its `past` rows, then its new ones: [P], then slide over it.
        tail, count = ring.tail(g.slots)
        rank = torch.arange(len(rows)) - torch.repeat_interleave(g.starts, g.lengths)
        base = g.starts + past * torch.arange(len(g.slots))
        laid = torch.empty(len(rows) + past * len(g.slots), width)
        laid.index_copy_(0, (base[:, None] + torch.arange(past)).flatten(), tail.flatten(0, 1))
        at_row = torch.repeat_interleave(base, g.lengths) + past + rank
        laid.index_copy_(0, at_row, torch.from_numpy(values).index_select(0, g.order))
        newest = (base + g.lengths)[:, None] + torch.arange(past)
        before = torch.repeat_interleave(count, g.lengths) + rank
        if self._counter:
            before -= self._before_restart(_positions(rows.table.column(self._counter))[g.order], g, before, state)
        count = before[g.starts + g.lengths - 1] + 1
        ring.replace(g.slots, laid.index_select(0, newest.flatten()).unflatten(0, newest.shape), count)
        full = before >= past
        chosen, order = g.order[full].sort()
        starts = at_row[full][order] - past
        windows = (
            laid.unfold(0, self._length, 1).transpose(1, 2).index_select(0, starts)
            if len(starts)
            else laid.new_empty(0, self._length, width)
        )
        return rows.take(chosen).with_tensors(**{self._name: windows})

    def _before_restart(self, counter: Tensor, g: Groups, before: Tensor, state: Mapping[str, Store]) -> Tensor:
        """How many of the rows `before` each one, in the groups' order, are of before its counter's last restart."""
        last = state["counter"]
        assert isinstance(last, CellStore)
        previous = torch.cat([counter[:1], counter[:-1]])
        previous[g.starts] = last[g.slots]
        last[g.slots] = counter[g.starts + g.lengths - 1]
        again = torch.where(counter < previous, torch.arange(len(counter)), -1).cummax(0).values
        first = torch.repeat_interleave(g.starts, g.lengths)
        return torch.where(again >= first, before[again.clamp(min=0)], 0)

    def _values(self, rows: Rows, at: Step) -> tuple[Rows, np.ndarray]:
        """The rows that float32 can hold, and their columns, `[B, C]` float32."""
        values = np.empty((len(rows), len(self._columns)), np.float32)
        with np.errstate(over="ignore"):
            for i, column in enumerate(self._columns):
                values[:, i] = rows.table.column(column).to_numpy(zero_copy_only=False)
        if not (endless := np.isinf(values)).any():
            return rows, values
        fits = torch.from_numpy(~endless.any(1))
        large = rows.keep(~fits)
        first = [self._columns[i] for i in endless[~fits.numpy()].argmax(1)]
        lines = [f"expected {c} to fit float32, got {large.table.column(c)[i]}" for i, c in enumerate(first)]
        at.refuse(large, stage="last", error="BadValue", messages=lines)
        return rows.keep(fits), values[fits.numpy()]


class Judge:
    """A model's verdict on each row: its outputs become columns.

    Args:
        model: `tensor [B, ...] -> {name: [B] or [B, T] tensor}`; called with at most `batch` rows.
        tensor: the tensor of `Rows` that it reads.
    """

    def __init__(
        self, model: Callable[[Tensor], Mapping[str, Tensor]], *, tensor: str = "window", batch: int = 512
    ) -> None:
        self._model, self._tensor, self._batch = model, tensor, batch

    @property
    def state(self) -> Mapping[str, Declared]:
        return {}

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        verdict = _batched(self._model, rows.tensors[self._tensor], self._batch)
        return rows.with_columns({name: _arrow(t) for name, t in verdict.items()})


class Pixels:
    """Each row's frame as a tensor, `tensors["pixels"]`, `[B, 3, height, width]` uint8 RGB; its column goes.

    Args:
        field: of the schema, from `frame_fields`.
    """

    def __init__(self, field: pa.Field) -> None:
        self._column, facts = field.name, field.metadata
        self._shape = int(facts[b"height"]), int(facts[b"width"]), 3

    @property
    def state(self) -> Mapping[str, Declared]:
        return {}

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        column, size = rows.table.column(self._column), math.prod(self._shape)
        flat = np.frombuffer(column.buffers()[1] or b"", np.uint8)[column.offset * size :][: len(rows) * size]
        with warnings.catch_warnings():  # Arrow's memory is not to be written to, and nobody does
            warnings.simplefilter("ignore", UserWarning)
            pixels = torch.from_numpy(flat).view(len(rows), *self._shape)
        return rows.without(self._column).with_tensors(pixels=pixels.permute(0, 3, 1, 2))


class Encode(Judge):
    """What a frozen network makes of each row, as tensors for the stages after it instead of columns; arguments as of `Judge`."""

    def __init__(
        self, model: Callable[[Tensor], Mapping[str, Tensor]], *, tensor: str = "pixels", batch: int = 32
    ) -> None:
        super().__init__(model, tensor=tensor, batch=batch)

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        return rows.with_tensors(**_batched(self._model, rows.tensors[self._tensor], self._batch))


class Gaps:
    """Adds how many positions of its key are missing right before each row: `missed`, 0 for a key's first.

    A position that goes back is a source that has started again: nothing is missing.

    Args:
        by: an integer column that a source counts up by one, such as a camera's frame number.
    """

    def __init__(self, *, by: str) -> None:
        self._by = by

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"last": Cell(dtype=torch.int64, fill=NEVER)}

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        last = state["last"]
        assert isinstance(last, CellStore)
        position = rows.column(self._by)
        missed = torch.zeros(len(rows), dtype=torch.int64)
        if len(rows):
            g = rows.groups()
            ordered = position[g.order]
            before = torch.cat([ordered[:1], ordered[:-1]])
            before[g.starts] = last[g.slots]
            steps = torch.where(before > NEVER, ordered - before - 1, 0)
            missed[g.order] = steps.clamp(min=0)
            last[g.slots] = ordered[g.starts + g.lengths - 1]
        at.counts["missed"] += int(missed.sum())
        return rows.with_columns({"missed": pa.array(missed.numpy())})


class Keep:
    """Adds the path under which a row's file is kept, where it is to be kept: `into`, null elsewhere. See `Pipeline.files`.

    Args:
        when: a boolean column; the rows whose file is kept.
        folder: in the lake; each day (UTC, by Kafka's timestamp) has one of its own in it.
        suffix: of the file's name, such as `.jpg`.
        into: the new column.
    """

    def __init__(self, *, when: str, folder: str, suffix: str, into: str) -> None:
        self._when, self._folder, self._suffix, self._into = when, folder, suffix, into

    @property
    def state(self) -> Mapping[str, Declared]:
        return {}

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        place = pl.DataFrame(rows.table.select(["_timestamp", "_partition", "_offset", "_row"]))
        day, ms = pl.col("_timestamp").dt.date(), pl.col("_timestamp").dt.epoch("ms")  # a topic made again counts anew
        path = pl.format(
            f"{self._folder}/{{}}/{{}}-{{}}-{{}}-{{}}{self._suffix}", day, ms, "_partition", "_offset", "_row"
        )
        kept = pl.Series(rows.table.column(self._when)).fill_null(False)
        paths = place.select(pl.when(kept).then(path)).to_series()
        return rows.with_columns({self._into: paths.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())})


class Silence:
    """Adds a row for each key that has not been heard of for `after`: no offset, every reading null, `silent` true.

    Its event time is that of the key's last row, so that the alarm is the same however late it is noticed; a key that has had
    none is not told of. What counts is when readings came, not when a stage lets go of what it made of them: a row that comes
    out while its key is silent, closed by the clock, is `silent` too and ends nothing.
    """

    def __init__(self, after: str) -> None:
        self._after = milliseconds(after)

    @property
    def state(self) -> Mapping[str, Declared]:
        time = Cell(dtype=torch.int64)
        return {"heard": time, "event_time": time, "told": Cell(dtype=torch.bool, fill=True)}

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("heard", self._after)]

    def step(self, rows: Rows, state: Mapping[str, Store], at: Step) -> Rows:
        heard, event_time, told = (state[n] for n in ("heard", "event_time", "told"))
        assert isinstance(heard, CellStore) and isinstance(event_time, CellStore) and isinstance(told, CellStore)
        at.hear(heard)
        due = at.due(heard, self._after)
        if len(rows):
            g = rows.groups()
            known = event_time[g.slots] != 0  # else this is its first row, and `told` says nothing yet
            told[g.slots] = told[g.slots] & known & due[g.slots]
            event_time[g.slots] = at.times(rows)[g.order[g.starts + g.lengths - 1]]
        rows = rows.with_columns({"silent": pa.array(told[rows.slots].numpy())})
        quiet = (~told.all() & due).nonzero()[:, 0]
        if not len(quiet):
            return rows
        told[quiet] = True
        silent = at.timed(quiet, event_time[quiet], rows.table.schema)
        heard_rows = Rows(rows.table.cast(silent.table.schema), rows.slots)
        silent = silent.with_columns({"silent": pa.repeat(pa.scalar(True), len(quiet))})
        return concat([heard_rows, silent])


def _positions(column: pa.Array) -> Tensor:
    """A column as whole numbers that can be compared."""
    if pa.types.is_floating(column.type):
        return torch.from_numpy(np.rint(column.to_numpy().astype(np.float64) * PARTS).astype(np.int64))
    return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())


def _batched(model: Callable[[Tensor], Mapping[str, Tensor]], rows: Tensor, batch: int) -> dict[str, Tensor]:
    """A model over rows, at most `batch` of them at once."""
    parts = [model(chunk) for chunk in rows.split(batch)]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _arrow(tensor: Tensor) -> pa.Array:
    """`[B]` as a column, `[B, T]` as a column of lists."""
    values = tensor.detach().cpu().contiguous().numpy()
    if values.ndim == 1:
        # NaN is no verdict but null: to Polars it is above every level, so it would clear an alarm.
        return pa.array(values, from_pandas=True)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
