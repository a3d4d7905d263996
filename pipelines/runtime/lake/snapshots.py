"""A shard's snapshots: a full one now and then, between them only what changed."""

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
from safetensors.torch import save as save_tensors

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import SnapshotLost
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.lake.storage import Lake, read, write

log = logging.getLogger(__name__)
LONGEST = 16
"""Cuts in a chain before the next one is full, so that a restore reads few files."""


@dataclass(frozen=True)
class Snapshot:
    """A restored snapshot: cuts in order, and what the shard wrote beside them."""

    deltas: list[StateDelta]
    facts: Mapping[str, Any]


class Snapshots:
    """Guarantee: a snapshot is complete before a checkpoint names it; one that is named is kept until two newer ones are.

    Its name is the checkpoint's number (epoch << 32 | sequence), so a fenced owner never writes over its successor's.
    """

    def __init__(self, lake: Lake, pipeline: str, shard: int) -> None:
        self._files = lake.files
        self._folder = names.snapshot_folder(pipeline, shard)
        self._chain: list[int] = []
        self._sizes: list[int] = []
        self._previous: set[int] = set()
        self._left: set[int] = set()

    @property
    def full_next(self) -> bool:
        """Whether the next cut should be full: none yet, a long chain, or changes that outweigh the whole."""
        return not self._chain or len(self._chain) >= LONGEST or sum(self._sizes[1:]) > self._sizes[0]

    def write(self, name: int, delta: StateDelta, facts: Mapping[str, Any]) -> int:
        """Store a cut under a checkpoint's name. Returns its bytes."""
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
        write(
            self._files, self.path(name, "manifest.json"), orjson.dumps(manifest)
        )  # last: it makes the rest a snapshot
        whole = self._whole(chain)
        self._previous, self._chain, self._sizes = previous, chain, sizes  # only now: one that fails is written again
        if not whole:
            log.error("%s: snapshots were deleted; the next one holds the whole state", self._folder)
            self._chain = []
        return self._sizes[-1]

    def _whole(self, chain: Sequence[int]) -> bool:
        """Whether what the newest snapshot builds on is still there: its oldest cut, and the one before."""
        ends = [self.path(link, "manifest.json") for link in (chain[0], chain[max(len(chain) - 2, 0)])]
        return all(info.type == fs.FileType.File for info in self._files.get_file_info(ends))

    def read(self, name: int) -> Snapshot:
        """The snapshot of a checkpoint, with those before it that it builds on.

        Raises:
            SnapshotLost: it is not there, or a part of it is.
        """
        try:
            manifest = self.manifest(name)
            deltas = [self._delta(link) for link in manifest["chain"]]
        except (FileNotFoundError, ValueError, SafetensorError) as reason:  # not: a lake that does not answer
            got = " ".join(str(reason).split())
            raise SnapshotLost(
                f"snapshot {name} in {self._folder}: expected the one that the last checkpoint names, got {got}; "
                "restore the lake's _state folder from a backup, or start over with `--on-gap skip`"
            ) from reason
        self._chain, self._sizes = list(manifest["chain"]), list(manifest["sizes"])
        return Snapshot(deltas, manifest["facts"])

    def drop_before(self, name: int) -> int:
        """Delete what neither snapshot `name` nor the one before it needs; newer ones are a successor's.

        A snapshot that can't be deleted takes room and does no other harm, so it is logged and left; the next owner tries again.
        What is no snapshot (`.nfs...`, `lost+found`) stays.

        Returns:
            How many could not be deleted, each counted once.
        """
        needed, left = self._previous | set(self._chain), 0
        try:
            there = self._files.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        except (OSError, ValueError) as reason:
            log.warning("%s: old snapshots could not be listed, so they stay: %s", self._folder, reason)
            return 1
        for info in there:
            if not re.fullmatch(r"[0-9]+", info.base_name) or info.type != fs.FileType.Directory:
                continue
            if (old := int(info.base_name)) >= name or old in needed or old in self._left:
                continue
            try:
                self._files.delete_dir(info.path)
            except FileNotFoundError:
                continue  # an owner before us deletes them, too
            except (OSError, ValueError) as reason:
                log.warning("%s: this old snapshot could not be deleted, so it stays: %s", info.path, reason)
                self._left.add(old)
                left += 1
        return left

    def _delta(self, name: int) -> StateDelta:
        manifest = self.manifest(name)
        cells = load_tensors(read(self._files, self.path(name, "cells.safetensors")))
        waiting = {}
        for stage in manifest["waiting"]:
            tensors = load_tensors(read(self._files, self.path(name, f"{plain(stage)}.safetensors")))
            slots = tensors.pop("\0slots")
            waiting[stage] = Rows(self.table(name, f"{plain(stage)}.arrow"), slots, tensors)
        freed = cells.pop("\0freed")
        return StateDelta(manifest["full"], self.table(name, "keys.arrow"), freed, cells, waiting, manifest["state"])

    def manifest(self, name: int) -> dict[str, Any]:
        """What one cut says of itself."""
        return orjson.loads(read(self._files, self.path(name, "manifest.json")))

    def table(self, name: int, file: str) -> pa.RecordBatch:
        """One of a cut's tables."""
        content = read(self._files, self.path(name, file))
        try:
            return pa.ipc.open_stream(content).read_next_batch()
        except (OSError, StopIteration) as reason:  # cut short
            raise ValueError(f"{file} of {len(content)} bytes: {reason!r}") from reason

    def path(self, name: int, file: str) -> str:
        """Where one of a cut's files lies in the lake."""
        return posixpath.join(self._folder, str(name), file)


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def plain(stage: str) -> str:
    """A store's name as its files have it."""
    return stage.replace("/", "-")
