"""Checks of a lake as a pipeline uses it, and of what the pipeline has stored there. Probe files are deleted again."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError
from polars.exceptions import PolarsError
from pyarrow import fs

from tocsin.pipelines.runtime.admin.preflight import Concern
from tocsin.pipelines.runtime.control.desired_state import last_stored
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.durations import milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine import losses
from tocsin.pipelines.runtime.engine.journal import Journal, Mark, checkpoint_name
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan, fetch_model, store_model
from tocsin.pipelines.runtime.kafka.reader import TopicState
from tocsin.pipelines.runtime.lake.delta import PARTITION, absent, delta_table
from tocsin.pipelines.runtime.lake.storage import Lake, read
from tocsin.pipelines.runtime.lake.table import ResultsTable

FOREIGN = 0.05
"""Share of rows unlike the training data that is a concern."""
SPACE = 10**9
"""Bytes that must be free."""


class LakeFolder:
    """The folder of all pipelines' tables."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._path = lake, lake.folder

    def writable(self) -> str:
        """Check that files can be created and deleted, and rows committed and read back, as shards and queries do."""
        root, probe = self._lake.root, f".tocsin-check-{uuid.uuid4().hex}"
        try:
            if self._path and not self._path.exists():  # the check must not create it
                nearest = self._nearest()
                with tempfile.TemporaryDirectory(prefix=probe, dir=nearest) as scratch:
                    _round_trip(Lake(str(scratch / self._path.relative_to(nearest))))
                return f"{root}: none yet; the first start creates it"
            files = self._lake.files
            files.open_output_stream(probe).close()
            files.delete_file(probe)
        except (OSError, ValueError) as reason:
            raise Unavailable(
                f"lake {root}: expected to create and delete a file there, got {reason}; give this user the right to write "
                "there, or set lake.path and lake.options"
            ) from reason
        try:
            _round_trip(replace(self._lake, root=self._lake.place(probe)))
        finally:
            files.delete_dir(probe)
        return f"{root}: files can be created and deleted, rows written and read back"

    def space(self) -> str:
        """Check the free space."""
        if not self._path:
            return "an object store, not limited"
        free = shutil.disk_usage(self._nearest()).free
        if free < SPACE:
            raise Unavailable(
                f"lake {self._path}: expected {SPACE / 1e9:g} GB free at least, got {free / 1e9:.2f}: checkpoints would fail; make "
                "room, or set lake.path"
            )
        return f"{free / 1e9:,.1f} GB free"

    def _nearest(self) -> Path:
        assert self._path
        return next(p for p in (self._path, *self._path.parents) if p.exists())


