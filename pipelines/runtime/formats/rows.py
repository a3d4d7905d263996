"""What all message formats share: the row schema, rejections with their reasons, and the rows of a poll."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.fields import END_MS, FIRST_MS, PER_MS, field_reader, plain_type, unit_meant


class RejectedError(Exception):
    """The reason why a message, or a row of it, is rejected."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message if len(message) <= 300 else f"{message[:300]}..."

    def alone(self) -> Self:
        """This reason without the frames in which it was raised. They hold the poll, and the poll holds the reason."""
        self.__context__ = None
        return self.with_traceback(None)


@dataclass
class DecodedPoll:
    """The rows and rejections of a poll so far, in any order."""

    # Rows: their record's index in the poll, [N] int64; their index in the message, [N] int64; the schema's columns.
    pieces: list[tuple[NDArray[np.int64], NDArray[np.int64], list[pa.Array]]] = field(default_factory=list)
    # A record's index in the poll, the row (None: the whole record), the reason.
    rejected: list[tuple[int, int | None, RejectedError]] = field(default_factory=list)

    def refuse(self, rejections: Mapping[int, RejectedError]) -> None:
        """Reject whole records by their index in the poll, and remove their rows and rejections so far."""
        if not rejections:
            return
        self.rejected = [r for r in self.rejected if r[0] not in rejections] + [
            (i, None, why) for i, why in rejections.items()
        ]
        for n, (positions, rows, columns) in enumerate(self.pieces):
            if not (keep := ~np.isin(positions, list(rejections))).all():
                mask = pa.array(keep)
                self.pieces[n] = positions[keep], rows[keep], [column.filter(mask) for column in columns]


