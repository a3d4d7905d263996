"""Processes a span of the log again, into a separate table. No alert is published, and the pipeline itself is left unchanged."""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

from tocsin.pipelines.runtime.declare.durations import size
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine, empty
from tocsin.pipelines.runtime.engine.step_buffer import StepInput
from tocsin.pipelines.runtime.engine.stepper import LogSteps, StepClock, by_partition
from tocsin.pipelines.runtime.formats.codec import Codec, FormatOptions
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.reader import Reader
from tocsin.pipelines.runtime.lake.delta import PARTITION, delta_table
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import ResultsTable
from tocsin.pipelines.runtime.telemetry import failpoints

DESCRIPTION_PREFIX = "backfill of "
"""Prefix of the description of a table that a backfill may overwrite."""


@dataclass(frozen=True)
class Span:
    """Which records to process, ms since the epoch by Kafka's timestamps: from `since`, before `until`.

    Args:
        warmup: records from this many ms before `since` on are read only to build the state.
    """

    since: int
    until: int
    warmup: int = 0


@dataclass
class BackfillReport:
    """What a backfill did. It counts only records of the span.

    Args:
        records: records read, however many rows each holds.
        bad: records and rows that could not be processed.
        alerts: alerts that would have been published.
        raised: of these, how many raise an alert; the others clear one.
        cold: there are records before the span, and none was read to warm up, so the state that they leave is missing.
    """

    records: int = 0
    rows: int = 0
    bad: int = 0
    alerts: int = 0
    raised: int = 0
    cold: bool = False

    @property
    def cleared(self) -> int:
        """How many alerts clear one."""
        return self.alerts - self.raised


