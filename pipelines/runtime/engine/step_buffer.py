"""Buffers records that were read but not processed yet, and cuts them into reproducible steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.formats.jpeg import VOLATILE
from tocsin.pipelines.runtime.kafka.reader import Poll


@dataclass(frozen=True)
class StepInput:
    """One step's input: rows sorted by partition and offset, dead letters, and the end offsets of the partitions that moved."""

    table: pa.RecordBatch
    dead: Sequence[DeadLetter]
    ends: Mapping[int, int]

    def newest(self, so_far: Mapping[int, int], wall: int) -> dict[int, int]:
        """Each partition's newest Kafka timestamp after this step, ms since the epoch.

        Timestamps ahead of `wall`, the wall clock, are ignored. If a partition has no others in this step, they count as `wall`.
        """
        partitions = self.table.column("_partition").to_numpy()
        stamps = self.table.column("_timestamp").cast(pa.int64()).fill_null(0).to_numpy()
        here = {p: _newest(stamps[partitions == p], wall) for p in self.ends}
        return {**so_far, **{p: max(so_far.get(p, 0), stamp) for p, stamp in here.items()}}

    @property
    def unread(self) -> list[tuple[int, int, str]]:
        """Partition, offset and error of each record whose frame could not be read from where the record says."""
        return [(d.partition, d.offset, d.error) for d in self.dead if d.error in VOLATILE]

    def without(self, records: Collection[tuple[int, int]]) -> StepInput:
        """The step without the given records, each a partition and an offset."""
        places = zip(self.table.column("_partition").to_pylist(), self.table.column("_offset").to_pylist(), strict=True)
        kept = self.table.filter(pa.array([place not in records for place in places], pa.bool_()))
        return StepInput(kept, [d for d in self.dead if (d.partition, d.offset) not in records], self.ends)


def _newest(stamps: np.ndarray, wall: int) -> int:
    known = stamps[stamps <= wall]
    return int(known.max()) if len(known) else wall if len(stamps) else 0


@dataclass
class _PollSlice:
    """A piece of one partition's log."""

    partition: int
    table: pa.RecordBatch
    dead: Sequence[DeadLetter]
    end: int

    def split(self, offset: int) -> tuple[_PollSlice, _PollSlice]:
        """The part before `offset`, and the rest."""
        at = int(np.searchsorted(self.table.column("_offset").to_numpy(), offset))
        dead = [d for d in self.dead if d.offset < offset]
        head = _PollSlice(self.partition, self.table.slice(0, at), dead, offset)
        return head, _PollSlice(
            self.partition, self.table.slice(at), [d for d in self.dead if d.offset >= offset], self.end
        )


class StepBuffer:
    """A queue of polls. End offsets alone define a step, however polls split the records. The journal stores these offsets."""

    def __init__(self, empty: pa.RecordBatch) -> None:
        self._empty = empty
        self._runs: list[_PollSlice] = []

    @property
    def rows(self) -> int:
        """Number of buffered rows."""
        return sum(r.table.num_rows for r in self._runs)

    @property
    def partitions(self) -> set[int]:
        """Partitions with buffered records."""
        return {r.partition for r in self._runs}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def put(self, poll: Poll) -> None:
        """Append a poll."""
        partitions = poll.table.column("_partition").to_numpy()
        for partition, end in sorted(poll.ends.items()):
            start, stop = np.searchsorted(partitions, [partition, partition + 1])
            dead = [d for d in poll.dead if d.partition == partition]
            self._runs.append(_PollSlice(partition, poll.table.slice(start, stop - start), dead, end))

    def take(self, rows: int) -> StepInput:
        """Take the next step: about `rows` rows, whole messages only."""
        taken: list[_PollSlice] = []
        while self._runs and rows > 0:
            run = self._runs.pop(0)
            if run.table.num_rows > rows:
                offsets = run.table.column("_offset").to_numpy()
                if (cut := int(offsets[rows - 1]) + 1) <= offsets[-1]:
                    run, rest = run.split(cut)
                    self._runs.insert(0, rest)
            rows -= run.table.num_rows
            taken.append(run)
        return self._batch(taken)

    def clear(self) -> None:
        """Drop all buffered records."""
        self._runs = []

    def covers(self, ends: Mapping[int, int]) -> bool:
        """Whether all records before these offsets are buffered."""
        reached = {r.partition: r.end for r in self._runs}
        return all(reached.get(p, -1) >= end for p, end in ends.items())

    def take_until(self, ends: Mapping[int, int]) -> StepInput:
        """Take the step with these end offsets again, for a re-run."""
        taken, left = [], []
        for run in self._runs:
            if (end := ends.get(run.partition, -1)) >= run.end:
                taken.append(run)
            elif (
                run.table.num_rows
                and run.table.column("_offset")[0].as_py() >= end
                and not any(d.offset < end for d in run.dead)
            ):
                left.append(run)
            else:
                head, rest = run.split(end)
                taken.append(head)
                left.append(rest)
        self._runs = left
        batch = self._batch(taken)
        return StepInput(batch.table, batch.dead, dict(ends))

    def _batch(self, runs: list[_PollSlice]) -> StepInput:
        runs = sorted(runs, key=lambda r: r.partition)  # stable: a partition's runs keep their order
        tables = [r.table for r in runs if r.table.num_rows]
        match tables:
            case []:
                table = self._empty
            case [table]:
                pass
            case _:
                table = pa.Table.from_batches(tables).combine_chunks().to_batches()[0]
        dead = [d for r in runs for d in r.dead]
        return StepInput(table, dead, {r.partition: r.end for r in runs})
