"""A shard's deterministic part: the same steps over the same records give the same rows, alerts and dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare.dead_letter import Refusal
from tocsin.pipelines.runtime.declare.durations import FAR, milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError, StateMismatch
from tocsin.pipelines.runtime.declare.fields import unit_meant
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, MAX_AGE, Pipeline
from tocsin.pipelines.runtime.declare.rows import US, Rows, as_type, milliseconds_of
from tocsin.pipelines.runtime.declare.stage import StepContext, declared_state
from tocsin.pipelines.runtime.declare.state import State, StateDelta
from tocsin.pipelines.runtime.declare.stores import Declared, Pending
from tocsin.pipelines.runtime.engine.alerts import Alert, alerts_from
from tocsin.pipelines.runtime.engine.clock import Arrivals
from tocsin.pipelines.runtime.engine.rules import RuleSet
from tocsin.pipelines.runtime.engine.step_parts import StepParts
from tocsin.pipelines.runtime.formats.message import MAX_BAD_ROWS

KEY_BYTES = 1024
"""Limit on a key's length in bytes. An alert carries its whole key twice. An alert too large for its topic would fail the shard
after each restart."""

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class StepOutcome:
    """The output of one step."""

    results: pa.RecordBatch
    alerts: list[Alert]
    refused: list[Refusal]
    counts: Counter[str]
    changed: bool  # False: nothing happened, the step need not be journaled
    files: list[tuple[str, bytes]]  # path, content
    tallies: Mapping[str, NDArray[np.int64]]  # see `StepContext.tally`


class Machine:
    """Runs steps, and holds the state between them."""

    def __init__(self, pipeline: Pipeline, generation: str = "") -> None:
        self.generation = generation  # of the input topic, see `alerts.generation`
        self._configure(pipeline)
        self._state = State(self._declared(), pipeline.schema.field(pipeline.key).type)

    def _configure(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._rules = RuleSet(pipeline.rules, pa.schema(list(pipeline.table)[:-1]))  # without event_date
        self._max_skew, self._max_age = milliseconds(pipeline.max_skew), milliseconds(pipeline.max_age)
        self._forget_after = milliseconds(pipeline.forget_after)

    def _declared(self) -> dict[str, Declared]:
        return declared_state(self.pipeline.stages) | {
            f"rules/{name}": cell for name, cell in self._rules.state.items()
        }

    @property
    def signature(self) -> str:
        """The shape of the stages' state. A snapshot of another shape can't be restored. Rules are not part of it."""
        p, declared = (
            self.pipeline,
            {n: d for n, d in declared_state(self.pipeline.stages).items() if not getattr(d, "added", False)},
        )
        rows = (
            [f"{f.name}:{f.type}" for f in p.schema] if any(isinstance(d, Pending) for d in declared.values()) else []
        )
        key = f"v{p.state_version} key={p.schema.field(p.key).type}"
        return " ".join([key, *rows, *(f"{n}={d}" for n, d in declared.items())])

    @property
    def keys(self) -> int:
        """How many keys have state."""
        return len(self._state)

    @property
    def waiting(self) -> Collection[Rows]:
        """Rows that stages hold back for a later step."""
        return self._state.waiting.values()

    def held_records(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """See `State.held_records`."""
        return self._state.held_records()

    @property
    def key_clashes(self) -> int:
        """Number of keys seen on more than one partition. Their state is split, so their producer should be fixed."""
        return self._state.key_clashes

    def check(self, pipeline: Pipeline) -> None:
        """Check that `adopt` accepts a pipeline. Call this before a journal names it; otherwise every recovery would fail there.

        Raises:
            StateMismatch: its state or readings have another shape, or a result column has another type.
        """
        where, other = f"pipeline {pipeline.name}", Machine(pipeline)
        if pipeline.state_version != self.pipeline.state_version:
            raise StateMismatch(
                f"{where}: expected state_version {self.pipeline.state_version} while it runs, got {pipeline.state_version}; "
                "stop it and start it again"
            )
        if other.signature != self.signature:
            raise StateMismatch(f"{where}: expected state {self.signature}, got {other.signature}; raise state_version")
        # Columns may be added or removed.
        shared = [f for f in pipeline.results if f.name in self.pipeline.results.names]
        for part, fields in {"schema": pipeline.schema, "results": shared}.items():
            current = getattr(self.pipeline, part)
            known_fields = current if part == "schema" else [current.field(f.name) for f in shared]
            expected, got = (" ".join(f"{f.name}:{f.type}" for f in side) for side in (known_fields, fields))
            if expected != got:
                raise StateMismatch(f"{where}: expected {part} {expected}, got {got}; give the pipeline another name")

    def adopt(self, pipeline: Pipeline) -> bool:
        """Switch to another model, rules or settings; only at a checkpoint.

        A rule that keeps its name keeps its state: the new condition clears an active alert. A removed rule publishes no more
        alerts.

        Returns:
            Whether the state has another shape, so that the next state delta must be full.

        Raises:
            StateMismatch: see `check`.
        """
        self.check(pipeline)
        previous = self.pipeline.forgets
        self._state.leaving |= {asset for asset, at in pipeline.forgets.items() if previous.get(asset) != at}
        self._configure(pipeline)
        self._state.ticked = self._state.quiet_until = 0  # the new pipeline's timers may be due already
        return self._state.declare(self._declared())

    def step(self, batch: pa.RecordBatch, now: int, *, wall: int | None = None) -> StepOutcome:
        """Process one step's readings.

        Args:
            batch: `IDENTITY` columns, then the reading's, sorted by partition and offset; no rows: a tick.
            now: ms since the epoch; never decreases.
            wall: the wall clock, ms since the epoch. It gives the rows' processing time, and the time at which a key was last
                seen. None: there is none, as in a replay; `now` and the arrival times stand in.
        """
        p, state = self.pipeline, self._state
        state.changed = False
        ctx = StepContext(now, p.key, p.event_time or "_timestamp", state.keys_of, context=p.intervals)
        rows = self._refuse_long_keys(self._refuse_implausible_times(batch, ctx, wall), ctx)
        # Up to here a row's slot is its index in the batch.
        arrivals = Arrivals.of(batch, now, wall, state.now, state.reached).take(rows.slots)
        slots = state.slots(rows.table.column("_partition").to_numpy(), rows.table.column(p.key))
        parts, alerts, files = list[pa.RecordBatch](), list[Alert](), list[tuple[str, bytes]]()

        def emit(rows: Rows, walls: Tensor) -> None:
            results = self._results(rows, ctx, now if wall is None else wall)
            parts.append(results)
            alerts.extend(self._evaluate_rules(rows, results, walls, ctx))
            files.extend(self._files(rows))

        StepParts(p, state, ctx, self._forget_after, emit).run(Rows(rows.table, slots), arrivals, wall)
        results = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        ctx.counts["forgotten"] += state.forget(now, self._forget_after)
        changed = bool(batch.num_rows or len(results) or state.changed)
        if changed:  # a step that changed nothing is not journaled, so later steps must not depend on it
            state.now = state.ticked = max(state.now, now)
            state.reached = arrivals.reached
        return StepOutcome(results, alerts, _folded(ctx.refused), ctx.counts, changed, files, ctx.tallies)

    def _evaluate_rules(self, rows: Rows, results: pa.RecordBatch, walls: Tensor, ctx: StepContext) -> list[Alert]:
        """The alerts that these rows raise or clear."""
        if not len(rows) or not self.pipeline.rules:
            return []
        frame = pl.DataFrame(results)
        times = results.column("event_time").view(pa.int64()).to_numpy() // 1000
        if (muted := self._muted_rows(frame, walls.numpy())) is not None:
            ctx.counts["silenced"] += int(muted.sum())
        transitions = self._rules.step(frame, rows.groups(), times, self._state.of("rules"), muted)  # type: ignore[arg-type]
        return alerts_from(self.pipeline, frame, transitions, self.generation)

    def _files(self, rows: Rows) -> list[tuple[str, bytes]]:
        """Path and content of the files that the last stage's rows name."""
        columns = [
            (rows.table.column(path), rows.table.column(content)) for path, content in self.pipeline.files.items()
        ]
        pairs = [pair for path, content in columns for pair in zip(path.to_pylist(), content.to_pylist(), strict=True)]
        return [(path, content) for path, content in pairs if path is not None and content is not None]

    def _muted_rows(self, frame: pl.DataFrame, walls: np.ndarray) -> np.ndarray | None:
        """Mark the rows of muted assets; None: no asset is muted."""
        if not (silences := self.pipeline.silences):
            return None
        until = frame["key"].replace_strict(silences, default=0, return_dtype=pl.Int64).to_numpy()
        return walls < until

    def _refuse_implausible_times(self, batch: pa.RecordBatch, ctx: StepContext, wall: int | None) -> Rows:
        """Keep the rows with a plausible event time, refuse the others.

        A clock set to 2099 must not make all other rows late, nor must one set to 1970 make them wait.

        Args:
            wall: the wall clock; None: unknown, so Kafka's timestamps are not checked against it.
        """
        p, name, kafka = self.pipeline, ctx.event_time, "Kafka's timestamp"
        rows = Rows(batch, torch.arange(batch.num_rows))
        rows = ctx.require(rows, name, stage="event time")
        if wall is not None:
            age, stamps = max(self._max_age, milliseconds(MAX_AGE)), milliseconds_of(rows.table.column("_timestamp"))
            expected = f"{kafka} at most {age // 86_400_000} days behind this machine's clock"
            rows = _bounded(rows, ctx, wall - stamps, age, stamps, "TooOld", expected)
        if p.event_time is None:
            if wall is None:
                return rows
            stamps = milliseconds_of(rows.table.column(name))
            expected = f"{kafka} at most {p.max_skew} ahead of this machine's clock"
            return _bounded(rows, ctx, stamps - wall, self._max_skew, stamps, "FromTheFuture", expected)
        latest = FAR if wall is None else wall  # a timestamp ahead of the wall clock proves nothing
        times, stamps = _event_and_kafka_times(rows, name, latest)
        rows = _bounded(
            rows, ctx, stamps - times, self._max_age, times, "TooOld", f"{name} at most {p.max_age} behind {kafka}"
        )
        times, stamps = _event_and_kafka_times(rows, name, latest)
        expected = f"{name} at most {p.max_skew} ahead of {kafka}"
        return _bounded(rows, ctx, times - stamps, self._max_skew, times, "FromTheFuture", expected)

    def _refuse_long_keys(self, rows: Rows, ctx: StepContext) -> Rows:
        """Keep the rows whose key has at most `KEY_BYTES` bytes, refuse the others."""
        keys = rows.table.column(ctx.key)
        if not pa.types.is_string(keys.type):
            return rows
        lengths = pc.binary_length(keys).to_numpy(zero_copy_only=False)
        if (short := torch.from_numpy(lengths <= KEY_BYTES)).all():
            return rows
        lines = [f"expected {ctx.key} of at most {KEY_BYTES} bytes, got {n}" for n in lengths[~short.numpy()]]
        ctx.refuse(rows.keep(~short), stage="key", error="BadValue", messages=lines)
        return rows.keep(short)

    def _results(self, rows: Rows, ctx: StepContext, wall: int) -> pa.RecordBatch:
        """The result columns of the last stage's rows, preceded by their lineage."""
        p, t, n = self.pipeline, rows.table, len(rows)
        names = t.schema.names
        if missing := [f.name for f in p.results if f.name not in names]:
            raise ConfigError(
                f"pipeline {p.name}: expected results among the columns of its stages, {names}, got {missing}; "
                "correct results or the stages"
            )
        event_time = as_type(t.column(ctx.event_time), US, safe=False)
        columns = [
            pa.repeat(pa.scalar(p.topic), n),
            *(t.column(name) for name in ("_partition", "_offset", "_row")),
            as_type(t.column(p.key), pa.string()),
            event_time,
            pa.repeat(pa.scalar(wall * 1000, US), n),
            pa.repeat(pa.scalar(p.model_version), n),
            *(as_type(t.column(f.name), f.type) for f in p.results),
            _dates(event_time),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=p.table)

    def delta(self, *, full: bool) -> StateDelta:
        """Copy the state that changed since the last delta (all of it when `full`), for a snapshot."""
        return self._state.delta(full=full)

    def restore(self, deltas: Sequence[StateDelta]) -> None:
        """Restore the state from a snapshot's deltas."""
        self._state.restore(deltas)

    def migrate(self, delta: StateDelta) -> None:
        """Restore the state that a pipeline's `migrate` made from another version's; a cell that is missing starts at its fill.

        Raises:
            StateMismatch: it holds something that this version does not declare, or that has another shape.
        """
        declared, blank = declared_state(self.pipeline.stages), Machine(self.pipeline).delta(full=True)
        expected = {name: (tuple(t.shape[1:]), t.dtype) for name, t in blank.cells.items()}
        found = {
            name: (tuple(t.shape[1:]), t.dtype) for name, t in delta.cells.items() if not name.startswith("rules/")
        }
        wrong = [
            f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items() if expected.get(name) != (shape, dtype)
        ]
        wrong += [name for name, t in delta.cells.items() if len(t) != len(delta.keys)]
        wrong += [name for name in delta.waiting if not isinstance(declared.get(name), Pending)]
        reading = empty(self.pipeline.schema).schema
        for name, rows in delta.waiting.items():
            schema = rows.table.schema
            wrong += [
                f"{name} {f.name}" for f in reading if f.name not in schema.names or schema.field(f.name).type != f.type
            ]
        if delta.keys.schema != blank.keys.schema or not delta.full:
            wrong.append(f"keys {delta.keys.schema.names}")
        if wrong:
            raise StateMismatch(
                f"pipeline {self.pipeline.name}: expected migrate to return state as version "
                f"{self.pipeline.state_version} declares it, got {', '.join(wrong)}; return cells {expected}"
            )
        self.restore([delta])
        self._state.ticked = 0  # this version's timers may be due already


