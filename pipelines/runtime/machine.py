"""A shard's deterministic part: the same steps over the same records give the same rows, alarms and dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipelines.runtime.alerts import Alert, alerts_of
from pipelines.runtime.errors import StateMismatch
from pipelines.runtime.pipeline import IDENTITY, Pipeline
from pipelines.runtime.rows import Rows
from pipelines.runtime.rules import RuleBook
from pipelines.runtime.state import Cut, Declared, State
from pipelines.runtime.units import milliseconds


@dataclass(frozen=True)
class Refusal:
    """A row that a stage can't judge; the shard fetches the original and makes it a dead letter."""

    partition: int
    offset: int
    row: int
    stage: str
    error: str
    message: str


@dataclass
class Step:
    """What a stage may know of the step it is in, and where it leaves what it drops.

    Args:
        now: ms since the epoch, the step's only clock, journaled.
        key, event_time: the columns of `rows.table` with the key and the event time.
        keys_of: slots -> their partitions and keys; for rows that a stage makes itself.
    """

    now: int
    key: str
    event_time: str
    keys_of: Callable[[Tensor], tuple[pa.Array, pa.Array]]
    refused: list[Refusal] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def refuse(self, rows: Rows, *, stage: str, error: str, messages: Sequence[str]) -> None:
        """Send rows to the dead letters, one message a row."""
        identity = (rows.table.column(n).to_pylist() for n in ("_partition", "_offset", "_row"))
        for partition, offset, row, message in zip(*identity, messages, strict=True):
            self.refused.append(Refusal(partition, offset, row, stage, error, message))


@dataclass(frozen=True)
class Outcome:
    """What one step gave."""

    results: pa.RecordBatch
    alerts: list[Alert]
    refused: list[Refusal]
    counts: Counter[str]
    changed: bool  # False: nothing happened, the step need not be journaled


class Machine:
    """`step(rows, now)`, and the state between steps."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._set(pipeline)
        self._state = State(self._declared(), pipeline.schema.field(pipeline.key).type)

    def _set(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._rules = RuleBook(pipeline.rules, pipeline.table)
        self._max_skew = milliseconds(pipeline.max_skew)
        self._forget_after = milliseconds(pipeline.forget_after)

    def _declared(self) -> dict[str, Declared]:
        declared = {
            f"{i}-{type(s).__name__}/{n}": d for i, s in enumerate(self.pipeline.stages) for n, d in s.state.items()
        }
        return declared | {f"rules/{name}": cell for name, cell in self._rules.state.items()}

    @property
    def signature(self) -> str:
        """The shape of the state; a snapshot of another shape can't be restored."""
        key = self.pipeline.schema.field(self.pipeline.key).type
        return f"v{self.pipeline.state_version} key={key} " + " ".join(f"{n}={d}" for n, d in self._declared().items())

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return len(self._state)

    @property
    def key_clashes(self) -> int:
        """Keys seen on more than one partition: their state is split, so their feeder should be mended."""
        return self._state.key_clashes

    def adopt(self, pipeline: Pipeline) -> None:
        """Go on with another model, rules or settings; only at a checkpoint.

        Raises:
            StateMismatch: its state has another shape.
        """
        before, old = self.signature, self.pipeline
        self._set(pipeline)
        if (after := self.signature) != before:
            self._set(old)
            raise StateMismatch(f"pipeline {pipeline.name}: expected state {before}, got {after}; raise state_version")

    def step(self, batch: pa.RecordBatch, now: int) -> Outcome:
        """Judge one step's readings.

        Args:
            batch: `IDENTITY` columns, then the reading's, sorted by partition and offset; no rows: a tick.
            now: ms since the epoch.
        """
        p, state = self.pipeline, self._state
        state.changed = False
        at = Step(now, p.key, p.event_time or "_timestamp", state.keys_of)
        rows = self._punctual(batch, at)
        slots = state.slots(rows.table.column("_partition").to_numpy(), rows.table.column(p.key), now)
        rows = Rows(rows.table, slots)
        for i, stage in enumerate(p.stages):
            rows = stage.step(rows, state.of(f"{i}-{type(stage).__name__}"), at)
        results = self._results(rows, at)
        alerts: list[Alert] = []
        if len(rows) and p.rules:
            frame = pl.DataFrame(results)
            times = results.column("event_time").cast(pa.int64()).to_numpy() // 1000
            edges = self._rules.step(frame, rows.slots, times, state.of("rules"))  # type: ignore[arg-type]
            alerts = alerts_of(p, frame, edges)
        at.counts["forgotten"] += state.forget(now, self._forget_after)
        changed = bool(batch.num_rows or len(rows) or state.changed)
        return Outcome(results, alerts, at.refused, at.counts, changed)

    def _punctual(self, batch: pa.RecordBatch, at: Step) -> Rows:
        """Rows whose event time is not from the future: one clock in 2099 must not make everyone late."""
        rows = Rows(batch, torch.zeros(batch.num_rows, dtype=torch.int64))
        if self.pipeline.event_time is None or not len(rows):
            return rows
        event, kafka = (
            batch.column(n).cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
            for n in (at.event_time, "_timestamp")
        )
        ahead = np.asarray(event) - np.asarray(kafka)
        early = torch.from_numpy(ahead > self._max_skew)
        if not bool(early.any()):
            return rows
        lines = [
            f"expected {at.event_time} at most {self.pipeline.max_skew} ahead of Kafka's timestamp, got {ms} ms"
            for ms in ahead[early.numpy()]
        ]
        at.refuse(rows.keep(early), stage="event time", error="FromTheFuture", messages=lines)
        return rows.keep(~early)

    def _results(self, rows: Rows, at: Step) -> pa.RecordBatch:
        """The result columns of the last stage's rows, lineage before them."""
        p, t, n = self.pipeline, rows.table, len(rows)
        event_time = t.column(at.event_time).cast(pa.timestamp("us", tz="UTC"))
        columns = [
            pa.repeat(pa.scalar(p.topic), n),
            *(t.column(name) for name in ("_partition", "_offset", "_row")),
            t.column(p.key).cast(pa.string()),
            event_time,
            pa.repeat(pa.scalar(at.now * 1000, pa.timestamp("us", tz="UTC")), n),
            pa.repeat(pa.scalar(p.model_version), n),
            *(t.column(f.name).cast(f.type) for f in p.results),
            pc.strftime(event_time, "%Y-%m-%d"),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=p.table)

    def cut(self, *, full: bool) -> Cut:
        """Copy the state that changed since the last cut, for a snapshot."""
        return self._state.cut(full=full)

    def restore(self, cuts: Sequence[Cut]) -> None:
        """Become what a snapshot says."""
        self._state.restore(cuts)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A tick's batch: no rows of a reading's schema."""
    return pa.RecordBatch.from_pylist([], schema=pa.schema([*IDENTITY, *schema]))
