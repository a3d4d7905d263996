"""Windows of each row with the rows before and after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.rows import Groups, Rows, concat
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext, Timer
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Pending, Ring, Stores


class CenteredWindow(Stage):
    """Passes each row on with its key's `past` rows before it and `ahead` rows after it, once those have arrived.

    A key's rows are passed on in order, each once, with their columns and tensors. Places before a key's first row and after its
    last are zero in a window and false in `there`. When a key becomes inactive, its waiting rows are passed on with the rows that
    exist. If the key returns, they are not processed again; they are the past of its next rows, unless a lapse lies between.

    Passes on `tensors[name]`: `[B, past + 1 + ahead, *shape]`, oldest first, the row itself at `past`; and
    `tensors[name + "_there"]`: `[B, past + 1 + ahead]` bool.

    Args:
        tensor: the tensor of `Rows` that windows are made of: `[B, *shape]` of `dtype`, on the CPU.
        lapse: the longest gap in event time between two rows of a key that a window may span. At a longer gap, waiting rows are
            passed on with what they have, and the past starts again. None: no limit.
        wait: a key is inactive after this long; as in `Inactivity`, what counts is when its readings arrived. It must be longer
            than the `wait` of a `Reorder` before it, or windows close without the rows that still wait there.
        without: other tensors of `Rows` that are not passed on. Waiting rows are copied in every step and stored in every
            snapshot, which is too much for a frame's pixels.

    Raises:
        ConfigError: `past` or `ahead` is negative; in a step, the tensor has another shape or dtype.
    """

    stored_as = "Around"

    def __init__(
        self,
        past: int,
        ahead: int,
        tensor: str = "features",
        *,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        name: str = "window",
        lapse: str | None = None,
        wait: str = "2s",
        without: Sequence[str] = (),
    ) -> None:
        if past < 0 or ahead < 0:
            raise ConfigError(
                f"CenteredWindow of {tensor}: expected past and ahead of at least 0, got {past} and {ahead}"
            )
        self._past, self._ahead, self._tensor, self._name = past, ahead, tensor, name
        self._shape, self._dtype, self._without = tuple(shape), dtype, frozenset(without)
        self._lapse, self._wait = -NEVER if lapse is None else milliseconds(lapse), milliseconds(wait)

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "past": Ring(self._past, math.prod(self._shape), self._dtype),
            "newest": Cell(dtype=torch.int64, fill=NEVER),  # event time of the last row passed on
            "heard": Cell(dtype=torch.int64),
            "waiting": Pending(),
        }

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("heard", self._wait)]

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        past, newest, last_active, waiting = (
            state.ring("past"),
            state.cell("newest"),
            state.cell("heard"),
            state.pending("waiting"),
        )
        ctx.hear(last_active)
        rows = self._copied(rows.by_reference())
        if waiting.rows is not None:
            still = waiting.rows.by_reference()  # a snapshot holds values
            rows = concat([still, rows]) if len(rows) else still
        g = rows.groups()
        times = ctx.times(rows)[g.order]
        before = torch.cat([times[:1], times[:-1]])
        before[g.starts] = newest[g.slots]
        values = rows.tensors[self._tensor].reshape(len(rows), math.prod(self._shape))
        line = _Line(g, values, *past.tail(g.slots), times - before > self._lapse, self._ahead)
        is_waiting = line.open & ~ctx.due(last_active, self._wait)[rows.slots]
        through = g.lengths - torch.bincount(line.key[is_waiting], minlength=len(g.slots))
        has_passed = through > 0
        until = (line.starts + through)[has_passed]
        newest[g.slots[has_passed]] = times[(g.starts + through - 1)[has_passed]]
        past.replace(
            g.slots[has_passed], line.at(until[:, None] + torch.arange(-self._past, 0)), until - line.span[until - 1]
        )
        if len(rows):  # an empty tick changes nothing, but an assignment would mark the state as changed
            waiting.rows = rows.keep(is_waiting)
        windows, is_filled = line.around(line.place[~is_waiting], self._past)
        windows = windows.reshape(*is_filled.shape, *self._shape)
        through_rows = rows.keep(~is_waiting).by_value()
        return through_rows.with_tensors(**{self._name: windows, f"{self._name}_there": is_filled})

    def _copied(self, rows: Rows) -> Rows:
        """The rows with the tensors that are passed on, each in its own memory: a snapshot takes no views of shared memory."""
        values = rows.tensors[self._tensor]
        if (tuple(values.shape[1:]), values.dtype) != (self._shape, self._dtype):
            raise ConfigError(
                f"CenteredWindow of {self._tensor}: expected [B, *{list(self._shape)}] {self._dtype}, "
                f"got {list(values.shape)} {values.dtype}; set its shape and dtype"
            )
        tensors = {name: t.detach() for name, t in rows.tensors.items() if name not in self._without}
        return replace(
            rows, tensors={name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        )


class _Line:
    """All keys' rows on a line of P places, one key after the other: each key's past, then its rows.

    The line is cut into spans, and no window reaches out of its span. The cuts are at each key's end, at each lapse, and where a
    past begins. A span is named by the place of its first row.

    Args:
        values: `[B, W]`, the rows' values in arrival order.
        tail, count: `[K, past, W]` and `[K]`, each key's past, right-aligned, and its number of rows.
        lapsed: `[B]` bool, in the groups' order: whether a lapse lies right before the row.

    Attributes:
        starts: `[K]`, the place of each key's first row.
        key, place: `[B]`, each row's key, 0 to K - 1, and its place.
        span: `[P]`, each place's span.
        open: `[B]` bool, whether the row's window reaches beyond the rows that its key has so far.
    """

    def __init__(self, g: Groups, values: Tensor, tail: Tensor, count: Tensor, lapsed: Tensor, ahead: int) -> None:
        past, keys, self._ahead = tail.shape[1], torch.arange(len(g.slots)), ahead
        self.starts = g.starts + past * (keys + 1)
        ends = self.starts + g.lengths
        key = torch.repeat_interleave(keys, g.lengths)
        place = torch.arange(len(key)) + past * (key + 1)
        self.key, self.place = torch.empty_like(key), torch.empty_like(place)
        self.key[g.order], self.place[g.order] = key, place
        self._values = torch.cat([values, tail.flatten(0, 1), values.new_zeros(1, values.shape[1])])
        self._zero_row = len(self._values) - 1
        length = len(key) + past * len(keys) + ahead + 1  # as far as windows at the end reach
        self._source = torch.full((length,), self._zero_row)
        self._source[(self.starts[:, None] + torch.arange(-past, 0)).flatten()] = len(key) + torch.arange(
            past * len(keys)
        )
        self._source[self.place] = torch.arange(len(key))
        begins = torch.zeros(length, dtype=torch.bool)
        begins[torch.cat([self.starts - count, ends, place[lapsed]])] = True
        self.span = torch.where(begins, torch.arange(length), 0).cummax(0).values
        last = (ends - 1)[self.key]
        self.open = (self.span[last] == self.span[self.place]) & (self.place + ahead > last)

    def at(self, places: Tensor) -> Tensor:
        """The values at `places`, `[*places.shape, W]`."""
        return self._pick(self._source[places])

    def around(self, places: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """The windows around `places` (`[R]`), `[R, past + 1 + ahead, W]`, and which of their places hold a row."""
        reach = places[:, None] + torch.arange(-past, self._ahead + 1)
        in_span = self.span[reach] == self.span[places][:, None]
        return self._pick(torch.where(in_span, self._source[reach], self._zero_row)), in_span

    def _pick(self, which: Tensor) -> Tensor:
        return self._values.index_select(0, which.flatten()).unflatten(0, which.shape)
