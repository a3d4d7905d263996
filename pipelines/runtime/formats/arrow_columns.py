"""Columns of Arrow messages: which types a field accepts, and which values fit the field."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tocsin.pipelines.runtime.declare.fields import EXACT, PER_MS, unit_meant
from tocsin.pipelines.runtime.formats.rows import show


def holds(expected: pa.DataType, got: pa.DataType) -> bool:
    """Whether a field accepts a column of type `got`, dictionary-encoded or not; single values may still not fit."""
    types, got = pa.types, got.value_type if pa.types.is_dictionary(got) else got
    if types.is_floating(expected) or types.is_integer(expected):
        fits = types.is_floating(got) or types.is_integer(got) or types.is_decimal(got)
    elif types.is_string(expected):
        fits = is_text(got)
    elif types.is_timestamp(expected):
        fits = types.is_timestamp(got) and got.tz is not None
    else:
        fits = got.equals(expected)
    return fits or types.is_null(got)


def accepted(expected: pa.DataType) -> str:
    """What to send for a field, in words."""
    types = pa.types
    if types.is_floating(expected):
        return "any integer, float or decimal type"
    if types.is_integer(expected):
        return "any integer type, or whole numbers as floats or decimals"
    if types.is_string(expected):
        return "string, large_string or string_view, dictionary-encoded or not"
    if types.is_timestamp(expected):
        return "a timestamp of any unit with a time zone, such as timestamp[ms, tz=UTC]"
    return str(expected)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is UTF-8 text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def text_bytes(column: pa.Array) -> int:
    """Bytes of a column's text once each row has its own copy; rows of views and dictionaries share text."""
    if not pa.types.is_dictionary(column.type):
        return int(pl.Series(column).str.len_bytes().sum())
    lengths = pl.Series(column.dictionary).str.len_bytes().to_arrow()
    return pc.sum(lengths.take(column.indices)).as_py() or 0


def joined(column: pa.ChunkedArray) -> pa.Array:
    """A column in one chunk, each row with its own value."""
    if pa.types.is_dictionary(column.type):  # each chunk may have its own dictionary
        return pa.concat_arrays([_decoded(piece) for piece in column.chunks])
    return column.combine_chunks()


def _decoded(column: pa.DictionaryArray) -> pa.Array:
    """Each row's own value. Arrow's `take` does not support views, so they become strings first."""
    values = column.dictionary
    return (values.cast(pa.large_string()) if pa.types.is_string_view(values.type) else values).take(column.indices)


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in a field's type; only digits finer than the field's unit of time are cut off.

    Raises:
        pa.ArrowException: a value does not fit.
    """
    if pa.types.is_integer(kind) and pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        largest = pc.max(pc.abs(column)).as_py()
        if largest is not None and largest >= EXACT:
            raise pa.ArrowInvalid(f"{largest:.0f} may have been rounded")
    return column.cast(options=pc.CastOptions(kind, allow_time_truncate=True))


def misfits(column: pa.Array, kind: pa.DataType, limit: int) -> list[int]:
    """Rows whose value does not fit a field; the search stops once it has found more than `limit`."""
    found, pending = list[int](), [(0, len(column))]
    while pending and len(found) <= limit:
        start, end = pending.pop()
        try:
            cast(column.slice(start, end - start), kind)
        except pa.ArrowException:
            middle = (start + end) // 2
            if middle == start:
                found.append(start)
            else:
                pending += [(middle, end), (start, middle)]
    return found


def describe(value: pa.Scalar, kind: pa.DataType) -> str:
    """A value that does not fit, as error messages show it, with a hint at the likely mistake."""
    if pa.types.is_timestamp(value.type):  # as a number: Python cannot represent all of them
        number = value.cast(pa.int64()).as_py()
        ms = number * 1000 if value.type.unit == "s" else number // PER_MS[value.type.unit]
        return f"{number} {value.type.unit} since 1970{unit_meant(ms)}"
    shown = show(value.as_py())
    if pa.types.is_integer(kind) and pa.types.is_floating(value.type) and abs(value.as_py()) >= EXACT:
        return f"{shown}: floats are rounded from 2**53 on; send integers"
    return shown
