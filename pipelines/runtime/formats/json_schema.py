"""The JSON Schema (2020-12) of what the codec reads: of a JSON message, and of the headers that fields are read from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa

from tocsin.pipelines.runtime.declare.fields import END_MS, FIRST_MS, FLOAT32_LIMIT, RFC3339, integer_range
from tocsin.pipelines.runtime.formats.headers import HEADER, source

JsonSchema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
LIMITS = (
    "No name occurs twice in the object. A whole number from 2**53 on is written without a fraction or an exponent. "
    "A time as text names a day that exists and, in UTC, a year from 1700 to 2199."
)
"""What a reading must fulfil that a JSON Schema cannot express."""


def payload(
    schema: pa.Schema, *, unknown: Literal["ignore", "reject"], notes: Mapping[str, str] | None = None
) -> JsonSchema:
    """The schema of the object in a JSON message. Fields from headers are left out.

    Every message that the codec accepts is valid. A valid message that fulfils `LIMITS` is accepted.

    Args:
        schema: a pipeline's.
        unknown: what happens to other fields, see `Pipeline`.
        notes: descriptions of fields, by name.
    """
    fields = [f for f in schema if source(f) is None]
    return _object(fields, notes or {}) | {"additionalProperties": unknown == "ignore"}


def headers(schema: pa.Schema, notes: Mapping[str, str] | None = None) -> JsonSchema:
    """The schema of a message's headers: those that fields are read from. Other headers are ignored.

    A header's value is UTF-8 text: a string or a time as it is, a number or a boolean as JSON writes it.
    """
    fields = {place.removeprefix(HEADER): f for f in schema if (place := source(f) or "").startswith(HEADER)}
    descriptions = {header: (notes or {})[f.name] for header, f in fields.items() if f.name in (notes or {})}
    return _object([f.with_name(header) for header, f in fields.items()], descriptions)


def cell(kind: pa.DataType, *, nullable: bool) -> JsonSchema:
    """The schema of a field's value, as `field_reader` reads it.

    Raises:
        ValueError: no message can have a field of this type.
    """
    if pa.types.is_timestamp(kind):
        choices: list[JsonSchema] = [
            {"type": "string", "format": "date-time", "pattern": f"^{RFC3339}$"},
            {
                "type": "integer",
                "minimum": FIRST_MS,
                "maximum": END_MS - 1,
                "description": "milliseconds since 1970 UTC",
            },
        ]
        return {"anyOf": [*choices, {"type": "null"}] if nullable else choices}
    described = _scalar(kind)
    return {**described, "type": [described["type"], "null"]} if nullable else described


def _scalar(kind: pa.DataType) -> JsonSchema:
    if pa.types.is_integer(kind):
        values = integer_range(kind)
        return {"type": "integer", "minimum": values.start, "maximum": values.stop - 1}
    if kind == pa.float32():
        return {"type": "number", "exclusiveMinimum": -FLOAT32_LIMIT, "exclusiveMaximum": FLOAT32_LIMIT}
    if kind == pa.float64():
        return {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max}
    if kind == pa.string():
        return {"type": "string"}
    if kind == pa.bool_():
        return {"type": "boolean"}
    raise ValueError(f"expected a type that a message's field can have, got {kind}")


def _object(fields: Iterable[pa.Field], notes: Mapping[str, str]) -> JsonSchema:
    properties, required = dict[str, JsonSchema](), list[str]()
    for f in fields:
        note = {"description": notes[f.name]} if f.name in notes else {}
        properties[f.name] = cell(f.type, nullable=f.nullable) | note
        if not f.nullable:
            required.append(f.name)
    return {"type": "object", "properties": properties, "required": required}
