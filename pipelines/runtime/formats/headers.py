"""Fields that are read from a record's headers, or from its value as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.fields import field_reader, unit_meant
from tocsin.pipelines.runtime.declare.records import Records
from tocsin.pipelines.runtime.formats.jpeg import PIXELS, WHOLE
from tocsin.pipelines.runtime.formats.rows import DecodedPoll, RejectedError, show

VALUE = "value"
_CONTENT = (None, PIXELS, WHOLE)
"""Sources of fields that the value's reader has already read."""
HEADER = "header:"


@dataclass(frozen=True)
class _HeaderField:
    """One field that is read from a header; `header` None: from the value itself."""

    field: pa.Field
    header: str | None
    read: Callable[[bytes], Any]
    expected: str

    def refused(self, content: bytes | None) -> RejectedError:
        """Why this content does not fit the field."""
        if content is None:
            return RejectedError("SchemaMismatch", f"missing header {self.header}")
        text = content.decode("utf-8", "backslashreplace")
        hint = unit_meant(text) if pa.types.is_timestamp(self.field.type) else ""
        return RejectedError("BadValue", f"{self.field.name}: expected {self.expected}, got {show(text)}{hint}")


class HeaderFields:
    """Adds the columns that are read from headers, or from the value as text, to rows that were read from values.

    Args:
        schema: the whole row's schema. Fields whose metadata has `from` are read here; the others are the value's own.

    Raises:
        ConfigError: a field has another source, or a type that cannot be read.
    """

    def __init__(self, topic: str, schema: pa.Schema) -> None:
        self._header_fields = [
            _header_field(topic, f, place) for f in schema if (place := source(f)) and place not in _CONTENT
        ]
        read = [f.name for f in schema if source(f) in _CONTENT] + [
            header_field.field.name for header_field in self._header_fields
        ]
        self._order = [read.index(name) for name in schema.names]

    def add(self, records: Records, out: DecodedPoll) -> None:
        """Insert the columns into each piece, in the schema's order. A record that lacks one is refused with all its rows."""
        if not out.pieces:
            return
        indices = np.unique(np.concatenate([positions for positions, _, _ in out.pieces]))
        values = [records.values[i] for i in indices.tolist()]
        headers = [{name.lower(): content for name, content in records.headers[i]} for i in indices.tolist()]
        columns, refused = [], dict[int, RejectedError]()
        for header_field in self._header_fields:
            found = (
                values
                if header_field.header is None
                else [header.get(header_field.header.lower()) for header in headers]
            )
            column = pa.array(
                [None if content is None else header_field.read(content) for content in found], header_field.field.type
            )
            for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                if found[i] is not None or not header_field.field.nullable:
                    refused.setdefault(i, header_field.refused(found[i]))
            columns.append(column)
        out.refuse({int(indices[i]): why for i, why in refused.items()})
        for n, (positions, rows, value_columns) in enumerate(out.pieces):
            at = pa.array(np.searchsorted(indices, positions))
            row = [*value_columns, *(column.take(at) for column in columns)]
            out.pieces[n] = (positions, rows, [row[i] for i in self._order])


def source(f: pa.Field) -> str | None:
    """The source that a field's metadata names; None: the field is one of the value's."""
    origin = (f.metadata or {}).get(b"from")
    return None if origin is None else origin.decode()


def _header_field(topic: str, f: pa.Field, place: str) -> _HeaderField:
    read, expected = field_reader(topic, f)
    if place.startswith(HEADER):
        return _HeaderField(f, place.removeprefix(HEADER), partial(_cell, read, f.type == pa.string()), expected)
    if place == VALUE and f.type == pa.string():
        return _HeaderField(f, None, partial(_cell, read, True), "text in UTF-8")
    raise ConfigError(
        f"{topic}: field {f.name} of type {f.type}: expected source 'header:<name>', or 'value' for a string, "
        f"got {place!r}"
    )


def _cell(read: Callable[[Any], Any], is_text: bool, content: bytes) -> Any:
    """The field's value from a header's bytes; None if they do not fit the field."""
    try:
        decoded = content.decode()
        parsed = decoded if is_text else orjson.loads(content)
    except UnicodeDecodeError:
        return None
    except orjson.JSONDecodeError:  # a time, which is written without quotes here
        parsed = decoded
    return read(decoded if type(parsed) is str else parsed)
