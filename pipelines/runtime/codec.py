"""The codec: one Kafka poll in, one Arrow batch out; what can't be read becomes dead letters.

JSON takes one of two ways to the same rows. The slow one reads a value with orjson and decides everything: it has
the reasons. The fast one hands whole polls to Polars and keeps only the rows of which it can prove, by counting
colons and quotes, that Polars read them as the slow one would; all others take the slow one. So what becomes of a
record never depends on the records that arrived with it.
"""

import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from kafka.consumer.fetcher import ConsumerRecord
from numpy.typing import NDArray

from pipelines.runtime.deadletter import DeadLetter
from pipelines.runtime.errors import ConfigError

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"

IDENTITY = pa.schema(
    [
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_row", pa.int32(), nullable=False),
        pa.field("_timestamp", pa.timestamp("ms", tz="UTC")),
    ]
)

# A call to Polars costs as much as this many values with orjson, and a failed one as halving more than so many.
SLOW_ROWS = 32
HALVED_ROWS = 512
# Fields outside the schema that the fast way reads along, so that it can tell them from repeated ones.
MAX_UNKNOWN = 32
# More bad rows than this and the message is one dead letter: a million letters would not fit a transaction.
MAX_BAD_ROWS = 100

_RFC3339 = (
    r"((?:1[7-9]|2[01])[0-9]{2}-[0-9]{2}-[0-9]{2}[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]{1,9}))?(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_TIME = re.compile(_RFC3339)
_FIRST_MS = -8_520_336_000_000  # 1700-01-01: with the next, what both the pattern above and int64 nanoseconds hold
_END_MS = 7_258_118_400_000  # 2200-01-01
_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_TOKEN = re.compile(rb'("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+(:?)|([\[{])|[\]}]')
_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class _RejectedError(Exception):
    """Why a message, or a row of one, is no reading."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message if len(message) <= 300 else f"{message[:300]}..."


@dataclass
class _Decoded:
    """What a poll has given so far, in any order."""

    # Rows: their record's place in the poll [N] int64, their place in the message [N] int64, the schema's columns.
    pieces: list[tuple[NDArray[np.int64], NDArray[np.int64], list[pa.Array]]] = field(default_factory=list)
    # A record's place in the poll, the row (None: all of it), why.
    rejected: list[tuple[int, int | None, _RejectedError]] = field(default_factory=list)


class Codec:
    """Turns the records of one topic into Arrow batches.

    The header `content-type` says how a value is written: `application/json` (or none), one object, one row;
    `application/vnd.apache.arrow.stream`, an Arrow IPC stream, many rows. A record, or a row of a stream, that is not
    exactly a reading becomes a dead letter; nothing is guessed and nothing is dropped silently:

    - a field that is not nullable must be there and not null; no number may be NaN or infinite or out of range;
    - numbers, strings and booleans are not converted to each other (an integer is a number for a float field);
    - times are RFC 3339 strings with an offset (`2026-01-31T12:00:00.5+01:00`) or integers, milliseconds since
      1970 UTC, from 1700 to 2199; digits finer than the schema's unit are cut off;
    - a repeated key in an object, or a column twice in a stream, is refused: there is no telling which one counts;
    - a stream has all the schema's fields in any order and any width that holds the values, and ends with its end
      mark; with more than 100 bad rows it is refused as a whole.

    Args:
        topic: for messages.
        schema: a row's fields: float, double, integers, bool, string, `timestamp("ms"|"us"|"ns", "UTC")`.
        unknown: what to do about other fields: "ignore" or "reject".
        max_bytes: largest value, and largest stream once decompressed, bytes.
        max_rows: most rows in a stream.

    Raises:
        ConfigError: the schema has no fields, a field twice, one named as an identity column or of another type.
    """

    def __init__(
        self,
        *,
        topic: str,
        schema: pa.Schema,
        unknown: Literal["ignore", "reject"] = "ignore",
        max_bytes: int = 16 * 1024 * 1024,
        max_rows: int = 1_000_000,
    ) -> None:
        if not schema or len(set(schema.names) | set(IDENTITY.names)) < len(schema) + len(IDENTITY):
            raise ConfigError(
                f"{topic}: expected a schema of distinct fields, none of them {', '.join(IDENTITY.names)}, "
                f"got {schema.names}; rename the fields"
            )
        self.schema = schema
        self.batch_schema = pa.schema([*IDENTITY, *schema])
        self._unknown = unknown
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._names = frozenset(schema.names)
        self._required = [f.name for f in schema if not f.nullable]
        self._readers = [(f.name, f.nullable, *_reader(topic, f)) for f in schema]
        self._times = {f.name: f.type.unit for f in schema if pa.types.is_timestamp(f.type)}
        self._checked: pa.Schema | None = None  # the last stream's: most are alike
        self._dtypes = {f.name: _polars_type(f.type) for f in schema}

    def decode(self, records: Sequence[ConsumerRecord]) -> tuple[pa.RecordBatch, list[DeadLetter]]:
        """Decode what one poll returned.

        Args:
            records: of this topic, any partitions, with undecoded bytes as keys and values.

        Returns:
            A batch of `batch_schema` (identity columns, then the schema's) in the order of the records and of the
            rows inside them, and the dead letters in the same order. Its size is bounded by `max_bytes` a record.
        """
        values = [record.value for record in records]
        headers = [record.headers for record in records]
        others = {i: kind for i, h in enumerate(headers) if h and (kind := _content_type(h)) != JSON}
        everything = range(len(records))
        out = _Decoded()
        self._read_json(values, [i for i in everything if i not in others] if others else everything, out)
        self._read_streams(values, [i for i, kind in others.items() if kind == ARROW_STREAM], out)
        for i, kind in others.items():
            if kind != ARROW_STREAM:
                wrong = f"expected content-type {JSON} or {ARROW_STREAM}, got {_show(kind)}"
                out.rejected.append((i, None, _RejectedError("UnknownContentType", wrong)))
        out.rejected.sort(key=lambda rejected: rejected[0])
        letters = [
            DeadLetter.of(records[i], stage="decode", error=why.error, message=why.message, row=row)
            for i, row, why in out.rejected
        ]
        return self._batch(records, out), letters

    def _batch(self, records: Sequence[ConsumerRecord], out: _Decoded) -> pa.RecordBatch:
        """Put the pieces together and in order, and say where each row comes from."""
        if not out.pieces:
            return pa.record_batch([pa.array([], f.type) for f in self.batch_schema], schema=self.batch_schema)
        positions = np.concatenate([piece[0] for piece in out.pieces])
        rows = np.concatenate([piece[1] for piece in out.pieces])
        payload = out.pieces[0][2]
        if len(out.pieces) > 1:
            payload = [pa.concat_arrays(parts) for parts in zip(*(piece[2] for piece in out.pieces), strict=True)]
        times = np.array([record.timestamp for record in records], np.int64)[positions]
        identity = [
            np.array([record.partition for record in records], np.int32)[positions],
            np.array([record.offset for record in records], np.int64)[positions],
            rows.astype(np.int32),
            pa.array(times, IDENTITY.field("_timestamp").type, mask=times < 0),  # -1: unknown
        ]
        batch = pa.record_batch([*identity, *payload], schema=self.batch_schema)
        return batch if len(out.pieces) == 1 else batch.take(pa.array(np.argsort(positions, kind="stable")))

    # JSON

    def _read_json(self, values: Sequence[bytes | None], positions: Sequence[int], out: _Decoded) -> None:
        """Part what looks like one object on one line, which may go to Polars, from the rest."""
        fast = [
            i
            for i in positions
            if (value := values[i])
            and value[0] == 123  # {
            and value[-1] == 125  # }
            and b"\n" not in value
            and len(value) <= self._max_bytes
        ]
        slow = np.setdiff1d(positions, fast) if len(fast) < len(positions) else []
        self._read_lines(values, np.array(fast, np.int64), out)
        self._read_each(values, np.array(slow, np.int64), out)

    def _read_lines(self, values: Sequence[bytes | None], positions: NDArray[np.int64], out: _Decoded) -> None:
        """Read many objects at once; halve them where Polars refuses, since it does not say where."""
        if len(positions) <= SLOW_ROWS:
            return self._read_each(values, positions, out)
        lines = b"\n".join([values[i] for i in positions.tolist()])
        try:
            frame = pl.read_ndjson(lines, schema=self._sniff(values[positions[0]]))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            frame = None
        if frame is None or frame.height != len(positions):
            if len(positions) <= HALVED_ROWS:
                return self._read_each(values, positions, out)
            half = len(positions) // 2
            self._read_lines(values, positions[:half], out)
            self._read_lines(values, positions[half:], out)
            return None

        sure = _as_written(frame, lines)
        times = frame.select(_time(frame, name, unit) for name, unit in self._times.items())
        for time in times:
            sure &= (time.is_null() == frame[time.name].is_null()).to_numpy()
        table = frame.with_columns(times).select(self.schema.names).to_arrow()
        columns = [table[f.name].combine_chunks().cast(f.type, safe=False) for f in self.schema]
        sure &= ~self._unusable(columns)
        if not sure.all():
            self._read_each(values, positions[~sure], out)
            positions, keep = positions[sure], pa.array(sure)
            columns = [column.filter(keep) for column in columns]
        out.pieces.append((positions, np.zeros_like(positions), columns))
        return None

    def _sniff(self, value: bytes | None) -> dict[str, pl.DataType | type[pl.DataType]]:
        """What to ask Polars for, if all objects are made as this one: it only saves work when right."""
        dtypes = dict(self._dtypes)
        try:
            first = orjson.loads(value or b"")
        except orjson.JSONDecodeError:
            return dtypes
        dtypes.update({name: pl.Int64() for name in self._times if type(first.get(name)) is int})
        if self._unknown == "ignore" and len(first) <= len(dtypes) + MAX_UNKNOWN:
            scalars: dict[type, pl.DataType] = {
                str: pl.String(),
                int: pl.Float64(),
                float: pl.Float64(),
                bool: pl.Boolean(),
            }
            for name, content in first.items():
                if name not in dtypes and type(content) in scalars:
                    dtypes[name] = scalars[type(content)]
        return dtypes

    def _read_each(self, values: Sequence[bytes | None], positions: NDArray[np.int64], out: _Decoded) -> None:
        """Read objects one by one: the slow way, which knows the reasons."""
        rows, good = [], []
        for i in positions.tolist():
            try:
                rows.append(self._row(values[i]))
                good.append(i)
            except _RejectedError as why:
                out.rejected.append((i, None, why))
        if rows:
            columns = [pa.array(c, f.type) for f, c in zip(self.schema, zip(*rows, strict=True), strict=True)]
            out.pieces.append((np.array(good, np.int64), np.zeros(len(good), np.int64), columns))

    def _row(self, value: bytes | None) -> list[Any]:
        """The row of one JSON object."""
        content = self._content(value)
        try:
            found = orjson.loads(content)
        except orjson.JSONDecodeError as why:
            raise _RejectedError("Malformed", f"expected one JSON object, got bytes that are not JSON: {why}") from None
        if type(found) is not dict:
            raise _RejectedError("Malformed", f"expected one JSON object, got {_show(found)}")
        if (twice := _repeated(content, found)) is not None:
            raise _RejectedError("SchemaMismatch", f"field {twice} is there twice, expected every field once")
        if missing := [name for name in self._required if name not in found]:
            raise self._missing(missing)
        if self._unknown == "reject" and not found.keys() <= self._names:
            raise self._not_known([name for name in found if name not in self._names])
        row = []
        for name, nullable, read, wanted in self._readers:
            value_of = found.get(name)
            cell = None if value_of is None else read(value_of)
            if cell is None and not (nullable and value_of is None):
                raise _RejectedError("BadValue", f"{name}: expected {wanted}, got {_show(value_of)}")
            row.append(cell)
        return row

    def _content(self, value: bytes | None) -> bytes:
        if not value:
            got = "null, a tombstone" if value is None else "no bytes"
            raise _RejectedError("EmptyValue", f"expected a value, got {got}")
        if len(value) > self._max_bytes:
            raise _RejectedError("TooLarge", f"expected at most {self._max_bytes} bytes, got {len(value)}")
        return value

    def _missing(self, names: list[str]) -> _RejectedError:
        expected = len(self._required)
        return _RejectedError(
            "SchemaMismatch", f"missing {_list(names)} (expected {expected} fields, got {expected - len(names)})"
        )

    def _not_known(self, names: list[str]) -> _RejectedError:
        return _RejectedError(
            "SchemaMismatch",
            f"unknown {_list(names)} (expected at most {len(self.schema)} fields, none but the schema's)",
        )

    # Arrow

    def _read_streams(self, values: Sequence[bytes | None], positions: Sequence[int], out: _Decoded) -> None:
        messages = []
        for i in positions:
            try:
                messages.append((i, self._batches(values[i])))
            except _RejectedError as rejected:
                out.rejected.append((i, None, rejected))
        filled = [message for message in messages if message[1]]
        for _, alike in groupby(filled, key=lambda message: message[1][0].schema):
            self._align(list(alike), out)

    def _batches(self, value: bytes | None) -> list[pa.RecordBatch]:
        """The batches of one stream, known to be whole, sound and of bounded size."""
        content = self._content(value)
        try:
            with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
                if stream.schema != self._checked:
                    self._check(stream.schema)
                    self._checked = stream.schema
                self._weigh(content)
                batches = [batch for batch in stream if batch.num_rows]
            for batch in batches:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as why:
            reason = str(why).splitlines()[0] if str(why) else type(why).__name__
            raise _RejectedError(
                "Malformed", f"expected an Arrow IPC stream, got bytes that are none: {reason}"
            ) from None
        # A string view may show the same bytes in every row, and becomes as many copies.
        shown = sum(
            pl.Series(column).str.len_bytes().sum()
            for batch in batches
            for column in batch.columns
            if pa.types.is_string_view(column.type)
        )
        if shown > self._max_bytes:
            raise _RejectedError("TooLarge", f"expected at most {self._max_bytes} bytes of strings, got {shown}")
        return batches

    def _check(self, schema: pa.Schema) -> None:
        """Raise unless rows of `schema` can be rows of the codec's."""
        if missing := [name for name in self._required if name not in schema.names]:
            raise self._missing(missing)
        if self._unknown == "reject" and (others := [name for name in schema.names if name not in self._names]):
            raise self._not_known(others)
        for f in self.schema:
            found = schema.get_all_field_indices(f.name)
            if len(found) > 1:
                raise _RejectedError("SchemaMismatch", f"column {f.name} is there twice, expected every column once")
            if found and not _holds(f.type, schema.field(found[0]).type):
                got = schema.field(found[0]).type
                raise _RejectedError("SchemaMismatch", f"column {f.name}: expected {f.type}, got {got}")

    def _weigh(self, content: bytes) -> None:
        """Raise if a stream is cut short, has something after its end or would grow too large, before decompressing."""
        source = pa.BufferReader(content)
        messages = pa.ipc.MessageReader.open_stream(source)
        rows = size = 0
        messages.read_next_message()  # the schema
        for message in messages:
            if message.type != "record batch":
                raise ValueError(f"a message of type {message.type}")
            more_rows, more_bytes = _decompressed_size(message)
            rows += more_rows
            size += more_bytes
        if source.tell() != len(content) or not content.endswith(_EOS):
            raise ValueError("no end mark at the end; it is cut short, or is more than one stream")
        if rows > self._max_rows:
            raise _RejectedError("TooLarge", f"expected at most {self._max_rows} rows, got {rows}")
        if size > self._max_bytes:
            raise _RejectedError("TooLarge", f"expected at most {self._max_bytes} bytes decompressed, got {size}")

    def _align(self, messages: list[tuple[int, list[pa.RecordBatch]]], out: _Decoded) -> None:
        """Bring messages of one schema to the codec's, and part the rows that can't be used from the rest."""
        table = pa.Table.from_batches([batch for _, batches in messages for batch in batches])
        try:
            columns = [
                _cast(table[f.name].combine_chunks(), f.type)
                if f.name in table.column_names
                else pa.nulls(len(table), f.type)
                for f in self.schema
            ]
        except pa.ArrowException as why:
            if len(messages) > 1:
                half = len(messages) // 2
                self._align(messages[:half], out)
                return self._align(messages[half:], out)
            out.rejected.append((messages[0][0], None, _RejectedError("BadValue", str(why).splitlines()[0])))
            return None
        lengths = np.array([sum(batch.num_rows for batch in batches) for _, batches in messages])
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(len(table)) - np.repeat(starts, lengths)
        bad = self._unusable(columns)
        keep = ~bad
        for message in np.flatnonzero(np.add.reduceat(bad, starts, dtype=np.int64)).tolist():
            first, end = int(starts[message]), int(starts[message] + lengths[message])
            found = (np.flatnonzero(bad[first:end]) + first).tolist()
            reasons = [(int(rows[i]), self._reason(columns, i)) for i in found[: MAX_BAD_ROWS + 1]]
            if len(found) > MAX_BAD_ROWS:
                keep[first:end] = False
                row, first_bad = reasons[0]
                whole = f"{len(found)} of {end - first} rows are bad; the first, row {row}: {first_bad.message}"
                out.rejected.append((messages[message][0], None, _RejectedError(first_bad.error, whole)))
            else:
                out.rejected.extend((messages[message][0], row, reason) for row, reason in reasons)
        positions = np.repeat([i for i, _ in messages], lengths)
        if not keep.all():
            positions, rows = positions[keep], rows[keep]
            columns = [column.filter(pa.array(keep)) for column in columns]
        out.pieces.append((positions, rows, columns))
        return None

    # Both

    def _unusable(self, columns: list[pa.Array]) -> NDArray[np.bool_]:
        """`[N] bool`: rows with a null where there may be none, or with a NaN or an infinity."""
        bad = np.zeros(len(columns[0]), bool)
        for f, column in zip(self.schema, columns, strict=True):
            if column.null_count and not f.nullable:
                bad |= column.is_null().to_numpy(zero_copy_only=False)
            if pa.types.is_floating(f.type):
                finite = pc.is_finite(column)
                if not pc.all(finite).as_py():
                    bad |= ~finite.fill_null(True).to_numpy(zero_copy_only=False)
        return bad

    def _reason(self, columns: list[pa.Array], row: int) -> _RejectedError:
        """Why `_unusable` says so of a row."""
        for (name, nullable, _, wanted), column in zip(self._readers, columns, strict=True):
            cell = column[row].as_py()
            if (cell is None and not nullable) or (type(cell) is float and not np.isfinite(cell)):
                return _RejectedError("BadValue", f"{name}: expected {wanted}, got {_show(cell)}")
        raise AssertionError(f"row {row} is usable")


def _content_type(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """The media type that the last `content-type` header names; JSON without one."""
    named = [content for name, content in headers if content is not None and name.lower() == "content-type"]
    return named[-1].decode("utf-8", "replace").partition(";")[0].strip().lower() if named else JSON


def _show(content: Any) -> str:
    """A value as messages show it, cut to a bearable length."""
    if content is None:
        return "null"
    if type(content) in (dict, list):
        return "an object" if type(content) is dict else "an array"
    text = repr(content)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(content).__name__})"


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# JSON: the slow way


def _reader(topic: str, f: pa.Field) -> tuple[Callable[[Any], Any], str]:
    """A function from a parsed JSON value to the field's, None if it isn't one, and what it wants, in words."""
    kind = f.type
    if kind in (pa.float32(), pa.float64()):
        # From here on, rounding to 32 bits gives infinity.
        limit = 2.0**128 - 2.0**103 if kind == pa.float32() else math.inf
        number = f"a number that fits {kind}"
        return lambda c: float(c) if type(c) in (int, float) and -limit < c < limit else None, number
    if pa.types.is_integer(kind):
        low = -(2 ** (kind.bit_width - 1)) if pa.types.is_signed_integer(kind) else 0
        high = low + 2**kind.bit_width
        return lambda c: c if type(c) is int and low <= c < high else None, f"an integer that fits {kind}"
    if pa.types.is_timestamp(kind) and kind.unit in _PER_MS and kind.tz == "UTC":
        time = "an RFC 3339 time with an offset, or milliseconds since 1970, from 1700 to 2199"
        return lambda c: _instant(c, kind.unit), time
    if kind == pa.string():
        return lambda c: c if type(c) is str else None, "a string"
    if kind == pa.bool_():
        return lambda c: c if type(c) is bool else None, "true or false"
    raise ConfigError(
        f"{topic}: field {f.name} has type {kind}; use float, double, an integer, bool, string or "
        'timestamp("ms"|"us"|"ns", "UTC")'
    )


def _instant(content: Any, unit: str) -> int | None:
    """A time in `unit` since 1970 UTC, cut off downwards; None if it isn't one."""
    if type(content) is int and _FIRST_MS <= content < _END_MS:
        return content * _PER_MS[unit]
    if type(content) is str and (parts := _TIME.fullmatch(content)):
        clock, fraction, offset = parts.groups()
        with suppress(ValueError):  # there is no such day
            seconds = int(datetime.fromisoformat(clock + offset).timestamp())
            return (seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))) * _PER_MS[unit] // 1_000_000
    return None


