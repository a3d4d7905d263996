"""Runs a pipeline over a table, offline: the same stages and rules, no Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import IDENTITY, Pipeline
from tocsin.pipelines.runtime.declare.rows import MS
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine, StepOutcome
from tocsin.pipelines.runtime.formats.jpeg import readings
from tocsin.pipelines.runtime.formats.video import Frame, encoded


def replay(
    pipeline: Pipeline,
    table: pa.Table | Iterable[pa.Table],
    *,
    splits: Sequence[int] | None = None,
    after: str = "0s",
) -> tuple[pl.DataFrame, list[Alert]]:
    """The rows and alerts that the pipeline would give if these readings came as a stream.

    Args:
        table: readings in order, with the columns of `pipeline.schema`. Missing identity columns (`_partition`, `_offset`, `_row`,
            `_timestamp`) are added: partition 0, offsets from 0, one row per message. The Kafka timestamp is then the event time.
            In a pipeline without an event time it is one second after that of the previous row. An iterable gives such tables, one
            per step, for example frames that do not fit in memory.
        splits: rows per step, which add up to the table's rows; None: steps of `pipeline.batch.rows`.
        after: how long no readings follow, so that pending rows and timers complete; "0s": more readings might follow.

    Returns:
        The results, and the alerts in order. Rows that a stage refuses are in neither.

    Raises:
        ConfigError: a column is missing, or the splits do not add up to the table's rows.
    """
    torch.set_num_threads(1)  # as in a worker, because the results must be the same
    tables = _split(pipeline, table, splits) if isinstance(table, pa.Table) else table
    machine, outcomes, offset, now = Machine(pipeline), list[StepOutcome](), 0, 0
    for part in tables:
        if not len(part):
            continue
        batch = _with_identity(pipeline, part, offset).combine_chunks().to_batches()[0]
        offset += len(part)
        now = max(now, pc.max(batch["_timestamp"].cast(pa.int64())).as_py() or 0)
        outcomes.append(machine.step(batch, now))
    if idle_ms := milliseconds(after):
        tick = pa.RecordBatch.from_pylist([], schema=pa.schema([*IDENTITY, *pipeline.schema]))
        outcomes.append(machine.step(tick, now + idle_ms))
    frame = pl.from_arrow(pa.Table.from_batches([o.results for o in outcomes], schema=pipeline.table))
    assert isinstance(frame, pl.DataFrame)
    return frame, [alert for outcome in outcomes for alert in outcome.alerts]


def _split(pipeline: Pipeline, table: pa.Table, splits: Sequence[int] | None) -> Iterator[pa.Table]:
    """Split a table into steps."""
    size = pipeline.batch.rows
    sizes = [size] * -(-len(table) // size) if splits is None else list(splits)
    if splits is not None and sum(sizes) != len(table):
        raise ConfigError(f"replay: expected splits that add up to {len(table)} rows, got {sum(sizes)}; correct them")
    _with_identity(pipeline, table.slice(0, 0), 0)  # report missing columns of an empty table, too
    for end, rows in zip(accumulate(sizes), sizes, strict=True):
        yield table.slice(end - rows, rows)


def _with_identity(pipeline: Pipeline, table: pa.Table, first: int) -> pa.Table:
    """Add missing identity columns; offsets start at `first`."""
    n = len(table)
    defaults = {
        "_partition": pa.repeat(pa.scalar(0), n),
        "_offset": pa.array(range(first, first + n)),
        "_row": pa.repeat(pa.scalar(0), n),
        "_timestamp": pa.array(range(1000 * first, 1000 * (first + n), 1000)),
    }
    if pipeline.event_time in table.column_names:
        defaults["_timestamp"] = table[pipeline.event_time].cast(MS, safe=False)
    schema = pa.schema([*IDENTITY, *pipeline.schema])
    if missing := sorted({*pipeline.schema.names} - {*table.column_names}):
        raise ConfigError(f"replay: expected columns {pipeline.schema.names}, got a table without {missing}; add them")
    columns = [table[f.name] if f.name in table.column_names else defaults[f.name] for f in schema]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


class ReplayedClip(NamedTuple):
    """A pipeline's table and alerts, as returned by `replay`, and the size of all frames as JPEG in bytes."""

    table: pl.DataFrame
    alerts: list[Alert]
    size: int


def replay_clip(pipeline: Pipeline, frames: Iterable[Frame], *, rate: float, after: str = "0s") -> ReplayedClip:
    """Run a pipeline over a clip, frame by frame, as if from a topic.

    Args:
        rate: frames per second.
        after: see `replay`.
    """
    size = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal size
        numbered = enumerate(frames)
        while batch := list(islice(numbered, pipeline.batch.rows)):
            files = [encoded(frame) for _, frame in batch]
            size += sum(map(len, files))
            facts = [
                {"camera": "clip", "sequence": number, "time": round(1000 * number / rate), **frame.facts}
                for number, frame in batch
            ]
            yield readings(pipeline.schema, files, facts)

    table, alerts = replay(pipeline, tables(), after=after)
    return ReplayedClip(table, alerts, size)
