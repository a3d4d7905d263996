"""The records of one poll, by column, whichever client read them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.trace import TRACEPARENT, Headers


class Record(NamedTuple):
    """One record as it is in the log. `timestamp`: Kafka's, ms since 1970 UTC; -1: none."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Readable(Protocol):
    """What `Record` and each client's own record have in common."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True)
class Records:
    """N records of one topic, sorted by partition, then offset.

    Args:
        partitions, offsets, timestamps: `[N]` int64.
        values, headers, keys: N each.
    """

    topic: str
    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]
    keys: Sequence[bytes | None]

    @classmethod
    def of(cls, records: Sequence[Readable]) -> Self:
        """The columns of records of one topic."""
        return cls(
            records[0].topic if records else "",
            np.array([record.partition for record in records], np.int64),
            np.array([record.offset for record in records], np.int64),
            np.array([record.timestamp for record in records], np.int64),
            [record.value for record in records],
            [record.headers for record in records],
            [record.key for record in records],
        )

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def header_sets(self) -> set[tuple[tuple[str, bytes | None], ...]]:
        """The headers that records have, each set of them once: most polls have a single one."""
        return set(map(tuple, self.headers))

    def __getitem__(self, i: int) -> Record:
        place = self.topic, int(self.partitions[i]), int(self.offsets[i]), int(self.timestamps[i])
        return Record(*place, self.keys[i], self.values[i], self.headers[i])


@dataclass(frozen=True)
class TracedPoll:
    """The records of a poll of which some came with a trace context, sorted by partition, then offset.

    Nothing is parsed or copied, since few records cause an alert.

    Args:
        partitions, offsets: `[N]` int64.
        headers: N.
        read_at: when they were read, ns since the epoch.
    """

    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    headers: Sequence[Headers]
    read_at: int

    @classmethod
    def of(cls, records: Records) -> Self | None:
        """The records of a poll; None: none came with a context."""
        if not any(name == TRACEPARENT for headers in records.header_sets for name, _ in headers):
            return None
        return cls(records.partitions, records.offsets, records.headers, time.time_ns())

    def find(self, partition: int, offset: int) -> Headers:
        """A record's headers; none if it is not of this poll."""
        start, stop = np.searchsorted(self.partitions, [partition, partition + 1])
        at = start + int(np.searchsorted(self.offsets[start:stop], offset))
        return self.headers[at] if at < stop and self.offsets[at] == offset else ()
