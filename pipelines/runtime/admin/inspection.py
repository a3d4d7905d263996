"""Reads an asset's state from the newest checkpoint's snapshot. No shard is asked or disturbed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl
from pyarrow import NativeFile
from safetensors.torch import load as load_tensors
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER
from tocsin.pipelines.runtime.declare.errors import ConfigError, SnapshotLost, TocsinError, Unavailable
from tocsin.pipelines.runtime.declare.stage import declared_state
from tocsin.pipelines.runtime.declare.stores import Ring
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.snapshots import Snapshots, plain
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.lake.table import checkpoint_of

NEAR = 3
CANDIDATES = 1000
"""Number of keys that are compared letter by letter with a key that is not found."""


@dataclass(frozen=True)
class Rule:
    """An alert rule's state for a key.

    Args:
        run: consecutive rows, up to the last one, for which the condition held; counted up to `hold`.
        raised_at: event time at which the rule last raised an alert, ms since the epoch; None: never.
    """

    firing: bool
    run: int
    hold: int
    raised_at: int | None


@dataclass(frozen=True)
class KeyState:
    """The state of one key in a checkpoint.

    Args:
        last_seen: ms since the epoch.
        cells: `<stage>/<name>` -> its value; None: not set yet.
        rings: `<stage>/<name>` -> its rows, oldest first, and its capacity in rows.
        waiting: `<stage>/<name>` -> rows that wait.
    """

    partition: int
    key: str
    last_seen: int
    checkpoint: int
    cells: Mapping[str, Any]
    rings: Mapping[str, tuple[pl.DataFrame, int]]
    rules: Mapping[str, Rule]
    waiting: Mapping[str, pl.DataFrame]


def key_state(
    lake: Lake, pipeline: str, key: str, *, shards: Sequence[int], partition: int | None = None
) -> list[KeyState]:
    """The state of a key, by partition. There is one partition unless the key's feeder splits it.

    Args:
        key: as text.
        shards: the shards whose snapshots to read.

    Raises:
        ConfigError: there is no such key.
        Unavailable: there is no checkpoint yet.
        SnapshotLost: the newest checkpoint's snapshot is missing.
    """
    in_partition = pl.col("partition") == partition if partition is not None else pl.lit(True)
    results = [result for shard in shards if (result := _read_shard(lake, pipeline, shard, key, in_partition))]
    if not results:
        raise Unavailable(
            f"state of {pipeline}: expected a checkpoint in {lake.place()}, got none; start it: `tocsin up {pipeline}`"
        )
    found = [memory for memories, _ in results for memory in memories]
    if not found:
        keys = pl.concat([keys for _, keys in results])
        where = f"state of {pipeline}" + ("" if partition is None else f", partition {partition}")
        nearest = ", ".join(_nearest(key, keys)) or "none"
        raise ConfigError(f"{where}: expected one of its {len(keys):,} keys, got {key!r}; the nearest: {nearest}")
    return sorted(found, key=lambda m: m.partition)


def _read_shard(
    lake: Lake, pipeline: str, shard: int, key: str, in_partition: pl.Expr
) -> tuple[list[KeyState], pl.DataFrame] | None:
    """The key's state in one shard, and all keys of the shard; None: the shard has no checkpoint yet."""
    checkpoint = checkpoint_of(lake, pipeline, shard)
    while checkpoint:
        try:
            index = _SnapshotIndex(lake, pipeline, shard, checkpoint)
            keys = index.keys.filter(in_partition)
            return [index.memory(p) for p in keys.filter(pl.col("key") == key).iter_rows(named=True)], keys.select(
                "key"
            )
        except FileNotFoundError as reason:
            previous, checkpoint = checkpoint, checkpoint_of(lake, pipeline, shard)
            # If the checkpoint has changed, the old snapshot was dropped after two newer ones landed: read the newest.
            if checkpoint == previous:
                raise SnapshotLost(
                    f"snapshot {checkpoint} of {pipeline}/{shard}: expected the one that the last checkpoint names, got "
                    f"{reason}; restore the lake's _state folder from a backup"
                ) from reason
    return None


