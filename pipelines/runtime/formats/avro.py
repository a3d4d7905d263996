"""Avro messages in Confluent's wire format: one record a message, its writer's schema in a registry."""

from __future__ import annotations

import io
import math
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from tocsin.pipelines.runtime.formats.registry_format import (
    Convert,
    Decode,
    Fields,
    Path,
    RegistryFormat,
    instant,
    unchanged,
)
from tocsin.pipelines.runtime.formats.rows import RejectedError, RowSchema, show
from tocsin.pipelines.runtime.formats.schema_registry import AVRO, RegisteredSchema

Node = dict[str, Any] | list[Any] | str
"""A schema or a part of one, as parsed JSON with full names."""
NUMBERS = ("int", "long", "float", "double")
PER_SECOND = {"timestamp-millis": 1_000, "timestamp-micros": 1_000_000, "timestamp-nanos": 1_000_000_000}
LOGICAL = {
    "decimal": ("bytes", "fixed"),
    "uuid": ("string", "fixed"),
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "duration": ("fixed",),
    **{f"{local}{name}": ("long",) for name in PER_SECOND for local in ("", "local-")},
}
"""Logical types, and the types that they are written as. On another type, or under another name, Avro ignores them."""
EPOCH = date(1970, 1, 1)
BROKEN = (EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError, struct.error)
"""What fastavro raises for bytes that are no record of a schema."""


class Avro(RegistryFormat):
    """One Avro record a value, with its schema's id.

    Fields are taken by name, those of a nested record as `record.field`. Numbers and decimals fit number fields; strings, enums,
    uuids and dates fit strings; `timestamp-millis`, `-micros` and `-nanos`, and what JSON accepts, fit times. A union of null and
    one of these is a nullable field, and a union of numbers is a number. Defaults of the writer's schema are not used: a field
    that the writer did not have is null.
    """

    media_type = "application/avro"
    aliases = ("avro/binary", "application/x-avro", "application/vnd.apache.avro")
    kind = AVRO
    package = ("fastavro", "fastavro")

    def decoder(self, schema: RegisteredSchema) -> Decode:
        """A decoder for records of one writer's schema."""
        return RecordDecoder(schema, self.expected)


class RecordDecoder:
    """Decodes records of one writer's schema into rows.

    Args:
        expected: what a row must be.

    Raises:
        RejectedError: the schema is no record's, or lacks a field, or a field has a type that does not fit.
    """

    def __init__(self, schema: RegisteredSchema, expected: RowSchema) -> None:
        from fastavro import schemaless_reader

        self._read, self._id = schemaless_reader, schema.id
        typed, named = _parsed(schema, plain=False)
        # fastavro's own conversion of logical types raises for times that Python's calendar lacks, and is slower.
        self._plain, _ = _parsed(schema, plain=True)
        if not isinstance(typed, dict) or typed.get("type") != "record":
            raise RejectedError("SchemaMismatch", f"schema {schema.id}: expected a record, got {_kind(typed)}")
        _check_finite(schema.id, typed, named, (), set())

        top = [field["name"] for field in typed["fields"]]
        fields = Fields(schema.id, expected, top, partial(_find, typed, named))
        self._fields = fields.converters(_converter, str)

    def __call__(self, body: bytes) -> Mapping[str, Any]:
        """The row of a record."""
        source = io.BytesIO(body)
        try:
            record = self._read(source, self._plain, None)
        except BROKEN as reason:
            text = "the bytes end inside it" if isinstance(reason, EOFError) else f"{type(reason).__name__}: {reason}"
            raise RejectedError(
                "Malformed", f"schema {self._id}: expected an Avro record, got other bytes: {text}"
            ) from None
        if rest := len(body) - source.tell():
            raise RejectedError("Malformed", f"schema {self._id}: expected one Avro record, got {rest} bytes after it")
        row = {}
        for name, path, convert in self._fields:
            value = record
            for step in path:
                value = None if value is None else value[step]
            row[name] = None if value is None else convert(value)
        return row


@dataclass(frozen=True)
class Union:
    """The types that a field's values may have besides null: mostly one."""

    branches: tuple[Node, ...]

    @classmethod
    def of(cls, node: Node, named: Mapping[str, Node]) -> Union:
        branches = node if isinstance(node, list) else [node]
        return cls(tuple(_resolved(branch, named) for branch in branches if branch != "null"))

    def __str__(self) -> str:
        return " or ".join(_logical(branch) or _kind(branch) for branch in self.branches) or "null"


