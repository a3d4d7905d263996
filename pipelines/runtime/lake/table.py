"""The results table: a Delta table with one commit a checkpoint, which also stores the input positions."""

from __future__ import annotations

import contextlib
import logging
import posixpath
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError, Fenced, LakeLost, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.lake.delta import (
    PARTITION,
    absent,
    commit,
    commit_fenced,
    delta_table,
    exists,
    properties,
)
from tocsin.pipelines.runtime.lake.storage import Lake, write
from tocsin.pipelines.runtime.telemetry import progress

log = logging.getLogger(__name__)
MAX_SHARDS = 1024
"""How many shards to look for in a table that does not record their number yet."""
CHECKED_FILES = 64
"""How many of the table's files recovery checks for. Checking all files of a large table would take too long."""
LOG_RETENTION = {"delta.logRetentionDuration": "interval 1 days"}
"""There is a commit every few seconds. Delta's default of 30 days would keep half a million log files that nobody reads."""


@dataclass(frozen=True)
class TableState:
    """What an owner starts from: its epoch, each partition's next offset (R), the last checkpoint's name (0: none)."""

    epoch: int
    positions: Mapping[int, int]
    checkpoint: int


class ResultsTable:
    """One shard's access to the results table. Other shards and other pipelines may write to it as well.

    Guarantee: rows and the positions after them become visible in one Delta commit, and only while this shard's epoch is
    ours. Delta does not deduplicate by itself: it accepts any commit made from a freshly loaded table. So after
    `own` every commit is made from a version at which we have seen our own epoch.
    New columns are added. Columns that are no longer written stay. Rows that lack a column read null there.

    Args:
        shards: of the pipeline. The table records their number and rejects an owner with another one.
    """

    def __init__(self, lake: Lake, pipeline: Pipeline, shard: int, shards: int = 1) -> None:
        self._lake, self._pipeline, self._shard, self._shards = lake, pipeline, shard, shards
        self._files, self._place = lake.files, lake.place(pipeline.folder)
        self._epoch_id = names.epoch_id(pipeline.name, shard)
        self._checkpoint_id = names.checkpoint_id(pipeline.name, shard)
        self._epoch = 0
        self._table: DeltaTable

    def known(self) -> bool:
        """Whether the table exists and this shard has had an owner. Creates nothing.

        Raises:
            LakeLost: the table's log can't be read.
        """
        return self._exists() and self._open().transaction_version(self._epoch_id) is not None

    def own(self, start: Mapping[int, int], above: int = 0) -> TableState:
        """Raise the epoch, which fences every earlier owner; pin `start` for partitions that have no position yet.

        If the shard has had an owner before, such a partition was added since, and is processed from its first record on.
        R is valid only as read here, after the epoch was raised.

        Args:
            above: an epoch that the new one must exceed, for a table that has lost its own.

        Raises:
            ConfigError: the table has a column of another type, or the pipeline another number of shards.
            LakeLost: the table's log can't be read.
        """
        p, uri = self._pipeline, self._lake.uri(self._pipeline.folder)
        options = self._lake.options or None
        if not self._exists():
            with contextlib.suppress(CommitFailedError):  # another process may be creating it
                DeltaTable.create(
                    uri,
                    p.table,
                    mode="ignore",
                    partition_by=[PARTITION],
                    name=p.folder,
                    configuration=LOG_RETENTION,
                    storage_options=options,
                )
        self._table = self._open()
        self._widen(p.table)
        self._describe(p.table)
        commit_fenced(
            lambda: self._commit([], self._claim(start, above)),
            newest=self._table.update_incremental,
            what=f"{self._place}: take ownership",
        )
        self._refresh()
        positions = {n: self._read(self._position_id(n)) or 0 for n in start}
        return TableState(self._epoch, positions, self._read(self._checkpoint_id) or 0)

    def _claim(self, start: Mapping[int, int], above: int) -> dict[str, int]:
        """The numbers that make this process the owner, from the version that was read last."""
        old_epoch, shards = self._read(self._epoch_id), self._read(names.shards_id(self._pipeline.name))
        self._epoch = max(old_epoch or 0, above) + 1
        added = {self._position_id(n): o for n, o in start.items() if self._read(self._position_id(n)) is None}
        if old_epoch is not None:
            added = dict.fromkeys(added, 0)
        if shards is None:
            added[names.shards_id(self._pipeline.name)] = self._shards
        elif shards != self._shards:
            what_to_do = "`tocsin stop` it, then `tocsin up` moves its state"
            if self._pipeline.shadow_of:
                what_to_do = "a shadow keeps the number that it began with: register the model as another version to try it again"
            raise ConfigError(
                f"{self._pipeline.name}: expected {shards} shards, as its table has it, got {self._shards}; {what_to_do}"
            )
        return {self._epoch_id: self._epoch} | added

    def stands(self) -> None:
        """Check that the table still exists. Call this before writing anything beside it.

        Raises:
            LakeLost: the table is gone.
        """
        if not self._exists():
            raise LakeLost(
                f"lake {self._lake.place(self._pipeline.folder)}: expected the table that {self._pipeline.name}/{self._shard} "
                "writes to, got none: it was deleted or its drive is not mounted; bring it back, or begin a new one with "
                "`--on-gap skip`"
            )

    def absent(self, limit: int = CHECKED_FILES) -> list[str]:
        """The table's missing files. Checks at most `limit` files."""
        return absent(self._table, self._files, self._pipeline.folder, limit)

    def repair(self) -> None:
        """Remove missing files from the table, so that the others can be read."""
        with contextlib.suppress(CommitFailedError):  # another shard may be doing the same
            self._table.repair()
        self._refresh()

    def check(self, columns: pa.Schema) -> None:
        """Check that the table accepts rows with these columns.

        Raises:
            ConfigError: a column of the table has another type.
        """
        self._missing(columns)

    def keep(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Write the files that rows refer to: path in the lake, content."""
        for path, content in files:
            write(self._files, path, content)

    def write(self, results: Sequence[pa.RecordBatch]) -> list[AddAction]:
        """Write rows as Parquet files that are invisible until `publish`; add columns that the table lacks."""
        if not results:
            return []
        # A re-run may span a change of plan: rows before the change lack the new columns.
        table = pa.concat_tables([pa.Table.from_batches([r]) for r in results], promote_options="default")
        if self._widen(table.schema):
            self._refresh()  # adding columns moved to a version at which we have not seen our epoch
        return self.files(table)

    def files(self, table: pa.Table) -> list[AddAction]:
        """Write rows as files of a table that need not exist yet. After an error, none of the files is left."""
        written, dates = list[AddAction](), pc.unique(table[PARTITION])
        for date in dates:
            path = f"{PARTITION}={date.as_py()}/part-{uuid.uuid4().hex}.parquet"
            rows = table if len(dates) == 1 else table.filter(pc.equal(table[PARTITION], date))
            try:
                written.append(self._file(path, date, rows))
            except OSError:  # such as a full lake: leftover files would take more of its space
                for leftover in (path, *(action.path for action in written)):
                    with contextlib.suppress(OSError):
                        self._files.delete_file(posixpath.join(self._pipeline.folder, leftover))
                raise
        return written

    def publish(self, files: Sequence[AddAction], positions: Mapping[int, int], checkpoint: int) -> None:
        """Make rows, positions and the checkpoint's name visible together, in one atomic commit.

        Safe to call again after an OSError. The new commit starts from the last version read; if the first one was made
        after all, Delta rejects the new one, and this call finds the checkpoint in the table.

        Raises:
            Fenced: another owner has raised the epoch.
        """
        txn = self._stamp(positions, checkpoint)
        commit_fenced(
            lambda: self._commit(files, txn),
            newest=self._refresh,
            is_committed=lambda: self._read(self._checkpoint_id) == checkpoint,
            what=f"{self._place}: commit checkpoint {checkpoint}",
        )
        self._refresh()

    def _exists(self) -> bool:
        return exists(self._lake, self._pipeline.folder)

    def _open(self) -> DeltaTable:
        place = self._lake.place(self._pipeline.folder)
        try:
            return DeltaTable(self._lake.uri(self._pipeline.folder), storage_options=self._lake.options or None)
        except DeltaError as reason:
            why = str(reason).splitlines()[0]
            if "object store" in why.lower():  # the store does not answer
                raise Unavailable(f"{place}: expected to read the table's log, got {why}; try again") from reason
            raise LakeLost(
                f"lake {place}: expected a table's log in its _delta_log, got {why}; restore that folder from a backup, or move "
                f"{place} away and begin a new table with `--on-gap skip`"
            ) from reason

    def _refresh(self) -> None:
        """Update to the newest version, and check that its epoch is still ours."""
        self._table.update_incremental()
        if (epoch := self._read(self._epoch_id)) != self._epoch:
            raise Fenced(f"{self._epoch_id}: expected {self._epoch}, got {epoch}: another process owns this shard now")

    def _commit(self, files: Sequence[AddAction], txn: Mapping[str, int]) -> None:
        commit(self._table, files, txn)

    def _stamp(self, positions: Mapping[int, int], checkpoint: int) -> dict[str, int]:
        """What a checkpoint's commit stores beside its rows: epoch, checkpoint and positions."""
        versions = {self._epoch_id: self._epoch, self._checkpoint_id: checkpoint}
        return versions | {self._position_id(n): o for n, o in positions.items()}

    def _read(self, app_id: str) -> int | None:
        return self._table.transaction_version(app_id)

    def _position_id(self, partition: int) -> str:
        return names.position_id(self._pipeline.name, self._pipeline.topic, partition)

    def _widen(self, columns: pa.Schema) -> bool:
        """Add columns that the table lacks. Returns whether it lacked any."""
        if not self._missing(columns):
            return False
        commit_fenced(
            lambda: self._add(self._missing(columns)),
            newest=self._table.update_incremental,
            is_committed=lambda: not self._missing(columns),  # another shard may have added them
            what=f"{self._place}: add columns",
        )
        return True

    def _describe(self, columns: pa.Schema) -> None:
        """Give columns of an earlier version the metadata that they are declared with now."""
        for field in Schema.from_arrow(columns).fields:
            if not self._is_described(field):
                commit_fenced(
                    partial(self._table.alter.set_column_metadata, field.name, field.metadata),
                    newest=self._table.update_incremental,
                    is_committed=partial(self._is_described, field),  # another shard may have done it
                    what=f"{self._place}: describe column {field.name}",
                )

    def _is_described(self, field: Field) -> bool:
        """Whether the table has a column's metadata."""
        return any(
            f.name == field.name and field.metadata.items() <= f.metadata.items() for f in self._table.schema().fields
        )

    def _add(self, missing: list[Field]) -> None:
        self._table.alter.add_columns(missing)
        log.info("%s: new columns %s", self._place, [f.name for f in missing])

    def _missing(self, columns: pa.Schema) -> list[Field]:
        existing = {f.name: f.type for f in self._table.schema().fields}
        fields = Schema.from_arrow(columns).fields
        for f in fields:
            if f.name in existing and existing[f.name] != f.type:
                raise ConfigError(
                    f"table {self._place}: expected column {f.name} as {existing[f.name].to_json()}, got "
                    f"{f.type.to_json()}; give the new one another name"
                )
        return [f for f in fields if f.name not in existing]

    def _file(self, path: str, date: pa.Scalar, table: pa.Table) -> AddAction:
        full_path = posixpath.join(self._pipeline.folder, path)
        self._files.create_dir(posixpath.dirname(full_path), recursive=True)
        pq.write_table(table.drop_columns([PARTITION]), full_path, filesystem=self._files, compression="zstd")
        progress.made()
        size = self._files.get_file_info(full_path).size
        return AddAction(path, size, {PARTITION: date.as_py()}, int(time.time() * 1000), True, _stats(table))


def start_over(owners: Sequence[tuple[ResultsTable, int]], positions: Mapping[int, int], rows: str) -> int | None:
    """Delete rows, move all shards' positions and name their checkpoints, in one commit.

    Guarantee: as `ResultsTable.publish`, for all shards at once.

    Args:
        owners: of all shards of the pipeline, in the order in which they raised their epochs; with the checkpoints' names.
        rows: which rows to delete, as SQL.

    Returns:
        How many rows were deleted; None if the commit was made but its reply was lost.

    Raises:
        Fenced: another owner has raised a shard's epoch.
    """
    table = owners[-1][0]._table  # the last owner has seen the other epochs, too
    if any(field.name == names.IN_SHADOW for field in table.schema().fields):
        rows = f"({rows}) AND {names.IN_SHADOW} IS NOT TRUE"  # a shadow has positions of its own
    txn: dict[str, int] = {}
    for owner, name in owners:
        owner._table = table
        txn |= owner._stamp(positions, name)

    def newest() -> None:
        for owner, _ in owners:
            owner._refresh()

    def attempt() -> int:
        version = table.version()
        deleted: int = table.delete(rows, commit_properties=properties(txn))["num_deleted_rows"]
        if table.version() == version:  # no row matched, so Delta made no commit
            commit(table, [], txn)
        return deleted

    newest()
    return commit_fenced(
        attempt,
        newest=newest,
        is_committed=lambda: all(owner._read(owner._checkpoint_id) == name for owner, name in owners),
        what=f"{owners[0][0]._place}: start over",
    )


def checkpoint_of(lake: Lake, pipeline: str, shard: int) -> int:
    """The name of a shard's newest checkpoint, read without owning the shard; 0 if there is none."""
    table = delta_table(lake, pipeline)
    return (table and table.transaction_version(names.checkpoint_id(pipeline, shard))) or 0


def _stats(table: pa.Table) -> str:
    """Delta's file statistics, which let a query skip files."""
    minimums: dict[str, Any] = {}
    maximums: dict[str, Any] = {}
    for field in table.schema:
        if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type):
            ends = pc.min_max(table[field.name])
            if ends["min"].is_valid:
                # A stage may produce a time that Python can't represent. The file holds it; its statistics do not.
                with contextlib.suppress(OverflowError, ValueError):
                    minimums[field.name], maximums[field.name] = ends["min"].as_py(), ends["max"].as_py()
    nulls = {n: table[n].null_count for n in minimums}
    return orjson.dumps(
        {"numRecords": len(table), "minValues": minimums, "maxValues": maximums, "nullCount": nulls}
    ).decode()


def shard_count(lake: Lake, pipeline: str) -> int:
    """The number of shards in a pipeline's table; 0 if the pipeline has not run yet."""
    if (table := delta_table(lake, pipeline)) is None:
        return 0
    known = table.transaction_version(names.shards_id(pipeline))
    return known or max(
        (n + 1 for n in range(MAX_SHARDS) if table.transaction_version(names.epoch_id(pipeline, n))), default=0
    )
