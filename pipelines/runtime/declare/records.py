"""The records of one poll, by column, whichever client read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Headers = Sequence[tuple[str, bytes | None]]


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

    def __getitem__(self, i: int) -> Record:
        place = self.topic, int(self.partitions[i]), int(self.offsets[i]), int(self.timestamps[i])
        return Record(*place, self.keys[i], self.values[i], self.headers[i])