def _parsed(schema: RegisteredSchema, *, plain: bool) -> tuple[Node, dict[str, Node]]:
    """A schema with full names, and all named types.

    Args:
        plain: leave out the logical types.
    """
    from fastavro.schema import SchemaParseException, UnknownType, parse_schema

    named, done = dict[str, Any](), set[int]()

    def parse(one: RegisteredSchema) -> Any:
        done.add(one.id)
        for reference in one.references.values():
            if reference.id not in done:  # several may refer to the same
                parse(reference)
        node = orjson.loads(one.text)
        return parse_schema(_without_logical(node) if plain else node, named)

    try:
        return parse(schema), named
    except (
        SchemaParseException,
        UnknownType,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as reason:
        text = f"{type(reason).__name__}: {reason}"
        raise RejectedError("SchemaMismatch", f"schema {schema.id}: expected an Avro schema, got {text}") from None


def _without_logical(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_logical(part) for name, part in node.items() if name != "logicalType"}
    return [_without_logical(part) for part in node] if isinstance(node, list) else node


def _resolved(node: Node, named: Mapping[str, Node]) -> Node:
    """The definition of a type that is given by its name."""
    return named.get(node, node) if isinstance(node, str) else node


def _find(record: dict[str, Any], named: Mapping[str, Node], path: Path) -> Union | None:
    """The types of the field at a path from a record; None: there is none."""
    step, *rest = path
    field = next((field for field in record["fields"] if field["name"] == step), None)
    found = field and Union.of(field["type"], named)
    if not found or not rest:
        return found
    inner = found.branches[0] if len(found.branches) == 1 else None
    return _find(inner, named, tuple(rest)) if isinstance(inner, dict) and _kind(inner) == "record" else None


def _kind(node: Node) -> str:
    """The name of a type without its parameters."""
    if isinstance(node, list):
        return "union"
    return str(node["type"]) if isinstance(node, dict) else node


def _logical(node: Node) -> str:
    """The logical type of a type; "": it has none that Avro knows."""
    name = str(node.get("logicalType", "")) if isinstance(node, dict) else ""
    return name if _kind(node) in LOGICAL.get(name, ()) else ""


def _check_finite(id: int, node: Node, named: Mapping[str, Node], inside: tuple[str, ...], checked: set[str]) -> None:
    """Refuse a schema by which few bytes could need any amount of memory.

    Those are types that contain themselves, and arrays whose items take no bytes.

    Args:
        inside: the records that the type is in.
        checked: names of records that have been checked.
    """
    node = _resolved(node, named)
    if isinstance(node, list):
        for branch in node:
            _check_finite(id, branch, named, inside, checked)
    elif isinstance(node, dict):
        if (kind := _kind(node)) == "record":
            if (name := node["name"]) in inside:
                raise RejectedError("SchemaMismatch", f"schema {id}: expected no type that contains itself, got {name}")
            if name in checked:
                return
            for field in node["fields"]:
                _check_finite(id, field["type"], named, (*inside, name), checked)
            checked.add(name)
        elif kind == "array" and _is_empty(node["items"], named):
            raise RejectedError(
                "SchemaMismatch", f"schema {id}: expected arrays whose items take bytes, got {show(node)}"
            )
        for part in ("items", "values"):
            if part in node:
                _check_finite(id, node[part], named, inside, checked)


def _is_empty(node: Node, named: Mapping[str, Node]) -> bool:
    """Whether a value of a type takes no bytes."""
    node = _resolved(node, named)
    if isinstance(node, dict) and _kind(node) == "record":
        return all(_is_empty(field["type"], named) for field in node["fields"])
    return _kind(node) == "null"


def _converter(field: pa.Field, kind: Union) -> Convert | None:
    """How values of a type become the field's; None: no value can."""
    is_text, is_time = field.type == pa.string(), pa.types.is_timestamp(field.type)
    is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    logical, kinds = [*map(_logical, kind.branches)], [*map(_kind, kind.branches)]
    if not any(logical) and {*kinds} <= {*NUMBERS} and (is_number or is_time or not kinds):
        return unchanged  # without a branch, the field is always null
    if len(kind.branches) > 1:
        return None
    match logical[0] or kinds[0]:
        case "decimal" if is_number and isinstance(kind.branches[0], dict):
            return Decimal(kind.branches[0].get("scale", 0))
        case name if name in PER_SECOND and is_time:
            return partial(instant, per_second=PER_SECOND[name])
        case "string" if is_text or is_time:
            return unchanged
        case "enum" if is_text:
            return unchanged
        case "uuid" if is_text:
            return unchanged if kinds[0] == "string" else _uuid
        case "date" if is_text:
            return _date
        case "boolean" if field.type == pa.bool_():
            return unchanged
    return None


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def _date(days: int) -> Any:
    """A date as text; the number itself if no calendar has it, which no field of text accepts."""
    try:
        return (EPOCH + timedelta(days=days)).isoformat()
    except OverflowError:
        return days


@dataclass(frozen=True)
class Decimal:
    """Converts a decimal, an unscaled integer in bytes, to a number."""

    scale: int

    def __call__(self, raw: bytes) -> int | float:
        unscaled, divisor = int.from_bytes(raw, "big", signed=True), 10**self.scale
        whole, rest = divmod(unscaled, divisor)
        if not rest:
            return whole
        try:
            return unscaled / divisor  # rounded once
        except OverflowError:
            return math.inf
