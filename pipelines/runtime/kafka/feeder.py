"""Feeds tables to a Kafka topic as a live stream: recorded or simulated readings, at a chosen rate."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from threading import Event
from typing import Any, Literal, Self

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, for_code
from kafka.partitioner.default import murmur2
from kafka.producer.future import FutureRecordMetadata

from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.kafka.librdkafka import CLIENT

SLICE = 0.01  # s of JSON readings sent between two looks at the clock
SLICE_ROWS = 1000  # the most readings in such a slice
IN_FLIGHT = 16 << 20  # bytes not yet acknowledged; the client's own queue is unbounded
CONTENT_TYPE = {"json": b"application/json", "arrow": b"application/vnd.apache.arrow.stream", "jpeg": b"image/jpeg"}
JPEG = "jpeg"
"""The column that holds a frame's file."""
DEFAULTS = {
    "linger_ms": 5,
    "batch_size": 1 << 17,
    "bootstrap_timeout_ms": 10_000,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 30_000,
}


@dataclass(frozen=True, kw_only=True)
class FeedReport:
    """What a feed delivered.

    Attributes:
        messages, rows: acknowledged by the broker.
        seconds: from the first row to the last acknowledgement.
        behind: the most by which rows were sent later than the wanted rate asks, in s; 0 without a rate.
    """

    messages: int
    rows: int
    seconds: float
    behind: float