def _event_and_kafka_times(rows: Rows, event_time: str, latest: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's event time and Kafka's timestamp, which counts as `latest` if it is after that; ms since the epoch."""
    stamps = milliseconds_of(rows.table.column("_timestamp"))
    return milliseconds_of(rows.table.column(event_time)), np.minimum(stamps, latest)


def _bounded(
    rows: Rows, ctx: StepContext, deviation: np.ndarray, limit: int, times: np.ndarray, error: str, expected: str
) -> Rows:
    """Keep the rows with a `deviation` of at most `limit` ms; refuse the others, with a hint at the likely unit of `times`."""
    wrong = deviation > limit
    if not wrong.any():
        return rows
    lines = [
        f"expected {expected}, got {ms:.0f} ms{unit_meant(time)}"
        for ms, time in zip(deviation[wrong], times[wrong], strict=True)
    ]
    ctx.refuse(rows.keep(torch.from_numpy(wrong)), stage="event time", error=error, messages=lines)
    return rows.keep(torch.from_numpy(~wrong))


def _folded(refused: list[Refusal]) -> list[Refusal]:
    """Merge a message's refusals into one if they are many: a million dead letters would not fit a transaction."""
    counts = Counter((r.partition, r.offset, r.stage) for r in refused)
    if len(refused) <= MAX_BAD_ROWS or max(counts.values()) <= MAX_BAD_ROWS:
        return refused
    folded = dict[tuple[int, int, str], Refusal]()
    for r in refused:
        origin = (r.partition, r.offset, r.stage)
        if counts[origin] > MAX_BAD_ROWS and origin not in folded:
            folded[origin] = replace(r, row=None, message=f"{counts[origin]} rows; the first, row {r.row}: {r.message}")
    return [r for r in refused if counts[r.partition, r.offset, r.stage] <= MAX_BAD_ROWS] + [*folded.values()]


def _dates(times: pa.Array) -> pa.Array:
    """The UTC dates of times in us, as text. A step nearly always has a single date, which is 50x cheaper."""
    stamps = np.asarray(times.view(pa.int64()))
    if len(stamps) and stamps.min() // DAY_US == stamps.max() // DAY_US:
        return pa.repeat(times[0].cast(pa.date32()).cast(pa.string()), len(times))
    return times.cast(pa.date32()).cast(pa.string())


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch without rows, for a tick; `schema` is that of a reading."""
    return pa.RecordBatch.from_pylist([], schema=pa.schema([*IDENTITY, *schema]))
