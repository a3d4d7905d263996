"""A pipeline over a table, offline: the same stages and rules, no Kafka."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from pipelines.runtime.alerts import Alert
from pipelines.runtime.machine import Machine
from pipelines.runtime.pipeline import IDENTITY, Pipeline


def replay(
    pipeline: Pipeline, table: pa.Table, *, splits: Sequence[int] | None = None
) -> tuple[pl.DataFrame, list[Alert]]:
    """What the pipeline would have put into its table and said, had these readings come as a stream.

    Args:
        table: readings in order, columns as `pipeline.schema`; identity columns (`_partition`, `_offset`, `_row`, `_timestamp`)
            where it has them, else partition 0, offsets 0.., one row a message and one second between them.
        splits: rows of each step; None: steps of `pipeline.batch.rows`.

    Returns:
        The results, and the alarms in order. What a stage refuses is in neither.
    """
    readings = _identified(pipeline, table).combine_chunks()
    machine, size = Machine(pipeline), pipeline.batch.rows
    sizes = list(splits) if splits is not None else [size] * -(-len(readings) // size)
    results, alerts, at = [], list[Alert](), 0
    for rows in sizes:
        batch = readings.slice(at, rows)
        at += rows
        if not len(batch):
            continue
        outcome = machine.step(batch.combine_chunks().to_batches()[0], _now(batch))
        results.append(outcome.results)
        alerts += outcome.alerts
    frame = pl.from_arrow(pa.Table.from_batches(results, schema=pipeline.table))
    assert isinstance(frame, pl.DataFrame)
    return frame, alerts


def _identified(pipeline: Pipeline, table: pa.Table) -> pa.Table:
    n = len(table)
    made = {
        "_partition": pa.repeat(pa.scalar(0), n),
        "_offset": pa.array(range(n)),
        "_row": pa.repeat(pa.scalar(0), n),
        "_timestamp": pa.array(range(0, 1000 * n, 1000)),
    }
    schema = pa.schema([*IDENTITY, *pipeline.schema])
    columns = [table[f.name] if f.name in table.column_names else made[f.name] for f in schema]
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _now(batch: pa.Table) -> int:
    return max(batch["_timestamp"].cast(pa.int64()).to_pylist())
