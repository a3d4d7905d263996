"""A shard's snapshots: a full one at times, and state deltas between them."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import fs
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import SnapshotLost
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.lake.storage import Lake, read, write

log = logging.getLogger(__name__)
LONGEST = 16
"""Deltas in a chain before the next one is full, so that a restore reads few files."""


@dataclass(frozen=True)
class Snapshot:
    """A restored snapshot: its state deltas in order, and the facts that the shard wrote beside them."""

    deltas: list[StateDelta]
    facts: Mapping[str, Any]


class Snapshots:
    """A shard's snapshots in the lake.

    A snapshot's name is its checkpoint's number (epoch << 32 | sequence), so a fenced owner never overwrites its successor's.

    Guarantee: a snapshot is complete before a checkpoint names it. A named snapshot is kept until two newer ones are named.
    """

    def __init__(self, lake: Lake, pipeline: str, shard: int) -> None:
        self._files, self._local = lake.files, lake.folder
        self._folder = names.snapshot_folder(pipeline, shard)
        self._chain: list[int] = []
        self._sizes: list[int] = []
        self._previous: set[int] = set()
        self._undeleted: set[int] = set()

    @property
    def full_next(self) -> bool:
        """Whether the next delta should be full: there is none yet, the chain is long, or its deltas outweigh the full one."""
        return not self._chain or len(self._chain) >= LONGEST or sum(self._sizes[1:]) > self._sizes[0]

    def write(self, name: int, delta: StateDelta, facts: Mapping[str, Any]) -> int:
        """Store a state delta under a checkpoint's name. Returns its size in bytes."""
        previous = set(self._chain)
        chain, sizes = ([], []) if delta.full else (self._chain, self._sizes)
        parts = {
            "keys.arrow": _ipc(delta.keys),
            "cells.safetensors": save_tensors(dict(delta.cells) | {"\0freed": delta.freed}),
        }
        for stage, rows in delta.waiting.items():
            parts[f"{plain(stage)}.arrow"] = _ipc(rows.table)
            parts[f"{plain(stage)}.safetensors"] = save_tensors({**rows.tensors, "\0slots": rows.slots})
        for file, content in parts.items():
            write(self._files, self.path(name, file), content)
        chain, sizes = [*chain, name], [*sizes, sum(map(len, parts.values()))]
        manifest = {
            "chain": chain,
            "sizes": sizes,
            "full": delta.full,
            "waiting": list(delta.waiting),
            "state": dict(delta.facts),
            "facts": dict(facts),
        }
        # Last: the manifest makes the other files a snapshot.
        write(self._files, self.path(name, "manifest.json"), orjson.dumps(manifest))
        is_complete = self._is_complete(chain)
        # Only now: a write that failed is retried with the old chain.
        self._previous, self._chain, self._sizes = previous, chain, sizes
        if not is_complete:
            log.error("%s: snapshots were deleted; the next one holds the whole state", self._folder)
            self._chain = []
        return self._sizes[-1]

    def _is_complete(self, chain: Sequence[int]) -> bool:
        """Whether the deltas that the newest snapshot builds on exist. Checks the oldest one and the one before the newest."""
        ends = [self.path(link, "manifest.json") for link in (chain[0], chain[max(len(chain) - 2, 0)])]
        return all(info.type == fs.FileType.File for info in self._files.get_file_info(ends))

    def read(self, name: int) -> Snapshot:
        """The snapshot of a checkpoint, with the earlier deltas that it builds on.

        Raises:
            SnapshotLost: it, or a part of it, is missing or can't be read.
        """
        try:
            manifest = self.manifest(name)
            deltas = [self._delta(link) for link in manifest["chain"]]
        except (FileNotFoundError, ValueError, SafetensorError) as reason:  # no other OSError: the lake may not answer
            got = " ".join(str(reason).split())
            raise SnapshotLost(
                f"snapshot {name} in {self._folder}: expected the one that the last checkpoint names, got {got}; "
                "restore the lake's _state folder from a backup, or start over with `--on-gap skip`"
            ) from reason
        self._chain, self._sizes = list(manifest["chain"]), list(manifest["sizes"])
        return Snapshot(deltas, manifest["facts"])

    def drop_before(self, name: int) -> int:
        """Delete older snapshots that neither snapshot `name` nor the one before it needs. Newer ones are a successor's.

        A snapshot that can't be deleted only takes space, so it is logged and left; the next owner retries.
        Entries that are not snapshots (`.nfs...`, `lost+found`) stay.

        Returns:
            How many could not be deleted, each counted once.
        """
        needed, undeleted = self._previous | set(self._chain), 0
        try:
            entries = self._files.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        except (OSError, ValueError) as reason:
            log.warning("%s: old snapshots could not be listed, so they stay: %s", self._folder, reason)
            return 1
        for info in entries:
            if not re.fullmatch(r"[0-9]+", info.base_name) or info.type != fs.FileType.Directory:
                continue
            if (old := int(info.base_name)) >= name or old in needed or old in self._undeleted:
                continue
            try:
                self._files.delete_dir(info.path)
            except FileNotFoundError:
                continue  # an earlier owner may be deleting it, too
            except (OSError, ValueError) as reason:
                log.warning("%s: this old snapshot could not be deleted, so it stays: %s", info.path, reason)
                self._undeleted.add(old)
                undeleted += 1
        return undeleted

    def _delta(self, name: int) -> StateDelta:
        manifest = self.manifest(name)
        cells = self._tensors(name, "cells.safetensors")
        waiting = {}
        for stage in manifest["waiting"]:
            tensors = self._tensors(name, f"{plain(stage)}.safetensors")
            slots = tensors.pop("\0slots")
            waiting[stage] = Rows(self.table(name, f"{plain(stage)}.arrow"), slots, tensors)
        freed = cells.pop("\0freed")
        return StateDelta(manifest["full"], self.table(name, "keys.arrow"), freed, cells, waiting, manifest["state"])

    def _tensors(self, name: int, file: str) -> dict[str, Tensor]:
        """One of a delta's tensor files. A local one is mapped, so that a restore copies it once."""
        if self._local:
            return load_file(self._local / self.path(name, file))
        return load_tensors(read(self._files, self.path(name, file)))

    def manifest(self, name: int) -> dict[str, Any]:
        """The manifest of one delta."""
        return orjson.loads(read(self._files, self.path(name, "manifest.json")))

    def table(self, name: int, file: str) -> pa.RecordBatch:
        """One of a delta's tables."""
        content = read(self._files, self.path(name, file))
        try:
            return pa.ipc.open_stream(content).read_next_batch()
        except (OSError, StopIteration) as reason:  # truncated
            raise ValueError(f"{file} of {len(content)} bytes: {reason!r}") from reason

    def path(self, name: int, file: str) -> str:
        """Path in the lake of one of a delta's files."""
        return posixpath.join(self._folder, str(name), file)


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def plain(stage: str) -> str:
    """A stage's name as used in file names."""
    return stage.replace("/", "-")