class LakeTable:
    """What a pipeline's shards have stored in the lake.

    Args:
        name: the pipeline's.
    """

    def __init__(self, lake: Lake, name: str, shards: int) -> None:
        self._lake, self._name, self._shards = lake, name, shards
        self._place = lake.place(name)
        self._topic_ids: set[str] = set()

    def schema(self, pipeline: Pipeline | None) -> str:
        """Check that the table belongs to this pipeline and accepts its results."""
        assert pipeline
        table = self._table()
        if table is None:
            return f"{self._place}: none yet; the first start creates it"
        if (owner := table.metadata().name) != self._name:
            raise ConfigError(
                f"table {self._place}: expected it to be of pipeline {self._name}, got {owner or 'a table without a name'}; use "
                "another lake or pipeline name"
            )
        columns = {f.name: f.type for f in table.schema().fields}
        for field in Schema.from_arrow(pipeline.table).fields:
            if field.name in columns and columns[field.name] != field.type:  # the next start adds new columns
                raise ConfigError(
                    f"table {self._place}: expected a column {field.name} of {_plain(field.type)}, got "
                    f"{_plain(columns[field.name])}; use another lake or pipeline name"
                )
        return f"{self._place}: {len(columns)} columns"

    def files(self) -> str:
        """Check that the files exist that the table's log names."""
        if (table := self._table()) is None:
            return f"{self._place}: none yet"
        if missing := losses.files_missing(self._place, self._name, absent(table, self._lake.files, self._name)):
            raise missing
        return f"{self._place}: all files that its log names"

    def model(self, ref: ModelRef | None, scratch: Lake) -> str:
        """Check that the lake's copy of a model is intact: a start uses it without a check."""
        assert ref
        place = self._lake.place(names.model_folder(ref.sha256))
        if not self._names(names.model_folder(ref.sha256)):
            return f"{ref.name}/{ref.version}: not in the lake yet, the next start copies it"
        folder = fetch_model(self._lake, ref, "cpu").folder
        if (actual := store_model(scratch, folder, name=ref.name, version=ref.version).sha256) != ref.sha256:
            raise ModelError(
                f"model {ref.name}/{ref.version} in {place}: expected files of that SHA-256, got "
                f"{actual}: they are damaged; delete that folder, and the next start copies it again"
            )
        return f"{ref.name}/{ref.version}: the lake's copy is intact"

    def snapshots(self, pipeline: Pipeline | None) -> str:
        """Check that the snapshots exist that the table names, with their models, and that they fit the pipeline."""
        assert pipeline
        signature = Machine(pipeline).signature
        found = self._checkpoints()
        for shard, checkpoint in found:
            where = f"snapshot {checkpoint_name(checkpoint)} in {self._lake.place(names.snapshot_folder(self._name, shard))}"
            try:
                manifest = self._manifest(shard, checkpoint)
                for link in manifest["chain"]:
                    self._manifest(shard, link)
            except (FileNotFoundError, ValueError) as reason:
                if found != self._checkpoints():  # a running shard has made a new checkpoint, and deleted old ones
                    return self.snapshots(pipeline)
                raise Unavailable(
                    f"{where}: expected the one that the table's last checkpoint names, and those it builds on, got {reason}; "
                    "restore the lake's _state folder from a backup, or start over with `--on-gap skip`"
                ) from reason
            facts = manifest["facts"]
            self._topic_ids.add(facts["topic_id"])
            another = facts.get("state_version", pipeline.state_version) != pipeline.state_version
            carried = another and (pipeline.migrate or milliseconds(pipeline.warmup))
            mismatch = losses.state_mismatch(self._name, shard, facts["signature"], signature)
            if mismatch and not carried:
                raise mismatch
            model = Plan.load(facts["plan"]).model
            if model and not self._names(names.model_folder(model.sha256)):
                place = self._lake.place(names.model_folder(model.sha256))
                raise ModelError(
                    f"{where}: expected its model {model.name}/{model.version} in {place}, got "
                    "none; restore that folder from a backup or from the registry"
                )
        return ", ".join(f"shard {shard} at {checkpoint_name(c)}" for shard, c in found) or "no checkpoint yet"

    def domain(self) -> str:
        """Check that the newest day's results are of readings like the training data, where the model says so."""
        table = self._table()
        columns = [] if table is None else [field.name for field in table.schema().fields]
        if "in_domain" not in columns:
            return "not judged"
        wanted = [name for name in ("key", "in_domain", "unlike") if name in columns]
        rows = self._lake.scan(self._name)
        newest = rows.filter(pl.col("event_date") == pl.col("event_date").max()).select(wanted).collect()
        known = newest.drop_nulls("in_domain")
        if not len(known):
            return f"not known of the newest day's {len(newest):,} rows"
        foreign = known.filter(pl.col("in_domain").not_())
        if len(foreign) > FOREIGN * len(known):
            last = foreign.row(-1, named=True)
            example = f", such as {last['key']}: {last['unlike']}" if last.get("unlike") else ""
            raise Concern(
                f"results of {self._name}: expected readings like the model's training data, got {len(foreign):,} others of the "
                f"newest day's {len(known):,}{example}; compare units, sensors or cameras with the training data, or train a model "
                "on such readings"
            )
        return f"{len(foreign):,} of the newest day's {len(known):,} rows are unlike the training data"

    def orders(self) -> str:
        """Check that the stored desired state can be read."""
        if not self._names(names.ORDERS) or (desired := last_stored(self._lake, self._name)) is None:
            return "none"
        return "paused; it stays paused when its supervisor restarts" if desired.paused else "can be read"

    def positions(self, topic: str, read_log: Callable[[], TopicState]) -> str:
        """Check that the next offsets are inside the topic's log. Call it after `snapshots`."""
        table = self._table()
        log = read_log()  # after the table: a running shard's offsets only grow
        next_offsets = {p: o for p in log.end if (o := self._position(table, topic, p)) is not None}
        found = [losses.topic_replaced(topic, topic_id, log) for topic_id in self._topic_ids]
        for lost in (*found, *(losses.position_lost(topic, p, offset, log) for p, offset in next_offsets.items())):
            if lost:
                raise lost
        if not next_offsets:
            return f"{topic}: the start of the topic"
        added = sorted(log.end.keys() - next_offsets.keys())
        pending = sum(log.end[p] - next_offsets.get(p, 0) for p in log.end)
        suffix = f", partitions {', '.join(map(str, added))} were added and are read from their start" if added else ""
        return f"{topic}: {pending:,} records to process{suffix}"

    def one_writer(self, topic: str, newest: Callable[[int], Journal | None]) -> str:
        """Check that table and journal belong together: one pipeline, in one lake, writes both.

        Args:
            topic: the input.
            newest: a shard's newest journal record; None: there is none.
        """
        for shard in range(self._shards):
            where = f"topic {names.journal_topic(self._name)}[{shard}]"
            table = self._table()  # a running shard may commit meanwhile: read the table before and after
            before, record = self._checkpoint(table, shard), newest(shard)
            after = self._checkpoint(self._table(), shard)
            if record is None and before:
                raise losses.journal_lost(self._name, shard, before)
            if record and not (table and table.transaction_version(names.epoch_id(self._name, shard))):
                raise losses.table_unknown(self._place, self._name, shard, f"its journal in {where}")
            position = partial(self._position, table, topic)
            if record and not goes_with(record, before, after, position):
                raise ConfigError(
                    f"{where}: expected its newest record to go with checkpoint {checkpoint_name(after)} of {self._place}, got one "
                    f"that builds on {checkpoint_name(record.base)} of another table: two writers' folders, or an old copy of one; "
                    "stop the pipeline of this name that writes to another lake, set lake.path to the lake that the journal goes "
                    "with, or rename this one"
                )
        return "table and journal go together"

    def _table(self) -> DeltaTable | None:
        return delta_table(self._lake, self._name)

    def _checkpoint(self, table: DeltaTable | None, shard: int) -> int:
        return (table and table.transaction_version(names.checkpoint_id(self._name, shard))) or 0

    def _position(self, table: DeltaTable | None, topic: str, partition: int) -> int | None:
        return table and table.transaction_version(f"{self._name}/{topic}/{partition}")

    def _checkpoints(self) -> list[tuple[int, int]]:
        """The shards with a checkpoint, and its name."""
        table = self._table()
        return [(shard, c) for shard in range(self._shards) if (c := self._checkpoint(table, shard))]

    def _manifest(self, shard: int, checkpoint: int) -> dict[str, Any]:
        path = posixpath.join(names.snapshot_folder(self._name, shard), str(checkpoint), "manifest.json")
        return orjson.loads(read(self._lake.files, path))

    def _names(self, folder: str) -> set[str]:
        if (root := self._lake.folder) and not root.exists():
            return set()  # listing it would create it
        return {i.base_name for i in self._lake.files.get_file_info(fs.FileSelector(folder, allow_not_found=True))}


