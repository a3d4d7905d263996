"""Arrow IPC messages, many rows a message."""

import struct
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.pipelines.runtime.formats.arrow_columns import (
    accepted,
    cast,
    describe,
    holds,
    is_text,
    joined,
    misfits,
    text_bytes,
)
from tocsin.pipelines.runtime.formats.message import MAX_BAD_ROWS, MessageFormat
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema

_EOS = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class Arrow(MessageFormat):
    """One Arrow IPC stream a value."""

    media_type = "application/vnd.apache.arrow.stream"
    aliases = ("application/x-apache-arrow-stream",)

    def __init__(self, expected: RowSchema, max_rows: int) -> None:
        super().__init__(expected, max_rows)
        self._row_bytes = sum(4 if f.type == pa.string() else f.type.bit_width // 8 for f in expected.schema)
        self._checked: pa.Schema | None = None  # the last stream's schema; most streams have the same
        self._shared: list[int] = []  # indices of its columns whose rows may share text

    @classmethod
    def only(cls, value: bytes, row: int) -> bytes:
        """A stream with one row of another stream."""
        table = pa.ipc.open_stream(value).read_all().slice(row, 1).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    def read(self, values: Sequence[bytes | None], positions: Sequence[int], out: DecodedPoll) -> None:
        """Decode messages of one schema together."""
        messages = []
        for i in positions:
            try:
                messages.append((i, self._batches(values[i])))
            except RejectedError as rejected:
                out.rejected.append((i, None, rejected.alone()))
        for _, group in groupby(messages, key=lambda message: message[1][0].schema):
            self._align(list(group), out)

    def _batches(self, value: bytes | None) -> list[pa.RecordBatch]:
        """The batches of one stream, checked to be complete, valid and of bounded size."""
        content = self.expected.content(value)
        try:
            with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
                if stream.schema != self._checked:
                    self._check(stream.schema)
                    self._checked = stream.schema
                    self._shared = [
                        i for i, f in enumerate(stream.schema) if f.name in self.expected.names and _shares(f.type)
                    ]
                self._weigh(content)
                batches = list(stream)
            for batch in batches:
                batch.validate(full=True)
            batches = [batch for batch in batches if batch.num_rows]
        except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as why:
            reason = str(why).splitlines()[0] if str(why) else type(why).__name__
            raise RejectedError("Malformed", f"expected an Arrow IPC stream, got invalid bytes: {reason}") from None
        if not batches:
            raise RejectedError("EmptyValue", "expected rows, got an empty stream")
        text_size = sum(text_bytes(batch.column(i)) for i in self._shared for batch in batches)
        if text_size > self.expected.max_bytes:
            raise RejectedError(
                "TooLarge", f"expected at most {self.expected.max_bytes} bytes of strings, got {text_size}"
            )
        return batches

    def _check(self, schema: pa.Schema) -> None:
        """Raise unless rows of `schema` can be rows of the expected schema."""
        self.expected.check_names(schema.names)
        for f in self.expected.schema:
            found = schema.get_all_field_indices(f.name)
            if len(found) > 1:
                raise RejectedError("SchemaMismatch", f"expected each column once, got column {f.name} twice")
            if found and not holds(f.type, kind := schema.field(found[0]).type):
                message = f"column {f.name}: expected {f.type}, got {kind}; send {accepted(f.type)}"
                raise RejectedError("SchemaMismatch", message)

    def _weigh(self, content: bytes) -> None:
        """Raise, before decompressing, if a stream is truncated, has bytes after its end or would grow too large."""
        source = pa.BufferReader(content)
        messages = pa.ipc.MessageReader.open_stream(source)
        rows = size = 0
        messages.read_next_message()  # the schema
        for message in messages:
            more_rows, more_bytes = _decompressed_size(message)
            rows += more_rows
            size += more_bytes
        if source.tell() != len(content) or not content.endswith(_EOS):
            raise ValueError("no end-of-stream mark at the end; it is truncated or holds more than one stream")
        if rows > self.max_rows:
            raise RejectedError("TooLarge", f"expected at most {self.max_rows} rows, got {rows}")
        size = max(size, rows * self._row_bytes)  # columns of nulls, or missing ones, take no bytes before decoding
        if size > self.expected.max_bytes:
            raise RejectedError("TooLarge", f"expected at most {self.expected.max_bytes} bytes decoded, got {size}")

    def _align(self, messages: list[tuple[int, list[pa.RecordBatch]]], out: DecodedPoll) -> None:
        """Convert messages of one schema to the expected schema, and reject the rows that cannot be used."""
        table = pa.Table.from_batches([batch for _, batches in messages for batch in batches])
        unfit = dict[int, RejectedError]()
        try:
            columns = [
                self._column(table, i, unfit, alone=len(messages) == 1) for i in range(len(self.expected.schema))
            ]
        except (RejectedError, pa.ArrowException) as why:
            if len(messages) > 1:
                half = len(messages) // 2
                self._align(messages[:half], out)
                return self._align(messages[half:], out)
            reason = why if isinstance(why, RejectedError) else RejectedError("BadValue", str(why))
            out.rejected.append((messages[0][0], None, reason.alone()))
            return None
        lengths = np.array([sum(batch.num_rows for batch in batches) for _, batches in messages])
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(len(table)) - np.repeat(starts, lengths)
        columns = self.expected.without_nan(columns)
        bad = self.expected.unusable(columns)
        bad[list(unfit)] = True
        keep = ~bad
        for message in np.flatnonzero(np.add.reduceat(bad, starts, dtype=np.int64)).tolist():
            first, end = int(starts[message]), int(starts[message] + lengths[message])
            found = (np.flatnonzero(bad[first:end]) + first).tolist()
            reasons = [
                (int(rows[i]), unfit.get(i) or self.expected.reason(columns, i)) for i in found[: MAX_BAD_ROWS + 1]
            ]
            if len(found) > MAX_BAD_ROWS:
                keep[first:end] = False
                row, first_bad = reasons[0]
                prefix = "at least " if len(unfit) > MAX_BAD_ROWS else ""
                summary = (
                    f"{prefix}{len(found)} of {end - first} rows are bad; the first, row {row}: {first_bad.message}"
                )
                out.rejected.append((messages[message][0], None, RejectedError(first_bad.error, summary)))
            else:
                out.rejected.extend((messages[message][0], row, reason) for row, reason in reasons)
        positions = np.repeat([i for i, _ in messages], lengths)
        if not keep.all():
            positions, rows = positions[keep], rows[keep]
            columns = [column.filter(pa.array(keep)) for column in columns]
        out.pieces.append((positions, rows, columns))
        return None

    def _column(self, table: pa.Table, place: int, unfit: dict[int, RejectedError], *, alone: bool) -> pa.Array:
        """A column in the schema's type: null where a value does not fit, with the reason in `unfit`; all null if it is missing.

        Raises:
            pa.ArrowException: a value does not fit, and the table holds several messages.
            RejectedError: Arrow cannot convert the column's type to the schema's.
        """
        f, (name, _, _, description) = self.expected.schema.field(place), self.expected.fields[place]
        if name not in table.column_names:
            return pa.nulls(len(table), f.type)
        column = joined(table[name])
        try:
            return cast(column, f.type)
        except pa.ArrowNotImplementedError:
            message = f"column {name}: expected {f.type}, got {column.type}; send {accepted(f.type)}"
            raise RejectedError("SchemaMismatch", message) from None
        except pa.ArrowException:
            if not alone:
                raise
        rows = misfits(column, f.type, MAX_BAD_ROWS)
        for i in rows:
            unfit.setdefault(
                i, RejectedError("BadValue", f"{name}: expected {description}, got {describe(column[i], f.type)}")
            )
        if len(rows) > MAX_BAD_ROWS:  # the whole message is rejected anyway
            return pa.nulls(len(table), f.type)
        mask = np.zeros(len(column), bool)
        mask[rows] = True
        return cast(pc.if_else(pa.array(mask), pa.scalar(None, column.type), column), f.type)


def _shares(kind: pa.DataType) -> bool:
    """Whether rows of a column may share their text."""
    return pa.types.is_string_view(kind) or (pa.types.is_dictionary(kind) and is_text(kind.value_type))


def _decompressed_size(message: pa.ipc.Message) -> tuple[int, int]:
    """The rows and the decompressed bytes of a batch or a dictionary, read from its FlatBuffers metadata.

    Arrow itself would decompress first. In a compressed batch, each buffer starts with its decompressed size, -1 if it is not
    compressed. Layout: Arrow's `Message.fbs`.
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
            raise ValueError("incomplete metadata")
        return place + struct.unpack_from("<I", meta, place)[0]

    batch = follow(entry(struct.unpack_from("<I", meta)[0], 2))
    if message.type == "dictionary":
        batch = follow(entry(batch, 1))
    place = entry(batch, 0)
    rows = struct.unpack_from("<q", meta, place)[0] if place else 0
    if entry(batch, 3) is None:
        return rows, len(body)
    buffers = follow(entry(batch, 2))
    count = struct.unpack_from("<I", meta, buffers)[0]
    size = 0
    for offset, length in struct.iter_unpack("<qq", meta[buffers + 4 : buffers + 4 + 16 * count]):
        decompressed = struct.unpack_from("<q", body, offset)[0] if length else -1
        if decompressed < -1 or length < 0:
            raise ValueError("a buffer of negative size")
        size += length if decompressed == -1 else decompressed
    return rows, size
