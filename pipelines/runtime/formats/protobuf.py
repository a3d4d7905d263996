"""Protobuf messages in Confluent's wire format: one message a value, its descriptors in a registry."""

from __future__ import annotations

import binascii
import importlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tocsin.pipelines.runtime.declare.errors import Refused
from tocsin.pipelines.runtime.formats.registry_format import (
    Convert,
    Decode,
    Fields,
    Path,
    RegistryFormat,
    instant,
    unchanged,
)
from tocsin.pipelines.runtime.formats.rows import RejectedError, RowSchema
from tocsin.pipelines.runtime.formats.schema_registry import PROTOBUF, RegisteredSchema

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message

NANOS = 1_000_000_000
WELL_KNOWN = "google/protobuf/"
TIMESTAMP, WRAPPERS = "google.protobuf.Timestamp", "google.protobuf.{}Value"
WRAPPED = {WRAPPERS.format(n) for n in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String")}
"""Messages that hold one value, so that it may be absent."""
MAX_INDEXES = 100
"""How deep the type of a message may be nested in others."""


class Protobuf(RegistryFormat):
    """One Protobuf message a value, with its schema's id and the message indexes of its type.

    Fields are taken by the names in the `.proto` file, those of a nested message as `message.field`. Numbers fit number fields;
    strings and enums, by their names, fit strings; `google.protobuf.Timestamp`, and what JSON accepts, fit times; the wrappers
    of `google/protobuf/wrappers.proto` fit as what they wrap. A field with presence that is absent is null; one without has its
    default.

    The registry has to return descriptors (`format=serialized`): Confluent Platform from 7.8 on, Redpanda from 25.2 on.
    """

    media_type = "application/protobuf"
    aliases = ("application/x-protobuf", "application/vnd.google.protobuf")
    kind = PROTOBUF
    package = ("google.protobuf", "protobuf")

    def decoder(self, schema: RegisteredSchema) -> Decode:
        """A decoder for messages of the types of one schema."""
        return FileDecoder(self.registry.schema(schema.id, serialized=True), self.expected)


class FileDecoder:
    """Decodes messages of any type of one `.proto` file into rows.

    Args:
        schema: its text is a `FileDescriptorProto` in base64.
        expected: what a row must be.

    Raises:
        RejectedError: the schema imports what it has no reference to, or its descriptors do not fit each other.
        Refused: the registry has returned something else.
    """

    def __init__(self, schema: RegisteredSchema, expected: RowSchema) -> None:
        from google.protobuf.descriptor_pool import DescriptorPool

        self._id, self._expected, self._pool = schema.id, expected, DescriptorPool()
        self._file = _add(self._pool, schema, f"schema-{schema.id}.proto", schema.id)
        self._decoders = dict[tuple[int, ...], MessageDecoder | RejectedError]()

    def __call__(self, body: bytes) -> Mapping[str, Any]:
        """The row of a message, which begins with its message indexes."""
        indexes, start = _message_indexes(body)
        if (found := self._decoders.get(indexes)) is None:
            try:
                found = MessageDecoder(self._id, self._descriptor(indexes), self._expected)
            except RejectedError as reason:
                found = reason.alone()
            self._decoders[indexes] = found
        if isinstance(found, RejectedError):
            raise RejectedError(found.error, found.message)
        return found(body[start:])

    def _descriptor(self, indexes: Sequence[int]) -> Descriptor:
        """The type at message indexes: that of a message in the file, then that of one inside it, and so on."""
        kinds: Sequence[DescriptorProto] = self._file.message_type
        name = self._file.package
        for index in indexes:
            if not 0 <= index < len(kinds):
                where = f"schema {self._id}: expected message indexes of a type in it"
                raise RejectedError("SchemaMismatch", f"{where}, got {list(indexes)}")
            name = f"{name}.{kinds[index].name}" if name else kinds[index].name
            kinds = [kind for kind in kinds[index].nested_type if not kind.options.map_entry]
        return self._pool.FindMessageTypeByName(name)


class MessageDecoder:
    """Decodes messages of one type into rows.

    Raises:
        RejectedError: the type lacks a field, or a field has a type that does not fit.
    """

    def __init__(self, id: int, kind: Descriptor, expected: RowSchema) -> None:
        from google.protobuf.message_factory import GetMessageClass

        self._id, self._name, self._made = id, kind.full_name, GetMessageClass(kind)

        def find(path: Path) -> FieldDescriptor | None:
            *_, last = _along(kind, path)
            return last

        fields = Fields(id, expected, [field.name for field in kind.fields], find)
        # Each step with whether its field may be absent.
        self._fields = [
            (name, [(field.name, field.has_presence) for field in _along(kind, path) if field], convert)
            for name, path, convert in fields.converters(_converter, _described)
        ]

    def __call__(self, body: bytes) -> Mapping[str, Any]:
        """The row of a message."""
        from google.protobuf.message import DecodeError

        try:
            message = self._made.FromString(body)
        except DecodeError as reason:
            where = f"schema {self._id}: expected a message {self._name}"
            raise RejectedError("Malformed", f"{where}, got other bytes: {reason}") from None
        return {name: _value(message, steps, convert) for name, steps, convert in self._fields}


def _value(message: Message, steps: Sequence[tuple[str, bool]], convert: Convert) -> Any:
    """A field's value; None if it, or a message that it is in, is absent."""
    found: Any = message
    for name, may_be_absent in steps:
        if may_be_absent and not found.HasField(name):
            return None
        found = getattr(found, name)
    return convert(found)


def _along(kind: Descriptor, path: Path) -> list[FieldDescriptor | None]:
    """The fields on a path; None where there is none."""
    found: list[FieldDescriptor | None] = []
    inner: Descriptor | None = kind
    for step in path:
        field = inner.fields_by_name.get(step) if inner else None
        found.append(field)
        inner = field.message_type if field and not field.is_repeated else None
    return found


def _converter(field: pa.Field, found: FieldDescriptor) -> Convert | None:
    """How values of a message's field become the row's; None: no value can."""
    if found.is_repeated:
        return None
    inner = found.message_type
    if inner is None:
        return _scalar(field, found)
    if inner.full_name == TIMESTAMP:
        return _moment if pa.types.is_timestamp(field.type) else None
    if inner.full_name in WRAPPED and (convert := _scalar(field, inner.fields_by_name["value"])):
        return lambda wrapper: convert(wrapper.value)
    return None


def _scalar(field: pa.Field, found: FieldDescriptor) -> Convert | None:
    """How a scalar becomes the field's; None: it cannot."""
    is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    is_time, is_text = pa.types.is_timestamp(field.type), field.type == pa.string()
    integers = (found.CPPTYPE_INT32, found.CPPTYPE_INT64, found.CPPTYPE_UINT32, found.CPPTYPE_UINT64)
    if found.cpp_type in (*integers, found.CPPTYPE_FLOAT, found.CPPTYPE_DOUBLE):
        return unchanged if is_number or is_time else None
    if found.type == found.TYPE_STRING:
        return unchanged if is_text or is_time else None
    if found.cpp_type == found.CPPTYPE_BOOL:
        return unchanged if field.type == pa.bool_() else None
    if found.cpp_type == found.CPPTYPE_ENUM and is_text:
        names = {number: value.name for number, value in found.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)  # a number without a name fits no text
    return None


def _moment(value: Any) -> int | str:
    if not 0 <= value.nanos < NANOS:
        return f"{value.seconds} s and {value.nanos} ns"  # no time, so the row is rejected
    return instant(value.seconds * NANOS + value.nanos, NANOS)


def _described(found: FieldDescriptor) -> str:
    kinds = {number: name for name, number in vars(type(found)).items() if name.startswith("TYPE_")}
    named = found.message_type or found.enum_type
    name = named.full_name if named else kinds.get(found.type, str(found.type)).removeprefix("TYPE_").lower()
    return f"repeated {name}" if found.is_repeated else name


def _message_indexes(body: bytes) -> tuple[tuple[int, ...], int]:
    """The message indexes, and where the message begins. A count of 0 stands for the first type."""
    count, at = _varint(body, 0)
    if not 0 <= count <= MAX_INDEXES:
        raise RejectedError("Malformed", f"expected 0 to {MAX_INDEXES} message indexes, got {count}")
    indexes = list[int]()
    for _ in range(count):
        index, at = _varint(body, at)
        indexes.append(index)
    return tuple(indexes) or (0,), at


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """A number in ZigZag encoding, and where it ends."""
    number = shift = 0
    while at < len(body) and shift < 35:
        number |= (body[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if body[at - 1] < 0x80:
            return number >> 1 ^ -(number & 1), at
    raise RejectedError("Malformed", "expected message indexes after the schema's id, got bytes that end inside them")


def _add(pool: DescriptorPool, schema: RegisteredSchema, name: str, id: int) -> FileDescriptorProto:
    """Add a schema and all that it imports to a pool, under the name by which it is imported.

    Args:
        id: of the schema that messages name, for errors.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError

    try:
        file = FileDescriptorProto.FromString(b64decode(schema.text, validate=True))
    except (DecodeError, binascii.Error, ValueError):
        raise Refused(
            f"schema registry: expected schema {schema.id} as descriptors (format=serialized), got text; use a registry that "
            "returns them, such as Confluent Platform from 7.8 on or Redpanda from 25.2 on"
        ) from None
    file.name = name
    for imported in file.dependency:
        if _is_known(pool, imported):
            continue
        if imported in schema.references:
            _add(pool, schema.references[imported], imported, id)
        else:
            _add_well_known(pool, imported, id)
    try:
        pool.AddSerializedFile(file.SerializeToString())
    except (TypeError, KeyError, ValueError) as reason:
        text = " ".join(str(reason).split())
        raise RejectedError(
            "SchemaMismatch", f"schema {id}: expected descriptors that fit each other, got {text}"
        ) from None
    return file


def _is_known(pool: DescriptorPool, file: str) -> bool:
    try:
        pool.FindFileByName(file)
    except KeyError:
        return False
    return True


def _add_well_known(pool: DescriptorPool, file: str, id: int) -> None:
    """Add one of Protobuf's own files, and what it imports."""
    try:
        if not file.startswith(WELL_KNOWN):
            raise ImportError(file)
        found = importlib.import_module(f"{file.removesuffix('.proto').replace('/', '.')}_pb2").DESCRIPTOR
    except ImportError:
        raise RejectedError(
            "SchemaMismatch",
            f"schema {id}: expected imports that the schema refers to or that come with Protobuf, got {file}; register a reference",
        ) from None
    for imported in found.dependencies:
        if not _is_known(pool, imported.name):
            _add_well_known(pool, imported.name, id)
    pool.AddSerializedFile(found.serialized_pb)