def _round_trip(lake: Lake) -> None:
    """Commit a row as a shard does, and read it back as a query does.

    Raises:
        Unavailable: it does not come back.
    """
    schema = pa.schema([pa.field("key", pa.string(), nullable=False)])
    probe = Pipeline(name="probe", topic="probe", schema=schema, key="key", stages=[], results=pa.schema([]))
    row = {name: [None] for name in probe.table.names} | {"key": [uuid.uuid4().hex], PARTITION: ["2026-01-01"]}
    sink = ResultsTable(lake, probe, 0)
    try:
        sink.own({0: 0})
        sink.publish(sink.write([pa.RecordBatch.from_pydict(row, probe.table)]), {0: 1}, 1)
        got = lake.scan(probe.name).collect()["key"].to_list()
    except (DeltaError, PolarsError) as reason:
        got = str(reason).splitlines()[:1]
    if got != row["key"]:
        raise Unavailable(
            f"lake {lake.root}: expected to commit a row and read it back, got {got}; set lake.path and lake.options to a store "
            "that Delta and Polars can use"
        )


def goes_with(record: Journal, before: int, after: int, position: Callable[[int], int | None]) -> bool:
    """Whether a shard's newest journal record and its table can come from the same writer.

    Args:
        before, after: the table's checkpoint, read before the record and after it; 0: none.
        position: a partition -> the next offset that the table had before, if any.
    """
    if record.base > before:
        return record.base <= after  # there was a new checkpoint in between
    passed, known = record.base == before, {record.base}
    for item in record.items:
        if isinstance(item, Mark):
            known.add(item.checkpoint)
            passed = passed or item.checkpoint == before
            continue
        for partition, end in item.ends.items():  # the checkpoint's number may agree by chance; the offsets hardly do
            at = position(partition)
            if at is not None and (end < at if passed else end > at):
                return False
    return before in known


def _plain(type_: Any) -> str:
    return str(getattr(type_, "type", type_))
