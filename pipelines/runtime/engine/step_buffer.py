"""Buffers records that were read but not processed yet, and cuts them into reproducible steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.rows import arrival_times
from tocsin.pipelines.runtime.formats.volatile import VOLATILE
from tocsin.pipelines.runtime.kafka.reader import Poll


@dataclass(frozen=True)
class StepInput:
    """One step's input: rows sorted by partition and offset, dead letters, and the end offsets of the partitions that moved."""

    table: pa.RecordBatch
    dead_letters: Sequence[DeadLetter]
    ends: Mapping[int, int]

    def newest(self, so_far: Mapping[int, int], wall: int) -> dict[int, int]:
        """Each partition's newest Kafka timestamp after this step, ms since the epoch.

        Timestamps ahead of `wall`, the wall clock, are ignored. If a partition has no others in this step, they count as `wall`.
        """
        partitions = self.table.column("_partition").to_numpy()
        timestamps = arrival_times(self.table)
        in_step = {p: _newest(timestamps[partitions == p], wall) for p in self.ends}
        return {**so_far, **{p: max(so_far.get(p, 0), stamp) for p, stamp in in_step.items()}}

    @property
    def stamps(self) -> NDArray[np.int64]:
        """Kafka's timestamps of the rows that have one, ms since the epoch."""
        return np.asarray(self.table.column("_timestamp").drop_null().view(pa.int64()))

    @property
    def unread(self) -> list[tuple[int, int, str]]:
        """Partition, offset and error of each record that was refused for a reason outside the log, such as a missing frame."""
        return [(d.partition, d.offset, d.error) for d in self.dead_letters if d.error in VOLATILE]

    def without(self, records: Collection[tuple[int, int]]) -> StepInput:
        """The step without the given records, each a partition and an offset."""
        pairs = zip(self.table.column("_partition").to_pylist(), self.table.column("_offset").to_pylist(), strict=True)
        table = self.table.filter(pa.array([pair not in records for pair in pairs], pa.bool_()))
        return StepInput(table, [d for d in self.dead_letters if (d.partition, d.offset) not in records], self.ends)


def _newest(timestamps: np.ndarray, wall: int) -> int:
    known = timestamps[timestamps <= wall]
    return int(known.max()) if len(known) else wall if len(timestamps) else 0


@dataclass
class _PollSlice:
    """A piece of one partition's log."""

    partition: int
    table: pa.RecordBatch
    dead_letters: Sequence[DeadLetter]
    end: int

    def split(self, offset: int) -> tuple[_PollSlice, _PollSlice]:
        """The part before `offset`, and the rest."""
        index = int(np.searchsorted(self.table.column("_offset").to_numpy(), offset))
        dead_letters = [d for d in self.dead_letters if d.offset < offset]
        head = _PollSlice(self.partition, self.table.slice(0, index), dead_letters, offset)
        return head, _PollSlice(
            self.partition, self.table.slice(index), [d for d in self.dead_letters if d.offset >= offset], self.end
        )


class StepBuffer:
    """A queue of polls. End offsets alone define a step, however polls split the records. The journal stores these offsets."""

    def __init__(self, empty: pa.RecordBatch) -> None:
        self._empty = empty
        self._slices: list[_PollSlice] = []

    @property
    def rows(self) -> int:
        """Number of buffered rows."""
        return sum(r.table.num_rows for r in self._slices)

    @property
    def partitions(self) -> set[int]:
        """Partitions with buffered records."""
        return {r.partition for r in self._slices}

    def __bool__(self) -> bool:
        return bool(self._slices)

    def put(self, poll: Poll) -> None:
        """Append a poll."""
        partitions = poll.table.column("_partition").to_numpy()
        for partition, end in sorted(poll.ends.items()):
            start, stop = np.searchsorted(partitions, [partition, partition + 1])
            dead_letters = [d for d in poll.dead_letters if d.partition == partition]
            self._slices.append(_PollSlice(partition, poll.table.slice(start, stop - start), dead_letters, end))

    def take(self, rows: int) -> StepInput:
        """Take the next step: about `rows` rows, whole messages only."""
        slices: list[_PollSlice] = []
        while self._slices and rows > 0:
            piece = self._slices.pop(0)
            if piece.table.num_rows > rows:
                offsets = piece.table.column("_offset").to_numpy()
                if (cut := int(offsets[rows - 1]) + 1) <= offsets[-1]:
                    piece, rest = piece.split(cut)
                    self._slices.insert(0, rest)
            rows -= piece.table.num_rows
            slices.append(piece)
        return self._batch(slices)

    def clear(self) -> None:
        """Drop all buffered records."""
        self._slices = []

    def covers(self, ends: Mapping[int, int]) -> bool:
        """Whether all records before these offsets are buffered."""
        reached = {r.partition: r.end for r in self._slices}
        return all(reached.get(p, -1) >= end for p, end in ends.items())

    def take_until(self, ends: Mapping[int, int]) -> StepInput:
        """Take the step with these end offsets again, for a re-run."""
        slices, remaining = [], []
        for piece in self._slices:
            if (end := ends.get(piece.partition, -1)) >= piece.end:
                slices.append(piece)
            elif (
                piece.table.num_rows
                and piece.table.column("_offset")[0].as_py() >= end
                and not any(d.offset < end for d in piece.dead_letters)
            ):
                remaining.append(piece)
            else:
                head, rest = piece.split(end)
                slices.append(head)
                remaining.append(rest)
        self._slices = remaining
        batch = self._batch(slices)
        return StepInput(batch.table, batch.dead_letters, dict(ends))

    def _batch(self, slices: list[_PollSlice]) -> StepInput:
        slices = sorted(slices, key=lambda r: r.partition)  # stable: a partition's slices keep their order
        tables = [r.table for r in slices if r.table.num_rows]
        match tables:
            case []:
                table = self._empty
            case [table]:
                pass
            case _:
                table = pa.concat_batches(tables)
        dead_letters = [d for r in slices for d in r.dead_letters]
        return StepInput(table, dead_letters, {r.partition: r.end for r in slices})
