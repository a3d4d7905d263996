"""JSON messages, one object a message.

A value takes one of two paths to the same rows. The slow path reads each value with orjson; it decides every case and gives
the reasons. The fast path hands whole polls to Polars. It keeps only the rows for which it can prove, by counting colons and
quotes, that Polars read them as the slow path would; all others take the slow path. So the outcome of a record never depends
on the records that arrived with it.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tocsin.pipelines.runtime.declare.fields import END_MS, EXACT, FIRST_MS, PER_MS, RFC3339
from tocsin.pipelines.runtime.formats.message import MessageFormat
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, RowSchema, show

# A call to Polars costs as much as SLOW_ROWS values with orjson. After a failed call, halving pays above HALVED_ROWS.
SLOW_ROWS = 1024
HALVED_ROWS = 2048
# Fields outside the schema that the fast path reads, too, so that it can tell them from repeated ones.
MAX_UNKNOWN = 32

_TOKEN = re.compile(rb'("(?:[^"\\]++|\\.)*+")[ \t\r\n]*+(:?)|([\[{])|[\]}]')


class Json(MessageFormat):
    """One JSON object a value."""

    media_type = "application/json"
    aliases = ("text/json",)

    def __init__(self, expected: RowSchema, max_rows: int) -> None:
        super().__init__(expected, max_rows)
        self._times = {f.name: f.type.unit for f in self.expected.schema if pa.types.is_timestamp(f.type)}
        self._integers = {f.name: _polars_type(f.type) for f in self.expected.schema if pa.types.is_integer(f.type)}
        self._dtypes = {f.name: _polars_type(f.type) for f in self.expected.schema}

    @classmethod
    def only(cls, value: bytes, row: int) -> bytes:
        """The object itself, since it is one row."""
        return value

    def read(self, values: Sequence[bytes | None], positions: Sequence[int], out: DecodedPoll) -> None:
        """Read values that look like one object on one line together, and the rest one by one."""
        fast = [
            i
            for i in positions
            if (value := values[i])
            and value[0] == 123  # {
            and value[-1] == 125  # }
            and b"\n" not in value
            and len(value) <= self.expected.max_bytes
        ]
        self._read_lines(values, np.array(fast, np.int64), out)
        if len(fast) < len(positions):
            self._read_each(values, np.setdiff1d(positions, fast, assume_unique=True), out)

    def _read_lines(self, values: Sequence[bytes | None], positions: NDArray[np.int64], out: DecodedPoll) -> None:
        """Read many objects at once. Halve them if Polars fails, since it does not report which object it failed on."""
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

        is_certain = _as_written(frame, lines)
        read = [_time(frame, name, unit) for name, unit in self._times.items()]
        read += [_whole(name, kind) for name, kind in self._integers.items() if frame.schema[name] != kind]
        converted = frame.select(read)
        for column in converted:
            is_certain &= (column.is_null() == frame[column.name].is_null()).to_numpy()
        table = frame.with_columns(converted).select(self.expected.schema.names).to_arrow()
        columns = [table[f.name].combine_chunks().cast(f.type, safe=False) for f in self.expected.schema]
        is_certain &= ~self.expected.unusable(columns)
        if not is_certain.all():
            self._read_each(values, positions[~is_certain], out)
            positions, keep = positions[is_certain], pa.array(is_certain)
            columns = [column.filter(keep) for column in columns]
        out.pieces.append((positions, np.zeros_like(positions), columns))
        return None

    def _sniff(self, value: bytes | None) -> dict[str, pl.DataType]:
        """The types to ask Polars for if all objects are like this one. A wrong guess only costs time."""
        dtypes = dict(self._dtypes)
        with suppress(orjson.JSONDecodeError):
            first = orjson.loads(value or b"")
            dtypes.update({name: pl.Int64() for name in self._times if type(first.get(name)) is int})
            integers = (*self._times, *self._integers)
            dtypes.update({name: pl.Float64() for name in integers if type(first.get(name)) is float})
            if not self.expected.refuses_unknown and len(first) <= len(dtypes) + MAX_UNKNOWN:
                scalars = {str: pl.String(), int: pl.Float64(), float: pl.Float64(), bool: pl.Boolean()}
                others = [(name, scalars.get(type(content))) for name, content in first.items() if name not in dtypes]
                dtypes.update({name: dtype for name, dtype in others if dtype is not None})
        return dtypes

    def _read_each(self, values: Sequence[bytes | None], positions: NDArray[np.int64], out: DecodedPoll) -> None:
        """Read objects one by one: the slow path, which gives the reasons."""
        objects = _accepted(self._object, {i: values[i] for i in positions.tolist()}, out)
        if (columns := self.expected.columns_of([*objects.values()])) is not None:
            self._add_columns(objects, columns, out)
        elif rows := _accepted(self.expected.row, objects, out):
            self._add_columns(rows, self.expected.columns([*rows.values()]), out)

    @staticmethod
    def _add_columns(positions: Collection[int], columns: list[pa.Array], out: DecodedPoll) -> None:
        out.pieces.append((np.array([*positions], np.int64), np.zeros(len(positions), np.int64), columns))

    def _object(self, value: bytes | None) -> dict[str, Any]:
        """One JSON object."""
        content = self.expected.content(value)
        try:
            found = orjson.loads(content)
        except orjson.JSONDecodeError as why:
            raise RejectedError("Malformed", f"expected one JSON object, got bytes that are not JSON: {why}") from None
        if type(found) is not dict:
            raise RejectedError("Malformed", f"expected one JSON object, got {show(found)}")
        if (repeated := _repeated(content, found)) is not None:
            raise RejectedError("SchemaMismatch", f"expected each field once, got field {repeated} twice")
        return found


def _accepted(read: Callable[[Any], Any], contents: Mapping[int, Any], out: DecodedPoll) -> dict[int, Any]:
    """What `read` makes of the content at each position; its rejections go to `out`."""
    found = dict[int, Any]()
    for i, content in contents.items():
        try:
            found[i] = read(content)
        except RejectedError as why:
            out.rejected.append((i, None, why.alone()))
    return found


def _repeated(content: bytes, found: dict[str, Any]) -> str | None:
    """The first repeated key of a JSON object, without nested ones; `found` is what orjson kept of the object."""
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


def _polars_type(kind: pa.DataType) -> pl.DataType:
    """The type that Polars reads a field as. A number too large for it makes Polars reject the whole poll."""
    if pa.types.is_timestamp(kind):
        return pl.String()
    if pa.types.is_floating(kind):
        return pl.Float64()
    return pl.Series(pa.array([], kind)).dtype


def _as_written(frame: pl.DataFrame, lines: bytes) -> NDArray[np.bool_]:
    """`[N] bool`: rows that Polars certainly read as the slow path would.

    Polars rejects wrong numbers and booleans. But it takes the first of a repeated key, drops fields that were not requested,
    and turns anything into a string. An object has at least as many colons as keys, and at most as many non-null cells as keys.
    If colons and cells are equal, each key occurs once, was requested and is not null. Colons inside strings are subtracted
    first. That requires text without escapes (no backslash) and a flat object (no other bracket). Such an object has two quotes
    a key and two a string, or fewer if something else became a string. These bounds have the same direction in every row, so if
    the sums over all rows agree, each row agrees.
    """
    text = np.frombuffer(lines, np.uint8)
    strings = pl.selectors.string()
    counts = frame.select(
        cells=pl.sum_horizontal(pl.all().is_not_null()),
        strings=pl.sum_horizontal(pl.lit(0), strings.is_not_null()),
        colons=pl.sum_horizontal(pl.lit(0), strings.str.count_matches(":", literal=True)),
    )
    cells, texts, inside = (column.to_numpy().astype(np.int64) for column in counts)

    def agree(count: Callable[[Any], Any], total: Callable[[Any], Any]) -> Any:
        is_certain = count(text == ord(":")) - total(inside) == total(cells)
        if pl.String in frame.dtypes:
            is_certain &= count((text == ord("{")) | (text == ord("[")) | (text == ord("\\"))) == total(
                np.ones_like(cells)
            )
            is_certain &= count(text == ord('"')) == 2 * (total(cells) + total(texts))
        return is_certain

    if agree(np.count_nonzero, np.sum):
        return np.ones(len(frame), bool)
    starts = np.concatenate(([0], np.flatnonzero(text == ord("\n")) + 1))
    return agree(lambda mask: np.add.reduceat(mask, starts, dtype=np.int64), lambda rows: rows)


def _time(frame: pl.DataFrame, name: str, unit: Literal["ms", "us", "ns"]) -> pl.Expr:
    """A column of times that was read as strings or numbers; null where a value is not a time."""
    column = pl.col(name)
    if frame.schema[name] == pl.String:
        is_time = column.str.contains(f"^{RFC3339}$")
        parsed = column.str.to_datetime("%+", time_unit=unit, time_zone="UTC", strict=False)
    else:
        is_time = column.is_between(FIRST_MS, END_MS, closed="left") & (column == column.floor())
        parsed = (column.cast(pl.Int64, strict=False) * PER_MS[unit]).cast(pl.Datetime(unit, "UTC"))
    return pl.when(is_time).then(parsed).alias(name)


def _whole(name: str, kind: pl.DataType) -> pl.Expr:
    """A column of integers that was read as floats; null where a value is not an integer or may have been rounded."""
    column = pl.col(name)
    is_exact = (column == column.floor()) & (column.abs() < EXACT)
    return pl.when(is_exact).then(column).cast(kind, strict=False).alias(name)
