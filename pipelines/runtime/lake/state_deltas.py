"""Merges a chain of state deltas into one, and redistributes state to other shards, as plain data without any stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Rows, concat
from tocsin.pipelines.runtime.declare.state import StateDelta


def merged(chain: Sequence[StateDelta]) -> StateDelta:
    """Merge a full delta and those that follow it into one full delta."""
    first, last = chain[0], chain[-1]
    starts = np.cumsum([0, *(len(delta.keys) for delta in chain)])
    at = np.full(int(last.facts["capacity"]), -1)  # slot -> index of its newest content in the concatenated deltas
    for start, delta in zip(starts, chain, strict=False):
        at[delta.freed.numpy()] = -1
        at[delta.keys["slot"].to_numpy()] = start + np.arange(len(delta.keys))
    chosen = at[at >= 0]
    keys = _batch(pa.Table.from_batches([delta.keys for delta in chain]).take(chosen), first.keys.schema)
    no_slots = torch.zeros(0, dtype=torch.int64)
    return StateDelta(True, keys, no_slots, _cells(chain, torch.from_numpy(chosen)), last.waiting, last.facts)


def redistributed(deltas: Sequence[StateDelta], shards: int) -> list[StateDelta]:
    """Redistribute the state of some shards to `shards` others: partition p goes to p mod `shards`.

    Args:
        deltas: full ones of the same shape.

    Returns:
        Full deltas. A key keeps its tensors and its waiting rows, and gets another slot.
    """
    starts = np.cumsum([0, *(len(delta.keys) for delta in deltas)])
    keys = pa.Table.from_batches([delta.keys for delta in deltas])
    owner = keys["partition"].to_numpy() % shards
    at = np.empty(len(owner), np.int64)  # index of a key in the concatenated deltas -> its new slot
    waiting = {
        name: concat(
            [
                _moved(delta.waiting[name], delta, start)
                for start, delta in zip(starts, deltas, strict=False)
                if name in delta.waiting
            ]
        )
        for name in sorted({name for delta in deltas for name in delta.waiting})
    }
    redistributed_deltas = []
    for shard in range(shards):
        chosen = np.flatnonzero(owner == shard)
        at[chosen] = np.arange(len(chosen))
        shard_keys = keys.take(chosen).set_column(0, "slot", pa.array(at[chosen]))
        rows = {name: r.keep(torch.from_numpy(owner[r.slots.numpy()] == shard)) for name, r in waiting.items()}
        rows = {
            name: Rows(r.table, torch.from_numpy(at[r.slots.numpy()]), r.tensors) for name, r in rows.items() if len(r)
        }
        reached = {p: ms for delta in deltas for p, ms in delta.facts.get("reached", {}).items()}
        facts: dict[str, Any] = {
            **{name: min(delta.facts.get(name, 0) for delta in deltas) for name in ("next_sweep", "now", "ticked")},
            "reached": {p: ms for p, ms in reached.items() if int(p) % shards == shard},
            "leaving": sorted({key for delta in deltas for key in delta.facts.get("leaving", ())}),
            "capacity": len(chosen),
        }
        cells = _cells(deltas, torch.from_numpy(chosen))
        redistributed_deltas.append(
            StateDelta(
                True, _batch(shard_keys, deltas[0].keys.schema), torch.zeros(0, dtype=torch.int64), cells, rows, facts
            )
        )
    return redistributed_deltas


def _cells(deltas: Sequence[StateDelta], chosen: Tensor) -> dict[str, Tensor]:
    """Each cell's content at the indices `chosen` of the concatenated deltas."""
    return {
        name: torch.cat([delta.cells[name] for delta in deltas]).index_select(0, chosen) for name in deltas[0].cells
    }


def _moved(rows: Rows, delta: StateDelta, start: int) -> Rows:
    """The same rows, with each slot replaced by its key's index in the concatenated deltas."""
    at = np.empty(int(delta.facts["capacity"]), np.int64)
    at[delta.keys["slot"].to_numpy()] = start + np.arange(len(delta.keys))
    return Rows(rows.table, torch.from_numpy(at[rows.slots.numpy()]), rows.tensors)


def _batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
