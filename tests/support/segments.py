"""Apache Kafka's log files, for tests that damage record batches in them: the broker serves the files as they are."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tocsin.deploy.kafka.server import KafkaServer

BASE_OFFSET, LENGTH, MAGIC, CRC, LAST_RECORD = 7, 11, 16, 20, -1
"""Byte positions in a batch: low byte of its offset, low byte of its length, its format, its checksum, end of its last record."""


class Batch(NamedTuple):
    """A record batch in a file: bytes `start` to `end`, with the offsets `first` to `last`."""

    path: Path
    start: int
    end: int
    first: int
    last: int


def batches(kafka: KafkaServer, topic: str, partition: int = 0) -> Iterator[Batch]:
    """Yield the batches of a partition's only segment."""
    path = kafka.data / "records" / f"{topic}-{partition}" / f"{0:020}.log"
    content, start = path.read_bytes(), 0
    while start + 61 <= len(content):
        first, length, last = *struct.unpack_from(">qi", content, start), 23
        (last,) = struct.unpack_from(">i", content, start + last)
        yield Batch(path, start, start + 12 + length, first, first + last)
        start += 12 + length


def damage(kafka: KafkaServer, topic: str, offset: int, at: int = LAST_RECORD, *, partition: int = 0) -> Batch:
    """Flip bits of the batch that holds an offset, in its byte `at` (negative: from its end). Returns the batch."""
    (batch,) = (b for b in batches(kafka, topic, partition) if b.first <= offset <= b.last)
    place = (batch.end if at < 0 else batch.start) + at
    with batch.path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 0x5A]))
    return batch
