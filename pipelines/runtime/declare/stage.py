"""Stages: rows in, rows out; what they may know of the step that they are in, and what falls due in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.dead_letter import Refusal
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.state import CellStore, Declared, Stores


class Stage:
    """Rows in, rows out: fewer (it waits), more (it resamples) or as many.

    A stage is deterministic: no I/O, and no clock but the step's; otherwise recovery could not run it again. The engine may call it
    without rows (a tick).

    A stage that acts when a key has been inactive declares `timers`. It calls `ctx.hear` to note when keys were heard of, and
    `ctx.due` says which have been inactive for long enough. The engine calls it at exactly that time of the key, between the
    readings before and after the pause, even where one step holds both.
    """

    stored_as = ""
    """The name of its state in snapshots; "": the name of the class."""

    @property
    def state(self) -> Mapping[str, Declared]:
        """What it remembers, declared: the runtime stores it, snapshots it, lets it expire and moves it."""
        return {}

    @property
    def timers(self) -> Sequence[Timer]:
        """After how long without a key's readings it acts on the key."""
        return ()

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        """Take one step's rows, return what goes on."""
        raise NotImplementedError


def state_names(stages: Sequence[Stage]) -> list[str]:
    """What each stage's state is called in snapshots."""
    return [f"{i}-{getattr(stage, 'stored_as', '') or type(stage).__name__}" for i, stage in enumerate(stages)]


def declared_state(stages: Sequence[Stage]) -> dict[str, Declared]:
    """What all stages remember, by the names that it has in snapshots."""
    named = zip(state_names(stages), stages, strict=True)
    return {f"{name}/{part}": declared for name, stage in named for part, declared in stage.state.items()}


@dataclass(frozen=True)
class Timer:
    """Something that a stage does to a key that has not been heard of for a while.

    A step that holds a key's rows from both sides of such a silence is judged in parts, so that the silence is noticed.

    Args:
        heard: the stage's cell with when each key was last heard of, ms since the epoch, 0 for never; see `StepContext.hear`.
        after: ms of silence.
        counts: rows as they came -> `[B]` bool, those that end a silence; None: all.
    """

    heard: str
    after: int
    counts: Callable[[Rows], Tensor] | None = None


@dataclass
class StepContext:
    """What a stage may know of the step it is in, and where it leaves what it drops.

    Args:
        now: ms since the epoch, the step's only clock, journaled.
        key, event_time: the columns of `rows.table` with the key and the event time.
        keys_of: slots -> their partitions and keys; for rows that a stage makes itself.
        came: the readings of this part of the step, before any stage.
        heard: `[B]` int64, when each of them counts as heard of, ms since the epoch.
        clock: `[capacity]` int64, how far each key's own time has come, by slot. It stops wherever a `Timer` is due.
        ticks: no readings have come in this part of the step: it is about what is due.
    """

    now: int
    key: str
    event_time: str
    keys_of: Callable[[Tensor], tuple[pa.Array, pa.Array]]
    came: Rows = field(init=False)
    heard: Tensor = field(init=False)
    clock: Tensor = field(init=False)
    ticks: bool = False
    refused: list[Refusal] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def refuse(self, rows: Rows, *, stage: str, error: str, messages: Sequence[str]) -> None:
        """Send rows to the dead letters, one message a row."""
        identity = (rows.table.column(n).to_pylist() for n in ("_partition", "_offset", "_row"))
        for partition, offset, row, message in zip(*identity, messages, strict=True):
            self.refused.append(Refusal(partition, offset, row, stage, error, message))

    def hear(self, heard: CellStore, counts: Tensor | None = None) -> None:
        """Note in a cell when the keys of `came` were last heard of, ms since the epoch; `counts` (`[B]` bool): by these rows."""
        rows = self.came if counts is None else self.came.keep(counts)
        if len(rows):
            g, at = rows.groups(), self.heard if counts is None else self.heard[counts]
            heard[g.slots] = at[g.order[g.starts + g.lengths - 1]]

    def due(self, heard: CellStore, after: int) -> Tensor:
        """Which keys have not been heard of for `after` ms, `[capacity]` bool by slot; a stage declares that as a `Timer`."""
        last = heard.all()
        if not self.ticks:
            return torch.zeros(len(last), dtype=torch.bool)
        return (last == 0) | (last + after <= self.clock)  # never: its state was taken away while rows of it wait

    def times(self, rows: Rows) -> Tensor:
        """Each row's event time, ms, `[B]` int64."""
        column = rows.table.column(self.event_time).cast(pa.timestamp("ms", tz="UTC"), safe=False)
        return torch.from_numpy(column.cast(pa.int64()).to_numpy().copy())

    def timed(self, slots: Tensor, times: Tensor, fields: Iterable[pa.Field]) -> Rows:
        """Rows that a stage makes itself, of the keys in `slots` at `times` (ms): no offset, and all else null."""
        partitions, keys = self.keys_of(slots)
        moments = pa.array(times.numpy(), pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
        known = {"_partition": partitions, "_timestamp": moments, self.event_time: moments, self.key: keys}
        schema = pa.schema([f.with_nullable(True) for f in fields])
        made = [known[f.name].cast(f.type) if f.name in known else pa.nulls(len(slots), f.type) for f in schema]
        return Rows(pa.RecordBatch.from_arrays(made, schema=schema), slots)

    def require(self, rows: Rows, column: str, *, stage: str) -> Rows:
        """The rows that have a value in `column`; the others go to the dead letters."""
        if not rows.table.column(column).null_count:
            return rows
        there = torch.from_numpy(rows.table.column(column).is_valid().to_numpy(zero_copy_only=False))
        without = rows.keep(~there)
        messages = [f"expected {column}, got null"] * len(without)
        self.refuse(without, stage=stage, error="NoValue", messages=messages)
        return rows.keep(there)