def feed(
    batches: Iterable[pa.RecordBatch | pl.DataFrame],
    *,
    kafka: Mapping[str, Any],
    topic: str,
    key: str,
    rate: float | None = None,
    format: Literal["json", "arrow", "jpeg"] = "json",
    rows_per_message: int = 1000,
    event_time: str | None = None,
    stop: Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> FeedReport:
    """Send every row to a topic. All rows of a key go to one partition, in order.

    The partition is Kafka's default for the key's text, in each format, so that other producers choose the same one. In JSON
    a message is one row under its key. In Arrow it is a stream of one batch, without a key, whose rows belong to one partition. As
    JPEG it is the row's column `jpeg`; the other columns are headers.

    Args:
        batches: consumed no faster than they are sent, so they may be endless.
        kafka: options of `KafkaProducer` (`bootstrap_servers`, `sasl_*`, `ssl_*`, ...); they override `DEFAULTS`.
        topic: must exist.
        key: column that decides the partition; no nulls.
        rate: rows/s, held by deadline: after a stall the feed catches up. None: as fast as the broker accepts them.
        format: `json`, `arrow`, which keeps the column types, or `jpeg`, for frames.
        rows_per_message: the most rows in an Arrow message; a message does not span batches.
        event_time: column to write the time of sending into (UTC, microseconds), added if missing.
        stop: when set, the feed ends early.
        progress: called with the number of rows sent so far, after every 10 ms of JSON and every Arrow message.

    Returns:
        What the broker has acknowledged.

    Raises:
        ConfigError: a batch lacks the key column, a key is null, JSON can't represent a value, or a message is too large.
        Unavailable: the broker does not answer, the topic is missing, or a message is not acknowledged.

    Guarantee:
        When it returns, each row sent is in the topic once. When it raises, the topic may hold a prefix of each partition's rows.
    """
    if rows_per_message < 1 or (rate is not None and rate <= 0):
        raise ConfigError(
            f"feed: expected positive numbers, got rate {rate} and rows_per_message {rows_per_message}; correct them"
        )
    options = {name: value for name, value in {**DEFAULTS, **kafka}.items() if name != CLIENT}  # feeding has one client
    where = f"topic {topic} at {options.get('bootstrap_servers', 'localhost')}"
    pace = _Pace(rate, stop or Event())
    with _errors(where):
        route = _Route(_partitions(options, topic, where))
        encode, pieces = _encoder(batches, format, key, rows_per_message, rate, route)
        with _SendWindow(options, topic, [("content-type", CONTENT_TYPE[format])]) as publisher:
            for piece in pace.due(pieces):
                for message in encode(_stamped(piece, event_time) if event_time else piece, key, route):
                    publisher.send(*message)
                if progress:
                    progress(pace.rows)
            publisher.settle()
            return pace.report(publisher.messages)


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Raise the producer's and the encoder's errors as ours."""
    try:
        yield
    except MessageSizeTooLargeError as error:
        raise ConfigError(f"{where}: {error}; lower rows_per_message, or raise the limits on message size") from error
    except orjson.JSONEncodeError as error:
        raise ConfigError(
            f"{where}: expected values that JSON can represent, got: {error}; feed Arrow, or cast the column"
        ) from error
    except KafkaError as error:
        raise Unavailable(
            f"{where}: {error}; check that the broker is up, and check the topic and the options"
        ) from error


Header = tuple[str, bytes]
Message = tuple[bytes | None, bytes, int, Sequence[Header]]  # key, value, partition, headers beside the content type


class _Route(dict[Any, tuple[bytes, int]]):
    """Maps a key's value to the message key and the partition, as Kafka's default partitioner does."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def __missing__(self, value: Any) -> tuple[bytes, int]:
        text = str(value).encode()
        self[value] = text, (murmur2(text) & 0x7FFFFFFF) % self.partitions
        return self[value]


class _Pace:
    """Holds back pieces until they are due at a rate in rows/s; None: they are due at once."""

    def __init__(self, rate: float | None, stop: Event) -> None:
        self._rate, self._stop, self._start, self._behind = rate, stop, 0.0, 0.0
        self.rows = 0

    def due(self, pieces: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield each piece when its last reading is due, until `stop` is set."""
        self._start = time.monotonic()
        for piece in pieces:
            if self._rate is not None:
                due = self._start + (self.rows + len(piece)) / self._rate
                self._stop.wait(max(0, due - time.monotonic()))
                self._behind = max(self._behind, time.monotonic() - due)
            if self._stop.is_set():
                return
            self.rows += len(piece)
            yield piece

    def report(self, messages: int) -> FeedReport:
        """The report of what was sent until now."""
        seconds = time.monotonic() - self._start
        return FeedReport(messages=messages, rows=self.rows, seconds=seconds, behind=self._behind)


def _encoder(
    batches: Iterable[pa.RecordBatch | pl.DataFrame],
    format: str,
    key: str,
    rows_per_message: int,
    rate: float | None,
    route: _Route,
) -> tuple[Callable[[pa.RecordBatch, str, _Route], Iterable[Any]], Iterator[pa.RecordBatch]]:
    """How a piece becomes messages, and the pieces."""
    if format == "arrow":
        return _arrow, _parts(batches, key, rows_per_message, route)
    pieces = _slices(batches, key, int(min(SLICE_ROWS, SLICE * (rate or inf))))
    return (_json if format == "json" else _frames), pieces


class _SendWindow:
    """A producer that bounds the bytes in flight and loses no error."""

    def __init__(self, options: Mapping[str, Any], topic: str, headers: list[Header]) -> None:
        self.messages = 0
        self._topic, self._headers = topic, headers
        self._pending: deque[tuple[FutureRecordMetadata, int]] = deque()
        self._bytes = 0
        try:
            self._producer = KafkaProducer(**options)
        except ValueError as error:
            raise ConfigError(f"kafka: {error}; see kafka-python's KafkaProducer for its options") from error
        self._producer.partitions_for(topic)  # fetches metadata now, not when the first message is due

    def send(self, key: bytes | None, value: bytes, partition: int, headers: Sequence[Header]) -> None:
        """Queue a message; wait while too many bytes are in flight."""
        future = self._producer.send(self._topic, value, key, [*self._headers, *headers], partition)
        self._pending.append((future, len(value)))
        self._bytes += len(value)
        self.messages += 1
        while self._pending and (self._bytes > IN_FLIGHT or self._pending[0][0].is_done):
            self._take_oldest()

    def settle(self) -> None:
        """Wait until everything is acknowledged."""
        while self._pending:
            self._take_oldest()

    def _take_oldest(self) -> None:
        future, size = self._pending.popleft()
        future.get()
        self._bytes -= size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            self._producer._sender.force_close()  # close() alone waits for what is in flight, fails, and stays open
        with suppress(KafkaError):
            self._producer.close(timeout=5)


def _partitions(options: Mapping[str, Any], topic: str, where: str) -> int:
    # Do not ask the producer: kafka-python 3.0 loses allow_auto_create_topics, and would create the topic.
    known = {name: value for name, value in options.items() if name in KafkaAdminClient.DEFAULT_CONFIG}
    with KafkaAdminClient(**known) as admin:
        for _ in range(20):
            [found] = admin.describe_topics([topic])
            if not found["error_code"]:
                return len(found["partitions"])
            time.sleep(0.1)  # not every broker knows a new topic at once
    raise Unavailable(f"{where}: {for_code(found['error_code']).__name__}; create the topic, or correct its name")


def _batches(batches: Iterable[pa.RecordBatch | pl.DataFrame], key: str) -> Iterator[pa.RecordBatch]:
    for source in batches:
        table = source.to_arrow(compat_level=pl.CompatLevel.oldest()) if isinstance(source, pl.DataFrame) else source
        if key not in table.column_names:
            raise ConfigError(f"feed: expected key column {key!r}, got columns {table.column_names}; name one of these")
        for batch in table.to_batches() if isinstance(table, pa.Table) else [table]:
            if nulls := batch[key].null_count:
                raise ConfigError(
                    f"key column {key!r}: expected values, got null in {nulls} of {len(batch)} rows; fill or drop them"
                )
            yield batch


def _slices(batches: Iterable[pa.RecordBatch | pl.DataFrame], key: str, rows: int) -> Iterator[pa.RecordBatch]:
    rows = max(rows, 1)
    for batch in _batches(batches, key):
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def _parts(
    batches: Iterable[pa.RecordBatch | pl.DataFrame], key: str, rows: int, route: _Route
) -> Iterator[pa.RecordBatch]:
    """Split batches into parts of one partition and at most `rows` rows, nearly in the order of the rows."""
    for batch in _slices(batches, key, rows * route.partitions):
        partition = np.array([route[value][1] for value in batch[key].to_pylist()])
        for number in np.unique(partition):
            indices = np.flatnonzero(partition == number)
            for start in range(0, len(indices), rows):
                yield batch.take(
                    pl.Series(indices[start : start + rows]).to_arrow()
                )  # pa.array would import pandas, 1 s


def _json(batch: pa.RecordBatch, key: str, route: _Route) -> Iterator[Message]:
    for row in pl.DataFrame(batch).iter_rows(named=True):
        text, partition = route[row[key]]
        yield text, orjson.dumps(row), partition, ()


def _frames(batch: pa.RecordBatch, key: str, route: _Route) -> Iterator[Message]:
    if JPEG not in batch.schema.names:
        raise ConfigError(f"feed: expected a column {JPEG} with each frame's file, got {batch.schema.names}")
    for row in pl.DataFrame(batch).iter_rows(named=True):
        file, (text, partition) = row.pop(JPEG), route[row[key]]
        yield text, file, partition, [(name, _fact(value)) for name, value in row.items() if value is not None]


def _arrow(batch: pa.RecordBatch, key: str, route: _Route) -> Iterator[Message]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    yield None, sink.getvalue().to_pybytes(), route[batch[key][0].as_py()][1], ()


def _fact(value: Any) -> bytes:
    """A header's text: strings and times unquoted, numbers as in JSON."""
    return value.encode() if isinstance(value, str) else orjson.dumps(value).strip(b'"')


def _stamped(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    now = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), len(batch))
    if column in batch.schema.names:
        return batch.set_column(batch.schema.get_field_index(column), column, now)
    return batch.append_column(column, now)
