"""The trace contexts of the records that a shard has read, for the alerts that their rows may still cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.records import TracedPoll
from tocsin.pipelines.runtime.declare.trace import TraceContext, unchecked

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.engine.machine import Machine
    from tocsin.pipelines.runtime.kafka.reader import Poll

FACT = "traces"
"""The fact of a snapshot that holds the contexts of its waiting rows; it is missing if there are none."""
FEW = 1024
"""So many records are kept without looking whether their rows still wait."""
MOST = 65_536
"""The most records with waiting rows whose contexts are kept."""
Unchecked = tuple[int, str, str]
"""When a record was read, ns since the epoch, and its headers `traceparent` and `tracestate`, which may not be valid."""
Held = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""See `State.held_records`."""


class RecordTrace(NamedTuple):
    """A record's trace context, and when the record was read, ns since the epoch."""

    context: TraceContext
    read_at: int


class RecordTraces:
    """The contexts of one shard, by partition and offset. Polls without any are not in it.

    A context is needed until its record has been processed and none of its rows waits in a stage. A snapshot keeps those of
    waiting rows, and all other records are read again, so an alert has its context whichever owner publishes it. If more than
    `MOST` records wait, the oldest lose theirs.

    Args:
        facts: of the snapshot that the shard's state is restored from.
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        self._polls = list[tuple[TracedPoll, Mapping[int, int]]]()  # with the offsets where they end
        self._waiting: dict[tuple[int, int], Unchecked] = {
            (partition, offset): (read_at, parent, state)
            for partition, offset, read_at, parent, state in (facts or {}).get(FACT, ())
        }
        self._needed = len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._polls or self._waiting)

    def add(self, poll: Poll) -> None:
        """Take up a poll."""
        if poll.traces:
            self._polls.append((poll.traces, poll.ends))

    def get(self, partition: int, offset: int) -> RecordTrace | None:
        """A record's context; None: it came without a valid one."""
        found = self._waiting.get((partition, offset))
        for traced, _ in self._polls if found is None else ():
            if headers := traced.find(partition, offset):
                found = traced.read_at, *unchecked(headers)
                break
        context = TraceContext.of(*found[1:]) if found else None
        return RecordTrace(context, found[0]) if found and context else None

    def prune(self, machine: Machine, positions: Mapping[int, int]) -> None:
        """Drop what is not needed any more.

        Args:
            positions: partition -> the next offset to process.
        """
        read = [(poll, all(positions.get(p, 0) >= end for p, end in poll[1].items())) for poll in self._polls]
        if not any(is_processed for _, is_processed in read):
            return
        held = machine.held_records()
        for (traced, _), is_processed in read:
            if is_processed:
                self._waiting |= _held(traced, held)
        self._polls = [poll for poll, is_processed in read if not is_processed]
        if len(self._waiting) >= max(2 * self._needed, FEW):
            self._keep(held)

    def facts(self, machine: Machine) -> dict[str, Any]:
        """The contexts of rows that wait, as a snapshot keeps them."""
        if not self:
            return {}
        held = machine.held_records()
        self._keep(held)
        for traced, _ in self._polls:  # a step may end within a poll
            self._waiting |= _held(traced, held)
        kept = [(*place, *found) for place, found in self._waiting.items()]
        return {FACT: kept} if kept else {}

    def _keep(self, held: Held) -> None:
        """Keep only the records with rows that wait, and of those the newest `MOST`."""
        partitions, offsets = np.array([*self._waiting], np.int64).reshape(-1, 2).T
        kept = [*compress(self._waiting.items(), _is_held(partitions, offsets, held))][-MOST:]
        self._waiting, self._needed = dict(kept), len(kept)


def divided(facts: Sequence[Mapping[str, Any]], shards: int) -> list[dict[str, Any]]:
    """The contexts in some shards' snapshots, for `shards` others: partition p belongs to p mod `shards`."""
    kept = [entry for one in facts for entry in one.get(FACT, ())]
    return [{FACT: [entry for entry in kept if entry[0] % shards == shard]} for shard in range(shards)]


def _held(traced: TracedPoll, held: Held) -> dict[tuple[int, int], Unchecked]:
    """A poll's records that came with a context and have rows that wait."""
    chosen = np.flatnonzero(_is_held(traced.partitions, traced.offsets, held))
    places = zip(traced.partitions[chosen].tolist(), traced.offsets[chosen].tolist(), strict=True)
    found = (unchecked(traced.headers[at]) for at in chosen.tolist())
    return {place: (traced.read_at, *texts) for place, texts in zip(places, found, strict=True) if texts[0]}


def _is_held(partitions: NDArray[np.int64], offsets: NDArray[np.int64], held: Held) -> NDArray[np.bool_]:
    """Which records have rows that wait, `[N]`."""
    found = np.zeros(len(partitions), bool)
    for held_partitions, held_offsets in held:
        for partition in np.unique(partitions).tolist():
            own = partitions == partition
            found[own] |= np.isin(offsets[own], held_offsets[held_partitions == partition])
    return found