class RowSchema:
    """The schema that a row of any format must match."""

    def __init__(self, topic: str, schema: pa.Schema, unknown: str, max_bytes: int) -> None:
        self.schema = schema
        self.names = frozenset(schema.names)
        self.required = [f.name for f in schema if not f.nullable]
        self.fields = [(f.name, f.nullable, *field_reader(topic, f)) for f in schema]
        self._plain = [plain_type(f.type) for f in schema]
        self.refuses_unknown = unknown == "reject"
        self.max_bytes = max_bytes
        self._gaps = frozenset(f.name for f in schema if f.nullable and (f.metadata or {}).get(b"nan") == b"null")
        self._times = frozenset(f.name for f in schema if pa.types.is_timestamp(f.type))

    def content(self, value: bytes | None) -> bytes:
        """The value itself; raises if it is empty or too large."""
        if not value:
            got = "null, a tombstone" if value is None else "no bytes"
            raise RejectedError("EmptyValue", f"expected a value, got {got}")
        if len(value) > self.max_bytes:
            raise RejectedError("TooLarge", f"expected at most {self.max_bytes} bytes, got {len(value)}")
        return value

    def check_names(self, names: Collection[str]) -> None:
        """Raise unless the required fields, and no forbidden ones, are among `names`."""
        if missing := [name for name in self.required if name not in names]:
            required = len(self.required)
            got = f"(expected {required} fields, got {required - len(missing)})"
            raise RejectedError("SchemaMismatch", f"missing {listed(missing)} {got}")
        if self.refuses_unknown and (unknown := [name for name in names if name not in self.names]):
            raise RejectedError("SchemaMismatch", f"unknown {listed(unknown)}, expected only the schema's fields")

    def row(self, found: Mapping[str, Any]) -> list[Any]:
        """The cells of a row, from its fields by name, as parsed JSON.

        Raises:
            RejectedError: a field is missing or unknown, or does not fit the schema.
        """
        self.check_names(found.keys())
        cells = []
        for name, nullable, read, expected in self.fields:
            value = found.get(name)
            if name in self._gaps and type(value) is float and math.isnan(value):
                value = None
            cell = None if value is None else read(value)
            if cell is None and not (nullable and value is None):
                hint = unit_meant(value) if name in self._times else ""
                raise RejectedError("BadValue", f"{name}: expected {expected}, got {show(value)}{hint}")
            cells.append(cell)
        return cells

    def columns_of(self, found: Sequence[Mapping[str, Any]]) -> list[pa.Array] | None:
        """The columns of many rows, as `row` and `columns` give them, at a fraction of the cost; None if `row` might refuse one."""
        if self.refuses_unknown and not all(one.keys() <= self.names for one in found):
            return None
        columns = []
        for (name, nullable, read, _), plain in zip(self.fields, self._plain, strict=True):
            cells: list[Any] = [one.get(name) for one in found]
            # Numbers of one type fit if the smallest and the largest do.
            if {*map(type, cells)} != {plain} or None in (read(min(cells)), read(max(cells))):
                given, cells = cells, [None if c is None else read(c) for c in cells]
                if any(c is None and not (nullable and g is None) for c, g in zip(cells, given, strict=True)):
                    return None
            columns.append(cells)
        return [pa.array(c, f.type) for f, c in zip(self.schema, columns, strict=True)]

    def columns(self, rows: Sequence[Sequence[Any]]) -> list[pa.Array]:
        """The columns of rows of cells, see `row`."""
        return [pa.array(c, f.type) for f, c in zip(self.schema, zip(*rows, strict=True), strict=True)]

    def without_nan(self, columns: list[pa.Array]) -> list[pa.Array]:
        """The columns with null in place of NaN where the field says so."""
        if not self._gaps:
            return columns
        return [
            pc.if_else(pc.is_nan(column), None, column) if f.name in self._gaps else column
            for f, column in zip(self.schema, columns, strict=True)
        ]

    def unusable(self, columns: list[pa.Array]) -> NDArray[np.bool_]:
        """`[N] bool`: rows with a null in a required field, a NaN or an infinity, or a time out of range."""
        bad = np.zeros(len(columns[0]), bool)
        for f, column in zip(self.schema, columns, strict=True):
            if column.null_count and not f.nullable:
                bad |= column.is_null().to_numpy(zero_copy_only=False)
            if pa.types.is_floating(f.type):
                finite = pc.is_finite(column)
                if not pc.all(finite).as_py():
                    bad |= ~finite.fill_null(True).to_numpy(zero_copy_only=False)
            elif pa.types.is_timestamp(f.type):
                moments, per_ms = column.cast(pa.int64()), PER_MS[f.type.unit]
                ends = pc.min_max(moments).as_py()
                if ends["min"] is not None and not FIRST_MS * per_ms <= ends["min"] <= ends["max"] < END_MS * per_ms:
                    outside = pc.or_(pc.less(moments, FIRST_MS * per_ms), pc.greater_equal(moments, END_MS * per_ms))
                    bad |= outside.fill_null(False).to_numpy(zero_copy_only=False)
        return bad

    def reason(self, columns: list[pa.Array], row: int) -> RejectedError:
        """Why a row is `unusable`."""
        for (name, nullable, _, expected), column in zip(self.fields, columns, strict=True):
            cell = column[row]
            if not cell.is_valid:
                if not nullable:
                    return RejectedError("BadValue", f"{name}: expected {expected}, got null")
            elif pa.types.is_floating(column.type):
                if not math.isfinite(number := cell.as_py()):
                    return RejectedError("BadValue", f"{name}: expected {expected}, got {show(number)}")
            elif pa.types.is_timestamp(column.type):  # as a number: Python cannot represent all of them
                ms = cell.cast(pa.int64()).as_py() // PER_MS[column.type.unit]
                if not FIRST_MS <= ms < END_MS:
                    return RejectedError(
                        "BadValue", f"{name}: expected {expected}, got {ms} ms since 1970{unit_meant(ms)}"
                    )
        raise AssertionError(f"row {row} is usable")


def media_type(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The last `content-type` header, in lower case and without parameters; None: there is no such header."""
    content_types = [content for name, content in headers if content is not None and name.lower() == "content-type"]
    if not content_types:
        return None
    return content_types[-1].decode("utf-8", "replace").partition(";")[0].strip().lower()


def show(content: Any) -> str:
    """A value as error messages show it, truncated."""
    if content is None:
        return "null"
    if type(content) in (dict, list):
        return "an object" if type(content) is dict else "an array"
    text = repr(content)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(content).__name__})"


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
