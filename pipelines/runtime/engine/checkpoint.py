"""A checkpoint's outside steps: files, snapshot, Delta commit; written beside the steps, one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.lake.retry import LakeRetry
from tocsin.pipelines.runtime.lake.snapshots import Snapshots
from tocsin.pipelines.runtime.lake.table import ResultsTable
from tocsin.pipelines.runtime.telemetry import failpoints


@dataclass(frozen=True)
class PendingCheckpoint:
    """What is set aside when a checkpoint is taken: all that it will make durable.

    Args:
        name: epoch << 32 | sequence.
        results: rows since the checkpoint before.
        files: path in the lake and content of what these rows name.
        positions: each partition's next offset (R) once it has landed.
        facts: what takeover must know beside the state: topic id, plan, signature, version, clock.
    """

    name: int
    delta: StateDelta
    results: Sequence[pa.RecordBatch]
    files: Sequence[tuple[str, bytes]]
    positions: Mapping[int, int]
    facts: Mapping[str, Any]


class CheckpointWriter:
    """Writes checkpoints; step 1, the Kafka transaction with the mark, has been made by the shard before.

    Guarantee: a checkpoint lands whole or not at all, and one after the other. A lake that takes nothing is waited for; any
    other error is the shard's end.
    """

    def __init__(self, results_table: ResultsTable, snapshots: Snapshots, lake: LakeRetry) -> None:
        self._results_table, self._snapshots, self._lake = results_table, snapshots, lake
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._flight: Future[int] | None = None
        self.undeleted = 0
        """Old snapshots that could not be deleted; to be read when none is in flight."""

    @property
    def in_flight(self) -> bool:
        """Whether one is being written."""
        return self._flight is not None

    def start(self, taken: PendingCheckpoint) -> None:
        """Write one in the background."""
        self._flight = self._thread.submit(copy_context().run, self._write, taken)

    def landed(self, *, wait: bool) -> int | None:
        """The name of the checkpoint that landed since the last call, if any; raises what went wrong in it."""
        if self._flight is None or not (wait or self._flight.done()):
            return None
        name, self._flight = self._flight.result(), None
        return name

    def close(self) -> None:
        """Let go of the thread."""
        self._lake.close()
        self._thread.shutdown(wait=False)

    def _write(self, taken: PendingCheckpoint) -> int:
        # Each step may be taken again: nobody sees 2 and 3, and 4 looks whether it was made.
        through = self._lake.through
        through(self._results_table.stands)
        through(
            lambda: self._results_table.keep(taken.files)
        )  # before the rows that name them; a re-run writes the same again
        files = through(lambda: self._results_table.write(taken.results))  # 2. invisible until step 4
        failpoints.point("checkpoint.files")
        through(
            lambda: self._snapshots.write(taken.name, taken.delta, taken.facts)
        )  # 3. before 4: a commit needs its state
        failpoints.point("checkpoint.snapshot")
        through(lambda: self._results_table.publish(files, taken.positions, taken.name))  # 4. the one atomic step
        failpoints.point("checkpoint.delta")
        self.undeleted += self._snapshots.drop_before(taken.name)  # 5. only now are older ones useless; it never fails
        failpoints.point("checkpoint.dropped")
        return taken.name