def backfill(
    pipeline: Pipeline,
    kafka: Mapping[str, Any],
    lake: Lake,
    span: Span,
    into: str,
    *,
    overwrite: bool = False,
    formats: FormatOptions = MappingProxyType({}),
    on_alert: Callable[[Alert], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BackfillReport:
    """Process a span of the pipeline's topic again.

    A timer's row belongs to no record. It is in the span if its event time is and the timer was due before the end. Rows that
    still wait at the end are released by the records that follow the span.

    Guarantee: the whole table becomes visible in one commit, or nothing does.

    Args:
        into: the table's name.
        formats: options of message formats, see `Codec`.
        on_alert: called with each alert that would have been published.
        progress: called with the number of records read so far and with their total, both including the warm-up.

    Raises:
        RecordsCorrupt: some records can't be read.
        ConfigError: the span has no records, or the table exists and is not an earlier backfill's, or is not to be overwritten.
    """
    if span.since >= span.until:
        raise ConfigError(f"backfill from {_written(span.since)}: expected a later end, got {_written(span.until)}")
    exists = _check_table(lake, into, overwrite)
    with closing(clients.consumer(kafka)) as consumer:
        partitions = sorted(clients.partitions_of(consumer, pipeline.topic))
    if not partitions:
        raise ConfigError(
            f"topic {pipeline.topic}: expected it to exist, got none; set the topic that the pipeline reads"
        )
    codec = Codec.of(pipeline, formats)
    with closing(Reader(kafka, pipeline.topic, partitions, codec, pipeline.batch.rows)) as reader:
        run = _Backfill(pipeline, reader, span, ResultsTable(lake, replace(pipeline, name=into, into=""), 0), on_alert)
        try:
            run.all(progress)
        except BaseException:
            for file in run.files:  # uncommitted files are invisible but take up space
                with contextlib.suppress(OSError):
                    lake.files.delete_file(posixpath.join(into, file.path))
            raise
    failpoints.point("backfill.written", waits=False)
    create_table_with_add_actions(
        lake.uri(into),
        Schema.from_arrow(pipeline.table),
        run.files,
        mode="overwrite" if exists else "error",
        partition_by=[PARTITION],
        name=into,
        description=f"{DESCRIPTION_PREFIX}{pipeline.name} from {_written(span.since)} to {_written(span.until)}",
        storage_options=lake.options or None,
    )
    return run.report


def _check_table(lake: Lake, into: str, overwrite: bool) -> bool:
    """Whether the table exists. Raise `ConfigError` if it may not be overwritten."""
    if (table := delta_table(lake, into)) is None:
        return False
    description = table.metadata().description or ""
    if not description.startswith(DESCRIPTION_PREFIX):
        raise ConfigError(f"table {into}: expected a new one or one from a backfill, got another; name another table")
    if not overwrite:
        raise ConfigError(f"table {into}: expected a new one, got a {description}; name another, or add --overwrite")
    return True


class _Backfill:
    """Reads, processes and writes. Nothing is visible until its files are committed."""

    def __init__(
        self,
        pipeline: Pipeline,
        reader: Reader,
        span: Span,
        results_table: ResultsTable,
        on_alert: Callable[[Alert], None],
    ) -> None:
        self._pipeline, self._reader, self._span, self._results_table, self._on_alert = (
            pipeline,
            reader,
            span,
            results_table,
            on_alert,
        )
        self._begin, self._first, self._end = map(reader.at, (span.since - span.warmup, span.since, span.until))
        self._log = reader.log()
        self._machine, self._clock = Machine(pipeline), StepClock()
        self._log_steps = LogSteps(
            reader, pipeline.topic, self._begin, rows=pipeline.batch.rows, empty=empty(pipeline.schema)
        )
        self._results: list[pa.RecordBatch] = []
        self.files: list[AddAction] = []
        cold = not span.warmup and any(first > self._log.begin[p] for p, first in self._first.items())
        self.report = BackfillReport(records=sum(end - self._first[p] for p, end in self._end.items()), cold=cold)

    def all(self, progress: Callable[[int, int], None]) -> None:
        """Process the whole span."""
        log, total = self._log, sum(end - self._begin[p] for p, end in self._end.items())
        if not self.report.records:
            offsets = ", ".join(f"{p}: {log.begin[p]}..{log.end[p]}" for p in sorted(log.begin))
            raise ConfigError(
                f"topic {self._pipeline.topic}: expected records from {_written(self._span.since)} to "
                f"{_written(self._span.until)}, got none in its offsets {offsets}; choose other times"
            )
        for _ in self._steps(self._end):
            progress(sum(at - self._begin[p] for p, at in self._log_steps.positions.items()), total)
        self._tick()
        later_steps = self._steps(log.end)
        while self._has_waiting and next(later_steps, None) is not None:  # later records release the rows that wait
            pass
        self._tick()
        self._write()

    def _tick(self) -> None:
        """Run a step without records. Its clock is the span's end or later; the wall clock if the log has been read to its end."""
        at_log_end = all(self._log_steps.positions[p] >= end for p, end in self._log.end.items())
        empty_step = StepInput(empty(self._pipeline.schema), (), {})
        self._step(empty_step, round(time.time() * 1000) if at_log_end else self._time(empty_step))

    @property
    def _has_waiting(self) -> bool:
        """Whether rows of the span wait."""
        waiting = (rows.table for rows in self._machine.waiting)
        return any(self._in_span(table.column("_partition"), table.column("_offset")).any() for table in waiting)

    def _steps(self, ends: Mapping[int, int]) -> Iterator[StepInput]:
        """Read up to these offsets and process the records, one step at a time."""
        for step in self._log_steps.until(ends):
            self._step(step, self._time(step))
            yield step

    def _time(self, step: StepInput) -> int:
        """The step's clock, as in a shard with a backlog: how far every partition that has more to read has been read."""
        read, waiting = self._log_steps.positions, self._log_steps.buffer.partitions
        backlog = waiting | {p for p, at in read.items() if at < self._log.end[p]}
        # A partition that reached the end of the span before this step counts as read up to `until`.
        finished = {p for p in backlog if read[p] >= self._end[p]} - waiting - step.ends.keys()
        lower_bounds = dict.fromkeys(finished, self._span.until)
        return self._clock.advance(
            step, wall=round(time.time() * 1000), limit=None, backlog=backlog, lower_bounds=lower_bounds
        )

    def _step(self, batch: StepInput, now: int) -> None:
        self._clock.now, report = now, self.report
        outcome = self._machine.step(batch.table, now, wall=round(time.time() * 1000))
        bad = [(d.partition, d.offset) for d in batch.dead_letters] + [(r.partition, r.offset) for r in outcome.refused]
        report.bad += sum(self._first[partition] <= offset < self._end[partition] for partition, offset in bad)
        in_span = self._rows_in_span(outcome.results)
        if in_span.any():
            results = outcome.results.filter(pa.array(in_span))
            self._results.append(results)
            report.rows += results.num_rows
        for alert in filter(self._alert_in_span, outcome.alerts):
            report.alerts += 1
            report.raised += alert.transition == "raised"
            self._on_alert(alert)
        if sum(r.nbytes for r in self._results) >= size(self._pipeline.commit.size):
            self._write()

    def _in_span(self, partition: pa.Array, offset: pa.Array) -> np.ndarray:
        """Which of these records are in the span."""
        p, offsets = partition.to_numpy(), offset.fill_null(-1).to_numpy()
        return (offsets >= by_partition(self._first)[p]) & (offsets < by_partition(self._end)[p])

    def _rows_in_span(self, results: pa.RecordBatch) -> np.ndarray:
        """Which rows are in the span. A timer's row has no record, so its event time decides."""
        inside = self._in_span(results.column("partition"), results.column("offset"))
        timers = results.column("offset").is_null().to_numpy(zero_copy_only=False)
        times = results.column("event_time").cast(pa.int64()).to_numpy() // 1000
        return inside | (timers & (times >= self._span.since) & (times < self._span.until))

    def _alert_in_span(self, alert: Alert) -> bool:
        """Whether an alert is in the span."""
        partition, offset = alert.data["partition"], alert.data["offset"]
        if offset is None:
            return self._span.since <= alert.time.timestamp() * 1000 < self._span.until
        return self._first[partition] <= offset < self._end[partition]

    def _write(self) -> None:
        if self._results:
            self.files += self._results_table.files(pa.Table.from_batches(self._results))
        self._results = []


def _written(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
