"""Dead letters: records that cannot be processed, with the reason and the original's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Lost

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.records import Readable

MESSAGE_LIMIT = 1000  # the most characters of a reason in a header
REASON, KEPT = "__connect.errors.", "tocsin-dead-"
"""Prefixes of a dead letter's own headers: of the reason, and of where the original is if it is too large for the letter."""
TIMESTAMP, ROW, NULL_HEADERS = "tocsin-timestamp", "tocsin-row", "tocsin-null-headers"
GAP, OVERLOAD, READ = "takeover", "overload", "read"
GAPS = (GAP, OVERLOAD, READ)
"""Stages of letters without an original. Each stands for records that were never processed: lost before recovery, skipped to
reduce the lag, or damaged in the log."""
TOO_LATE = "TooLate"
"""Error of a row that comes after its place in the order has been passed."""


@dataclass(frozen=True)
class Refusal:
    """A row, or a message with many such rows, that a stage cannot process. The shard fetches the original for the dead letter."""

    partition: int
    offset: int
    row: int | None
    stage: str
    error: str
    message: str


@dataclass(frozen=True)
class DeadLetter:
    """A record, or one row of a record, that cannot be processed, with the reason.

    Args:
        topic, partition, offset: where the record was read.
        row: row in a many-row message; None for the whole message.
        stage: where it failed: "decode", "sorted", ...
        error: class name of the reason, such as "BadValue" or "TooLate".
        message: the reason, without the position, such as "expected 21 sensors, got 20".
        timestamp: Kafka's, ms since 1970 UTC; -1 if unknown.
        key, value, headers: the original's, unchanged.
        kept: headers that locate the original if it is too large for the dead letter.
    """

    topic: str
    partition: int
    offset: int
    row: int | None
    stage: str
    error: str
    message: str
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    kept: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, record: Readable, *, stage: str, error: str, message: str, row: int | None = None) -> DeadLetter:
        """The dead letter of a consumed record, or of one row of it."""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            row=row,
            stage=stage,
            error=error,
            message=message,
            timestamp=record.timestamp,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )

    @classmethod
    def of_none(cls, topic: str, partition: int, offset: int, *, stage: str, error: str, message: str) -> DeadLetter:
        """A letter without an original; it stands for the records from `offset` on that were never read."""
        return cls(topic, partition, offset, None, stage, error, message, 0, None, None, ())

    @classmethod
    def gap(cls, lost: Lost, topic: str, partition: int, offset: int, *, stage: str) -> DeadLetter:
        """A letter without an original; it stands for the records from `offset` on that are lost."""
        return cls.of_none(topic, partition, offset, stage=stage, error=type(lost).__name__, message=str(lost))

    @classmethod
    def read(cls, record: Readable) -> DeadLetter:
        """Parse a published dead letter. Its own headers come last, whatever names the original's headers have."""
        own_starts = [i for i, (name, _) in enumerate(record.headers) if name == f"{REASON}topic"]
        cut = own_starts[-1] if own_starts else len(record.headers)
        own_headers = {name: value for name, value in record.headers[cut:] if value is not None}
        text = {name: value.decode("utf-8", "replace") for name, value in own_headers.items()}
        null = {int(i) for i in text.get(NULL_HEADERS, "").split(",") if i}
        headers = record.headers[:cut]
        return cls(
            topic=text.get(f"{REASON}topic", ""),
            partition=int(text.get(f"{REASON}partition", -1)),
            offset=int(text.get(f"{REASON}offset", -1)),
            row=int(text[ROW]) if ROW in text else None,
            stage=text.get(f"{REASON}stage", ""),
            error=text.get(f"{REASON}exception.class.name", ""),
            message=text.get(f"{REASON}exception.message", ""),
            timestamp=int(text.get(TIMESTAMP, -1)),
            key=record.key,
            value=record.value,
            headers=tuple((name, None if i in null else value) for i, (name, value) in enumerate(headers)),
            kept=tuple((name, value) for name, value in own_headers.items() if name.startswith(KEPT)),
        )

    @property
    def size(self) -> int:
        """Bytes of the original's value, wherever it is stored."""
        return int(dict(self.kept).get(f"{KEPT}size", b"") or len(self.value or b""))

    @property
    def destination(self) -> str:
        """The dead-letter topic of the original's topic."""
        return names.dead_letter_topic(self.topic)

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.topic}[{self.partition}]@{self.offset}{row}: {self.message}; sent to {self.destination}"

    def headers_out(self) -> list[tuple[str, bytes]]:
        """The original's headers, then the reason under Kafka Connect's names. The last header of a name counts.

        The original's timestamp is a header: as the record's own timestamp it could make retention delete the record at once.
        Another header lists which of the original's headers are null, since the client does not write null headers.
        """
        reason: dict[str, str] = {
            f"{REASON}topic": self.topic,
            f"{REASON}partition": str(self.partition),
            f"{REASON}offset": str(self.offset),
            f"{REASON}stage": self.stage,
            f"{REASON}exception.class.name": self.error,
            f"{REASON}exception.message": self.message[:MESSAGE_LIMIT],
            TIMESTAMP: str(self.timestamp),
        }
        if self.row is not None:
            reason[ROW] = str(self.row)
        if null := [str(i) for i, (_, value) in enumerate(self.headers) if value is None]:
            reason[NULL_HEADERS] = ",".join(null)
        own_headers = [(name, text.encode("utf-8", "replace")) for name, text in reason.items()]
        return [*((name, value or b"") for name, value in self.headers), *own_headers, *self.kept]
