"""Turns a part of a log into steps, and sets the clock of each step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import RecordsCorrupt, Unavailable
from tocsin.pipelines.runtime.engine.step_buffer import StepBuffer, StepInput
from tocsin.pipelines.runtime.kafka.reader import Poll, RecordSource

POLL_MS = 500
SILENT_S = 60.0
"""A broker that has records but returns none for this long counts as unavailable."""


class StepClock:
    """The clock of steps. It never goes back, and it follows the log while there is a backlog.

    So reading late after an outage makes no key inactive and no row late.

    Args:
        now: ms since the epoch.
    """

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self.newest: dict[int, int] = {}
        """Each partition's newest Kafka timestamp read so far, ms since the epoch."""

    def advance(
        self,
        step: StepInput,
        *,
        wall: int,
        limit: int | None,
        backlog: Iterable[int],
        lower_bounds: Mapping[int, int] | None = None,
    ) -> int:
        """Advance the clock to a step's time, and return it.

        Args:
            wall: the wall clock.
            limit: the step's time if no partition has a backlog; None: the newest timestamp.
            backlog: the partitions with more to read. The one that lags most sets the time.
            lower_bounds: partition -> a lower bound on its newest timestamp.
        """
        self.newest = step.newest(self.newest, wall)
        lower_bounds = lower_bounds or {}
        reached = [max(self.newest.get(p, 0), lower_bounds.get(p, 0)) for p in backlog]
        if limit is not None:
            reached.append(limit)
        self.now = max(self.now, min(reached) if reached else max(self.newest.values(), default=0))
        return self.now


class LogSteps:
    """Reads a part of a log, and assembles its polls into steps.

    Args:
        topic: for error messages.
        positions: partition -> the next offset to read; the attribute advances.
        rows: approximate number of rows per step.
    """

    def __init__(
        self, source: RecordSource, topic: str, positions: Mapping[int, int], *, rows: int, empty: pa.RecordBatch
    ) -> None:
        self._source, self._topic, self._rows = source, topic, rows
        self.positions, self.buffer = dict(positions), StepBuffer(empty)

    def until(self, ends: Mapping[int, int]) -> Iterator[StepInput]:
        """Yield the steps up to these offsets.

        Raises:
            RecordsCorrupt: the log is damaged before these offsets.
            Unavailable: the broker returns no more records.
        """
        reading, last_record_at = set[int](), time.monotonic()
        while (remaining := {p for p, end in ends.items() if self.positions[p] < end}) or self.buffer:
            if not remaining or self.buffer.rows >= self._rows:
                yield self.buffer.take(self._rows)
                continue
            if remaining != reading:
                self._source.seek({p: self.positions[p] for p in remaining})
                reading = remaining
            if poll := self._source.poll(POLL_MS):
                for partition, message in poll.damaged.items():
                    if partition in remaining:
                        raise RecordsCorrupt(message)
                self._put(poll, ends)
                last_record_at = time.monotonic()
            elif time.monotonic() - last_record_at > SILENT_S:
                raise Unavailable(
                    f"{self._topic}: expected records up to {dict(ends)}, got none after {self.positions} in {SILENT_S:.0f} s; is "
                    "the broker up?"
                )

    def _put(self, poll: Poll, ends: Mapping[int, int]) -> None:
        """Buffer the records before these offsets."""
        partition, offset = (poll.table.column(n).to_numpy() for n in ("_partition", "_offset"))
        before = offset < by_partition(ends)[partition]
        table = poll.table if before.all() else poll.table.filter(pa.array(before))
        dead_letters = [d for d in poll.dead_letters if d.offset < ends[d.partition]]
        ends_read = {p: min(end, ends[p]) for p, end in poll.ends.items()}
        self.buffer.put(Poll(table, dead_letters, ends_read, {}))
        self.positions |= ends_read


def by_partition(offsets: Mapping[int, int]) -> np.ndarray:
    """Offsets as an array indexed by partition."""
    array = np.zeros(max(offsets, default=-1) + 1, np.int64)
    array[list(offsets)] = list(offsets.values())
    return array