def _repeated(content: bytes, found: dict[str, Any]) -> str | None:
    """The first key that is twice in a JSON object, not looking into nested ones; `found` is what orjson kept of it."""
    colons = content.count(b":")
    if colons == len(found):
        return None
    with suppress(orjson.JSONEncodeError):  # nested too deep to be written
        if b"\\" not in content and orjson.dumps(found).count(b":") == colons:
            return None
    depth, seen = 0, set()
    for token in _TOKEN.finditer(content):
        text, colon, opening = token.groups()
        if text is None:
            depth += 1 if opening else -1
        elif colon and depth == 1:
            key = orjson.loads(text)
            if key in seen:
                return key
            seen.add(key)
    return None


# JSON: the fast way


def _polars_type(kind: pa.DataType) -> pl.DataType:
    """What Polars reads a field as; a number too large for its type makes it refuse the poll."""
    if pa.types.is_timestamp(kind):
        return pl.String()
    if pa.types.is_floating(kind):
        return pl.Float64()
    return pl.Series(pa.array([], kind)).dtype


def _as_written(frame: pl.DataFrame, lines: bytes) -> NDArray[np.bool_]:
    """`[N] bool`: rows that Polars can't have read otherwise than the slow way reads them.

    Polars refuses wrong numbers and booleans, but takes the first of a repeated key, leaves out fields it was not
    asked for, and turns anything into a string. An object has at least as many colons as keys, and at most as many
    cells as keys; if colons and cells are equal, each key is there once, was asked for and is not null. With strings,
    the colons in their text do not count. That needs text as it was written (no backslash) and a flat object (no
    other bracket). Then there are two quotes a key and two a string, or fewer, if something else became a string.
    """
    text = np.frombuffer(lines, np.uint8)
    starts = np.concatenate(([0], np.flatnonzero(text == ord("\n")) + 1))

    def count(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.add.reduceat(mask, starts, dtype=np.int64)

    strings = pl.selectors.string()
    cells = frame.select(pl.sum_horizontal(pl.all().is_not_null())).to_series().to_numpy().astype(np.int64)
    colons = count(text == ord(":"))
    if not any(dtype == pl.String for dtype in frame.dtypes):
        return colons == cells
    inside = frame.select(
        colons=pl.sum_horizontal(strings.str.count_matches(":", literal=True)),
        strings=pl.sum_horizontal(strings.is_not_null()),
    )
    flat = count((text == ord("{")) | (text == ord("[")) | (text == ord("\\"))) == 1
    quotes = count(text == ord('"'))
    return (
        flat & (colons - inside["colons"].to_numpy() == cells) & (quotes == 2 * (cells + inside["strings"].to_numpy()))
    )


def _time(frame: pl.DataFrame, name: str, unit: Literal["ms", "us", "ns"]) -> pl.Expr:
    """A column of times, read as strings or as integers; null what is not one."""
    column = pl.col(name)
    if frame.schema[name] == pl.String:
        known = column.str.contains(f"^{_RFC3339}$")
        parsed = column.str.to_datetime("%+", time_unit=unit, time_zone="UTC", strict=False)
    else:
        known = column.is_between(_FIRST_MS, _END_MS, closed="left")
        parsed = (column * _PER_MS[unit]).cast(pl.Datetime(unit, "UTC"))
    return pl.when(known).then(parsed).alias(name)


# Arrow


def _holds(expected: pa.DataType, got: pa.DataType) -> bool:
    """Whether a column of type `got` can be cast without changing what it says; single values may still not fit."""
    types = pa.types
    if types.is_floating(expected):
        fits = types.is_floating(got) or types.is_integer(got)
    elif types.is_integer(expected):
        fits = types.is_integer(got)
    elif types.is_string(expected):
        fits = types.is_string(got) or types.is_large_string(got) or types.is_string_view(got)
    elif types.is_timestamp(expected):
        fits = types.is_timestamp(got) and got.tz is not None
    else:
        fits = got.equals(expected)
    return fits or types.is_null(got)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.cast(options=pc.CastOptions(kind, allow_time_truncate=True))


def _decompressed_size(message: pa.ipc.Message) -> tuple[int, int]:
    """Rows, and bytes once decompressed, of a record batch message, read from its FlatBuffers metadata.

    Arrow itself would decompress first. A compressed batch has the size of each buffer in front of it, -1 if that
    one is not compressed. Layout: Arrow's `Message.fbs`.
    """
    meta, body = memoryview(message.metadata), memoryview(message.body)

    def entry(table: int, index: int) -> int | None:
        vtable = table - struct.unpack_from("<i", meta, table)[0]
        place = 4 + 2 * index
        found = (
            struct.unpack_from("<H", meta, vtable + place)[0]
            if place < struct.unpack_from("<H", meta, vtable)[0]
            else 0
        )
        return table + found if found else None

    def follow(place: int | None) -> int:
        if place is None:
            raise ValueError("metadata without its parts")
        return place + struct.unpack_from("<I", meta, place)[0]

    batch = follow(entry(struct.unpack_from("<I", meta)[0], 2))
    place = entry(batch, 0)
    rows = struct.unpack_from("<q", meta, place)[0] if place else 0
    if entry(batch, 3) is None:
        return rows, len(body)
    buffers = follow(entry(batch, 2))
    count = struct.unpack_from("<I", meta, buffers)[0]
    size = 0
    for offset, length in struct.iter_unpack("<qq", meta[buffers + 4 : buffers + 4 + 16 * count]):
        own = struct.unpack_from("<q", body, offset)[0] if length else -1
        size += length if own == -1 else own
    return rows, size
