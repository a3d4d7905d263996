"""Writes checkpoints (files, snapshot, Delta commit) in the background, one at a time."""

from __future__ import annotations

import time
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
    """Everything that a checkpoint makes durable, captured when it is taken.

    Args:
        name: epoch << 32 | sequence.
        results: rows since the previous checkpoint.
        files: path in the lake and content of the files that these rows name.
        positions: each partition's next offset, which becomes R when the checkpoint is committed.
        facts: what recovery needs besides the state: topic id, plan, signature, version, clock.
    """

    name: int
    delta: StateDelta
    results: Sequence[pa.RecordBatch]
    files: Sequence[tuple[str, bytes]]
    positions: Mapping[int, int]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A checkpoint that is committed.

    Args:
        seconds: how long it took to write.
        undeleted: number of old snapshots that could not be deleted.
    """

    name: int
    seconds: float
    undeleted: int


class CheckpointWriter:
    """Performs steps 2 to 5 of a checkpoint. The shard has committed step 1, the Kafka transaction with the mark.

    Guarantee: each checkpoint is committed as a whole or not at all, and in order. The writer retries while the lake accepts
    no writes. Any other error ends the shard.
    """

    def __init__(self, results_table: ResultsTable, snapshots: Snapshots, lake: LakeRetry) -> None:
        self._results_table, self._snapshots, self._lake = results_table, snapshots, lake
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._future: Future[WrittenCheckpoint] | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._future is not None

    def start(self, pending: PendingCheckpoint) -> None:
        """Write a checkpoint in the background."""
        self._future = self._thread.submit(copy_context().run, self._write, pending)

    def poll(self, *, wait: bool) -> WrittenCheckpoint | None:
        """The checkpoint committed since the last call, if any; raises the error if it failed."""
        if self._future is None or not (wait or self._future.done()):
            return None
        written, self._future = self._future.result(), None
        return written

    def close(self) -> None:
        """Stop lake retries and release the thread."""
        self._lake.close()
        self._thread.shutdown(wait=False)

    def _write(self, pending: PendingCheckpoint) -> WrittenCheckpoint:
        began = time.monotonic()
        # Each step may be retried: 2 and 3 are invisible to readers, and 4 checks whether its commit succeeded.
        retry = self._lake.through
        retry(self._results_table.stands)
        # Before the rows that name them. A retry writes the same files.
        retry(lambda: self._results_table.keep(pending.files))
        files = retry(lambda: self._results_table.write(pending.results))  # 2. invisible until step 4
        failpoints.point("checkpoint.files")
        # 3. Before 4: a commit needs its state.
        retry(lambda: self._snapshots.write(pending.name, pending.delta, pending.facts))
        failpoints.point("checkpoint.snapshot")
        retry(lambda: self._results_table.publish(files, pending.positions, pending.name))  # 4. the one atomic step
        failpoints.point("checkpoint.delta")
        seconds = time.monotonic() - began
        undeleted = self._snapshots.drop_before(pending.name)  # 5. older ones are needed until 4; never raises
        failpoints.point("checkpoint.dropped")
        return WrittenCheckpoint(pending.name, seconds, undeleted)
