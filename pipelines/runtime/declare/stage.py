"""Stages, the context of the step that they run in, and timers for inactive keys."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare import tallies
from tocsin.pipelines.runtime.declare.context import Intervals
from tocsin.pipelines.runtime.declare.dead_letter import Refusal
from tocsin.pipelines.runtime.declare.rows import MS, Rows, milliseconds_of
from tocsin.pipelines.runtime.declare.stores import CellStore, Declared, Stores


class Stage:
    """Takes rows and returns rows: fewer if it holds some back, more if it resamples, or as many.

    A stage is deterministic: it does no I/O and reads no clock but the step's. Otherwise recovery could not repeat it. The engine
    may call it without rows (a tick).

    A stage that acts on inactive keys declares `timers`. It calls `ctx.hear` to record when keys were last active; `ctx.due`
    returns the keys that have been inactive for long enough. The engine calls the stage exactly when a key's timer is due,
    between the readings before and after the pause, even if one step holds both.
    """

    stored_as = ""
    """The name of the stage's state in snapshots; "": the name of the class."""
    numbered = True
    """False: an option of a running pipeline may add this stage or leave it out. Its state has no number in snapshots, so that the
    other stages keep theirs, and its cells are `added`. A pipeline has at most one of its class."""

    @property
    def state(self) -> Mapping[str, Declared]:
        """The state that the stage declares. The runtime stores, snapshots, expires and moves it."""
        return {}

    @property
    def timers(self) -> Sequence[Timer]:
        """The timers after which the stage acts on an inactive key."""
        return ()

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        """Process one step's rows and return the rows for the next stage."""
        raise NotImplementedError


def state_names(stages: Sequence[Stage]) -> list[str]:
    """The name of each stage's state in snapshots."""
    names, number = list[str](), itertools.count()
    for stage in stages:
        name = getattr(stage, "stored_as", "") or type(stage).__name__
        names.append(f"{next(number)}-{name}" if getattr(stage, "numbered", True) else name)
    return names


def declared_state(stages: Sequence[Stage]) -> dict[str, Declared]:
    """The state that all stages declare, by its names in snapshots."""
    named = zip(state_names(stages), stages, strict=True)
    return {f"{name}/{part}": declared for name, stage in named for part, declared in stage.state.items()}


@dataclass(frozen=True)
class Timer:
    """A period of inactivity after which a stage acts on a key.

    A step with a key's rows from before and after such a period is processed in parts, so that the stage notices the period.

    Args:
        heard: the stage's cell with the time when each key was last active, ms since the epoch, 0 for never; see
            `StepContext.hear`.
        after: ms of inactivity.
        counts: rows as they arrived -> `[B]` bool, the rows that make a key active; None: all.
    """

    heard: str
    after: int
    counts: Callable[[Rows], Tensor] | None = None


@dataclass
class StepContext:
    """What a stage can read of the step that it runs in, and where it sends rows that it refuses.

    Args:
        now: ms since the epoch; the step's only clock. It is journaled.
        key, event_time: the columns of `rows.table` with the key and the event time.
        keys_of: slots -> their partitions and keys; for rows that a stage makes itself.
        came: the readings of this part of the step, before any stage.
        heard: `[B]` int64, ms since the epoch: when each reading's key was last active.
        clock: `[capacity]` int64, the time that each key has reached, by slot. It stops wherever a `Timer` is due.
        ticks: this part of the step has no readings; it only handles what is due.
        context: what is known of the pipeline's context.
    """

    now: int
    key: str
    event_time: str
    keys_of: Callable[[Tensor], tuple[pa.Array, pa.Array]]
    came: Rows = field(init=False)
    heard: Tensor = field(init=False)
    clock: Tensor = field(init=False)
    ticks: bool = False
    context: Intervals = field(default_factory=Intervals)
    refused: list[Refusal] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    tallies: tallies.Tallies = field(default_factory=dict)

    def tally(self, name: str, counts: NDArray[np.int64]) -> None:
        """Add to an array of counts, which the supervisor sums over steps and shards."""
        tallies.add(self.tallies, {name: counts})

    def refuse(self, rows: Rows, *, stage: str, error: str, messages: Sequence[str]) -> None:
        """Send rows to the dead letters, with one message for each row."""
        identity = (rows.table.column(n).to_pylist() for n in ("_partition", "_offset", "_row"))
        for partition, offset, row, message in zip(*identity, messages, strict=True):
            self.refused.append(Refusal(partition, offset, row, stage, error, message))

    def hear(self, heard: CellStore, counts: Tensor | None = None) -> None:
        """Record when the keys of `came` were last active, ms since the epoch; `counts` (`[B]` bool): only by these rows."""
        rows = self.came if counts is None else self.came.keep(counts)
        if len(rows):
            g, at = rows.groups(), self.heard if counts is None else self.heard[counts]
            heard[g.slots] = at[g.newest]

    def due(self, heard: CellStore, after: int) -> Tensor:
        """Which keys have been inactive for `after` ms, `[capacity]` bool by slot; the stage must declare a `Timer` for it."""
        last = heard.all()
        if not self.ticks:
            return torch.zeros(len(last), dtype=torch.bool)
        return (last == 0) | (last + after <= self.clock)  # 0: the key's state was removed while its rows still wait

    def times(self, rows: Rows) -> Tensor:
        """Each row's event time, ms, `[B]` int64."""
        return torch.from_numpy(milliseconds_of(rows.table.column(self.event_time)).copy())

    def timed(self, slots: Tensor, times: Tensor, fields: Iterable[pa.Field]) -> Rows:
        """Rows that a stage makes itself, for the keys in `slots` at `times` (ms). They have no offset; all else is null."""
        partitions, keys = self.keys_of(slots)
        moments = pa.array(times.numpy(), pa.int64()).cast(MS)
        known = {"_partition": partitions, "_timestamp": moments, self.event_time: moments, self.key: keys}
        schema = pa.schema([f.with_nullable(True) for f in fields])
        columns = [known[f.name].cast(f.type) if f.name in known else pa.nulls(len(slots), f.type) for f in schema]
        return Rows(pa.RecordBatch.from_arrays(columns, schema=schema), slots)

    def require(self, rows: Rows, column: str, *, stage: str) -> Rows:
        """The rows that have a value in `column`; the others go to the dead letters."""
        if not rows.table.column(column).null_count:
            return rows
        is_valid = torch.from_numpy(rows.table.column(column).is_valid().to_numpy(zero_copy_only=False))
        missing = rows.keep(~is_valid)
        messages = [f"expected {column}, got null"] * len(missing)
        self.refuse(missing, stage=stage, error="NoValue", messages=messages)
        return rows.keep(is_valid)
