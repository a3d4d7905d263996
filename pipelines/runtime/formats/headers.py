"""Fields that are read from a record's headers, or from its value as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.fields import field_reader, unit_meant
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
    wanted: str

    def refused(self, content: bytes | None) -> RejectedError:
        """Why this content does not fit the field."""
        if content is None:
            return RejectedError("SchemaMismatch", f"missing header {self.header}")
        text = content.decode("utf-8", "backslashreplace")
        hint = unit_meant(text) if pa.types.is_timestamp(self.field.type) else ""
        return RejectedError("BadValue", f"{self.field.name}: expected {self.wanted}, got {show(text)}{hint}")


class HeaderFields:
    """Adds the columns that are read from headers, or from the value as text, to rows that were read from values.

    Args:
        schema: the whole row's schema. Fields whose metadata has `from` are read here; the others are the value's own.

    Raises:
        ConfigError: a field has another source, or a type that cannot be read.
    """

    def __init__(self, topic: str, schema: pa.Schema) -> None:
        self._facts = [_header_field(topic, f, place) for f in schema if (place := source(f)) and place not in _CONTENT]
        read = [f.name for f in schema if source(f) in _CONTENT] + [fact.field.name for fact in self._facts]
        self._order = [read.index(name) for name in schema.names]

    def add(self, records: Sequence[ConsumerRecord], out: DecodedPoll) -> None:
        """Insert the columns into each piece, in the schema's order. A record that lacks one is refused with all its rows."""
        if not out.pieces:
            return
        some = np.unique(np.concatenate([positions for positions, _, _ in out.pieces]))
        values = [records[i].value for i in some.tolist()]
        headers = [{name.lower(): content for name, content in records[i].headers} for i in some.tolist()]
        columns, refused = [], dict[int, RejectedError]()
        for fact in self._facts:
            found = values if fact.header is None else [header.get(fact.header.lower()) for header in headers]
            column = pa.array([None if content is None else fact.read(content) for content in found], fact.field.type)
            for i in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                if found[i] is not None or not fact.field.nullable:
                    refused.setdefault(i, fact.refused(found[i]))
            columns.append(column)
        out.refuse({int(some[i]): why for i, why in refused.items()})
        for n, (positions, rows, own) in enumerate(out.pieces):
            at = pa.array(np.searchsorted(some, positions))
            row = [*own, *(column.take(at) for column in columns)]
            out.pieces[n] = (positions, rows, [row[i] for i in self._order])


def source(f: pa.Field) -> str | None:
    """The source that a field's metadata names; None: the field is one of the value's."""
    said = (f.metadata or {}).get(b"from")
    return None if said is None else said.decode()


def _header_field(topic: str, f: pa.Field, place: str) -> _HeaderField:
    read, wanted = field_reader(topic, f)
    if place.startswith(HEADER):
        return _HeaderField(f, place.removeprefix(HEADER), partial(_cell, read, f.type == pa.string()), wanted)
    if place == VALUE and f.type == pa.string():
        return _HeaderField(f, None, partial(_cell, read, True), "text in UTF-8")
    raise ConfigError(
        f"{topic}: field {f.name} of type {f.type}: expected source 'header:<name>', or 'value' for a string, "
        f"got {place!r}"
    )


def _cell(read: Callable[[Any], Any], text: bool, content: bytes) -> Any:
    """The field's value from a header's bytes; None if they do not fit the field."""
    try:
        written = content.decode()
        parsed = written if text else orjson.loads(content)
    except UnicodeDecodeError:
        return None
    except orjson.JSONDecodeError:  # a time, which is written without quotes here
        parsed = written
    return read(written if type(parsed) is str else parsed)