class _SnapshotIndex:
    """One shard's newest snapshot: where each key's state lies in its chain of state deltas."""

    def __init__(self, lake: Lake, pipeline: str, shard: int, checkpoint: int) -> None:
        self._lake, self._checkpoint = lake, checkpoint
        self._snapshots = Snapshots(lake, pipeline, shard)
        self._manifest = self._snapshots.manifest(checkpoint)
        places = []
        for link in self._manifest["chain"]:
            with self._open(link, "cells.safetensors") as file:
                freed = load_tensors(_Tensors(file).pack(["\0freed"]))["\0freed"]
            delta = pl.DataFrame(self._snapshots.table(link, "keys.arrow")).with_row_index("row")
            places += [
                pl.DataFrame({"slot": freed.numpy()}),
                delta.with_columns(pl.col("key").cast(pl.String), link=pl.lit(link)),
            ]
        # The newest delta decides who owns a slot; older deltas may name a key that has left.
        self.keys = pl.concat(places, how="diagonal").unique("slot", keep="last").drop_nulls("key")

    def memory(self, place: Mapping[str, Any]) -> KeyState:
        """The state of the key at this place, a row of `keys`."""
        with self._open(place["link"], "cells.safetensors") as file:
            tensors = _Tensors(file)
            state = load_tensors(tensors.pack([n for n in tensors.names if "|" in n], place["row"]))
        rings, holds = self._declared()
        rules = {name.split("/", 1)[1].rsplit("/", 1)[0] for name in state if name.startswith("rules/")}
        stores = {name.rsplit("|", 1)[0] for name in state if not name.startswith("rules/")}
        ring_names = {store for store in stores if f"{store}|count" in state}
        return KeyState(
            partition=place["partition"],
            key=place["key"],
            last_seen=place["last_seen"],
            checkpoint=self._checkpoint,
            cells={store: _value(state[f"{store}|"]) for store in sorted(stores - ring_names)},
            rings={
                store: _rows(state[f"{store}|data"], int(state[f"{store}|count"]), rings.get(store, ()))
                for store in sorted(ring_names)
            },
            rules={name: _rule(state, f"rules/{name}", holds.get(name, 1)) for name in sorted(rules)},
            waiting=self._waiting(place["slot"]),
        )

    def _waiting(self, slot: int) -> dict[str, pl.DataFrame]:
        found = {}
        for store in self._manifest["waiting"]:
            with self._open(self._checkpoint, f"{plain(store)}.safetensors") as file:
                slots = load_tensors(_Tensors(file).pack(["\0slots"]))["\0slots"]
            rows = pl.DataFrame(self._snapshots.table(self._checkpoint, f"{plain(store)}.arrow"))
            if len(of_slot := rows.filter(pl.Series(slots.numpy()) == slot)):
                found[store] = of_slot
        return found

    def _declared(self) -> tuple[dict[str, Sequence[str]], dict[str, int]]:
        """The rings' columns and the rules' holds. Both are empty if the pipeline can't be built here any more."""
        try:
            pipeline = Plan.load(self._manifest["facts"]["plan"]).build(self._lake)
        except TocsinError:
            return {}, {}
        rings = {
            n: declared.columns for n, declared in declared_state(pipeline.stages).items() if isinstance(declared, Ring)
        }
        return rings, {rule.name: rule.hold for rule in pipeline.rules}

    def _open(self, link: int, file: str) -> NativeFile:
        return self._lake.files.open_input_file(self._snapshots.path(link, file))


class _Tensors:
    """Reads single rows of a safetensors file: a million windows are gigabytes, one key's are kilobytes."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        self._header: dict[str, Any] = orjson.loads(file.read(length))
        self._start = 8 + length

    @property
    def names(self) -> list[str]:
        """Names of its tensors."""
        return [name for name in self._header if name != "__metadata__"]

    def pack(self, names: Sequence[str], row: int | None = None) -> bytes:
        """A small safetensors file with these tensors, or with only one row of each if `row` is given."""
        header, content = {}, b""
        for name in names:
            shape, (begin, end) = self._header[name]["shape"], self._header[name]["data_offsets"]
            if row is not None:
                row_bytes = (end - begin) // shape[0]
                shape, begin, end = shape[1:], begin + row * row_bytes, begin + (row + 1) * row_bytes
            self._file.seek(self._start + begin)
            header[name] = {
                "dtype": self._header[name]["dtype"],
                "shape": shape,
                "data_offsets": [len(content), len(content) + end - begin],
            }
            content += self._file.read(end - begin)
        encoded = orjson.dumps(header)
        return len(encoded).to_bytes(8, "little") + encoded + content


def _value(tensor: Tensor) -> Any:
    value = tensor.tolist()
    return None if value == NEVER else value


def _rows(data: Tensor, count: int, columns: Sequence[str]) -> tuple[pl.DataFrame, int]:
    names = list(columns) or [str(i) for i in range(data.shape[1])]
    return pl.DataFrame(data[len(data) - count :].numpy(), schema=names), len(data)


def _rule(state: Mapping[str, Tensor], name: str, hold: int) -> Rule:
    firing, run, raised_at = (state[f"{name}/{part}|"].item() for part in ("firing", "run", "rung"))
    return Rule(bool(firing), int(run), hold, None if raised_at == NEVER else int(raised_at))


def _nearest(key: str, keys: pl.DataFrame) -> list[str]:
    """The keys most similar to one. Only those that share the most letters at either end are compared letter by letter."""
    ends = [pl.col("key").str.starts_with(key[:n]) for n in range(1, len(key) + 1)]
    ends += [pl.col("key").str.ends_with(key[-n:]) for n in range(1, len(key) + 1)]
    candidates = keys.top_k(CANDIDATES, by=pl.sum_horizontal(ends)) if ends else keys.head(0)
    return difflib.get_close_matches(key, candidates["key"].to_list(), n=NEAR, cutoff=0.3)
