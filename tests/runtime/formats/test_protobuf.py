"""Protobuf messages with a schema registry: each type, each way in which a message or its schema does not fit, and outages."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.codec_samples import record
from tests.support.registry import Registry, framed, registry
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import Refused, Unavailable
from tocsin.pipelines.runtime.formats import schema_registry
from tocsin.pipelines.runtime.formats.codec import Codec

PROTOBUF = [("content-type", b"application/protobuf")]
TIME = pa.timestamp("us", "UTC")
FIRST = b"\0"
"""The message indexes of a file's first type."""
SCALARS = (
    *("double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
    *("fixed32", "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes"),
)
NOON = datetime(2026, 1, 31, 12, 0, 0, 250_001, UTC)


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "PAUSES_S", (0.0, 0.0))


def add_field(message: Any, name: str, kind: str, *, optional: bool = False, repeated: bool = False) -> None:
    """Add a field to a descriptor: a scalar, or `.package.Name` of a message; an enum's name ends with `!`."""
    number = len(message.field) + 1
    labels = (FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED)
    made = message.field.add(name=name, number=number, label=labels[repeated])
    if kind in SCALARS:
        made.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    else:
        made.type = FieldDescriptorProto.TYPE_ENUM if kind.endswith("!") else FieldDescriptorProto.TYPE_MESSAGE
        made.type_name = kind.removesuffix("!")
    if optional:
        made.proto3_optional, made.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")


def file_of(name: str = "plant.proto", **fields: str) -> FileDescriptorProto:
    """A file in proto3 with one message, `plant.Reading`."""
    file = FileDescriptorProto(name=name, package="plant", syntax="proto3")
    message = file.message_type.add(name="Reading")
    for field, kind in fields.items():
        add_field(message, field, kind)
    return file


def classes(file: FileDescriptorProto, *others: FileDescriptorProto) -> Any:
    """A function from a message's full name to its class."""
    pool = DescriptorPool()
    for own in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(own.DESCRIPTOR.serialized_pb)
    for one in (*others, file):
        pool.AddSerializedFile(one.SerializeToString())
    return lambda name: GetMessageClass(pool.FindMessageTypeByName(name))


def add(served: Registry, file: FileDescriptorProto, **more: Any) -> int:
    """Register a file."""
    descriptors = b64encode(file.SerializeToString()).decode()
    return served.add('syntax = "proto3"; // as text', "PROTOBUF", descriptors=descriptors, **more)


def read(
    served: Registry, values: list[bytes | None], schema: pa.Schema, **options: Any
) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
    """Decode messages. Returns the rows' own fields, and the dead letters."""
    codec = Codec(topic="plant", schema=schema, options=served.options(), **options)
    batch, letters = codec.decode([record(value, offset, PROTOBUF) for offset, value in enumerate(values)])
    return batch.select(schema.names).to_pylist(), letters


FIT: list[tuple[str, Any, pa.DataType, Any]] = [
    *((kind, 7, pa.int64(), 7) for kind in SCALARS[:12]),
    *((kind, -7, pa.int8(), -7) for kind in ("int32", "sint64", "sfixed32", "double")),
    ("uint64", 2**64 - 1, pa.uint64(), 2**64 - 1),
    ("double", 0.1, pa.float64(), 0.1),
    ("float", 1.5, pa.float32(), 1.5),
    ("int32", 7, pa.float64(), 7.0),
    ("bool", True, pa.bool_(), True),
    ("string", "ü", pa.string(), "ü"),
    ("string", "2026-01-31T12:00:00.250001Z", TIME, NOON),
    ("int64", 1_769_860_800_250, TIME, NOON.replace(microsecond=250_000)),
]


@pytest.mark.parametrize(("kind", "value", "column", "expected"), FIT, ids=[f"{k} {t}" for k, _, t, _ in FIT])
def test_a_scalar_of_each_type_is_read(
    served: Registry, kind: str, value: Any, column: pa.DataType, expected: Any
) -> None:
    file = file_of(v=kind)
    message = classes(file)("plant.Reading")(v=value)
    schema = pa.schema([pa.field("v", column, nullable=False)])
    rows, letters = read(served, [framed(add(served, file), FIRST + message.SerializeToString())], schema)
    assert (rows, letters) == ([{"v": expected}], [])


UNFIT = [
    ("string", pa.int64(), "an integer that fits int64, got string"),
    ("int32", pa.string(), "a string, got int32"),
    ("bytes", pa.string(), "a string, got bytes"),
    ("bool", pa.float64(), "a number that fits double, got bool"),
    ("uint64", pa.bool_(), "true or false, got uint64"),
    ("bool", TIME, "an RFC 3339 time with an offset"),
    (".google.protobuf.Timestamp", pa.int64(), "an integer that fits int64, got google.protobuf.Timestamp"),
    (".google.protobuf.StringValue", pa.int64(), "an integer that fits int64, got google.protobuf.StringValue"),
    (".plant.Reading", pa.int64(), "an integer that fits int64, got plant.Reading"),
]


@pytest.mark.parametrize(("kind", "column", "said"), UNFIT, ids=[f"{k} {t}" for k, t, _ in UNFIT])
def test_a_field_of_another_type_is_a_dead_letter_that_says_so(
    served: Registry, kind: str, column: pa.DataType, said: str
) -> None:
    file = file_of(v=kind)
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    id = add(served, file)
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("v", column)]))
    assert (letter.error, letter.row) == ("SchemaMismatch", None)
    assert letter.message.startswith(f"schema {id}: field v: expected {said}")


def test_a_repeated_field_is_a_dead_letter(served: Registry) -> None:
    file = file_of()
    add_field(file.message_type[0], "v", "int64", repeated=True)
    id = add(served, file)
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("v", pa.int64())]))
    assert letter.message == f"schema {id}: field v: expected an integer that fits int64, got repeated int64"


def test_a_field_without_presence_has_its_default_and_one_with_presence_is_null(served: Registry) -> None:
    file = file_of(plain="int64", text="string")
    add_field(file.message_type[0], "maybe", "int64", optional=True)
    message = classes(file)("plant.Reading")
    schema = pa.schema([("plain", pa.int64()), ("text", pa.string()), ("maybe", pa.int64())])
    id = add(served, file)
    values = [framed(id, FIRST + made.SerializeToString()) for made in (message(), message(plain=7, text="a", maybe=0))]
    rows, letters = read(served, values, schema)
    assert letters == []
    assert rows == [{"plain": 0, "text": "", "maybe": None}, {"plain": 7, "text": "a", "maybe": 0}]


def test_times_and_wrappers_are_read_and_null_if_they_are_absent(served: Registry) -> None:
    kinds = {"at": "Timestamp", "d": "DoubleValue", "i": "Int64Value", "s": "StringValue", "b": "BoolValue"}
    file = file_of(**{name: f".google.protobuf.{kind}" for name, kind in kinds.items()})
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    message = classes(file)("plant.Reading")
    whole, broken = message(), message()
    whole.at.seconds, whole.at.nanos = 1_769_860_800, 250_001_999
    whole.d.value, whole.i.value, whole.s.value, whole.b.value = 0.5, 0, "a", False
    types = [("at", TIME), ("d", pa.float64()), ("i", pa.int64()), ("s", pa.string()), ("b", pa.bool_())]
    id = add(served, file)
    rows, letters = read(
        served, [framed(id, FIRST + made.SerializeToString()) for made in (whole, message())], pa.schema(types)
    )
    assert letters == []
    assert rows == [{"at": NOON, "d": 0.5, "i": 0, "s": "a", "b": False}, dict.fromkeys(kinds)]
    broken.at.seconds, broken.at.nanos = 1, -1
    _, (letter,) = read(served, [framed(id, FIRST + broken.SerializeToString())], pa.schema(types))
    assert letter.error == "BadValue" and letter.message.endswith("got '1 s and -1 ns' (str)")


def test_an_enum_is_its_name_and_an_unknown_number_a_dead_letter(served: Registry) -> None:
    file = file_of(v=".plant.State!")
    state = file.enum_type.add(name="State")
    for number, name in enumerate(("IDLE", "BUSY")):
        state.value.add(name=name, number=number)
    message = classes(file)("plant.Reading")
    id = add(served, file)
    values = [framed(id, FIRST + message(v=number).SerializeToString()) for number in (0, 1, 7)]
    rows, (letter,) = read(served, values, pa.schema([pa.field("v", pa.string(), nullable=False)]))
    assert rows == [{"v": "IDLE"}, {"v": "BUSY"}]
    assert letter.message == "v: expected a string, got 7 (int)"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_a_dead_letter(served: Registry, value: float) -> None:
    file = file_of(v="double")
    body = FIRST + classes(file)("plant.Reading")(v=value).SerializeToString()
    _, (letter,) = read(served, [framed(add(served, file), body)], pa.schema([("v", pa.float64())]))
    assert letter.error == "BadValue"


def _several() -> FileDescriptorProto:
    """A file of two messages, the second with messages in it: an entry of a map, and `Inner`, which holds `Deep`."""
    file = file_of(v="int64")
    outer = file.message_type.add(name="Outer")
    entry = outer.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    add_field(entry, "key", "string")
    add_field(entry, "value", "int64")
    add_field(outer, "tags", ".plant.Outer.TagsEntry", repeated=True)
    inner = outer.nested_type.add(name="Inner")
    add_field(inner, "v", "int64")
    add_field(inner.nested_type.add(name="Deep"), "v", "int64")
    return file


@pytest.mark.parametrize(
    ("indexes", "name"),
    [
        (b"\0", "plant.Reading"),
        (b"\x02\0", "plant.Reading"),
        (b"\x04\x02\0", "plant.Outer.Inner"),
        (b"\x06\x02\0\0", "plant.Outer.Inner.Deep"),
    ],
    ids=["first, in short", "first", "inside the second", "deeper"],
)
def test_message_indexes_name_the_type(served: Registry, indexes: bytes, name: str) -> None:
    """The indexes are in ZigZag encoding; a map's entries are not counted."""
    file = _several()
    body = indexes + classes(file)(name)(v=7).SerializeToString()
    rows, letters = read(served, [framed(add(served, file), body)], pa.schema([("v", pa.int64())]))
    assert (rows, letters) == ([{"v": 7}], [])


@pytest.mark.parametrize(
    ("indexes", "error", "said"),
    [
        (b"", "Malformed", "expected message indexes after the schema's id, got bytes that end inside them"),
        (b"\x02", "Malformed", "expected message indexes after the schema's id, got bytes that end inside them"),
        (b"\xff" * 10, "Malformed", "expected message indexes after the schema's id, got bytes that end inside them"),
        (b"\x01", "Malformed", "expected 0 to 100 message indexes, got -1"),
        (b"\xfe\x7f", "Malformed", "expected 0 to 100 message indexes, got 8191"),
        (b"\x02\x08", "SchemaMismatch", "expected message indexes of a type in it, got [4]"),
        (b"\x02\x01", "SchemaMismatch", "expected message indexes of a type in it, got [-1]"),
        (b"\x04\x02\x02", "SchemaMismatch", "expected message indexes of a type in it, got [1, 1]"),
    ],
    ids=str,
)
def test_message_indexes_of_no_type_are_a_dead_letter(served: Registry, indexes: bytes, error: str, said: str) -> None:
    id = add(served, _several())
    _, (letter,) = read(served, [framed(id, indexes)], pa.schema([("v", pa.int64())]))
    assert (letter.error, letter.message.removeprefix(f"schema {id}: ")) == (error, said)


def _nested() -> FileDescriptorProto:
    """A reading with a motor, which has a motor itself."""
    file = file_of(unit="string", motor=".plant.Motor")
    motor = file.message_type.add(name="Motor")
    add_field(motor, "speed", "double")
    add_field(motor, "spare", ".plant.Motor")
    return file


def test_a_field_of_a_nested_message_has_a_dotted_name(served: Registry) -> None:
    file, schema = _nested(), pa.schema([("motor.speed", pa.float64()), ("motor.spare.speed", pa.float64())])
    made = classes(file)
    whole, half, none = (made("plant.Reading")() for _ in range(3))
    whole.motor.speed, whole.motor.spare.speed, half.motor.speed = 1.5, 2.5, 3.5
    id = add(served, file)
    rows, letters = read(served, [framed(id, FIRST + m.SerializeToString()) for m in (whole, half, none)], schema)
    assert letters == []
    assert [(*row.values(),) for row in rows] == [(1.5, 2.5), (3.5, None), (None, None)]


def test_a_missing_field_and_one_that_is_forbidden_are_dead_letters(served: Registry) -> None:
    id = add(served, _nested())
    required = pa.schema([pa.field("oil", pa.float64(), nullable=False)])
    _, (letter,) = read(served, [framed(id, FIRST)], required)
    assert letter.message == f"schema {id}: missing oil (expected 1 fields, got 0)"
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("motor.speed", pa.float64())]), unknown="reject")
    assert letter.message == f"schema {id}: unknown unit, expected only the schema's fields"


def test_fields_that_are_added_or_widened_later_are_read_side_by_side(served: Registry) -> None:
    first, second = file_of(v="int32"), file_of(v="int64", oil="double")
    ids = [add(served, file) for file in (first, second)]
    values = [
        framed(ids[0], FIRST + classes(first)("plant.Reading")(v=7).SerializeToString()),
        framed(ids[1], FIRST + classes(second)("plant.Reading")(v=2**40, oil=1.5).SerializeToString()),
        framed(
            ids[0], FIRST + classes(second)("plant.Reading")(v=8, oil=1.5).SerializeToString()
        ),  # unknown to its reader
    ]
    rows, letters = read(served, values, pa.schema([("v", pa.int64()), ("oil", pa.float64())]))
    assert letters == []
    assert [(*row.values(),) for row in rows] == [(7, None), (2**40, 1.5), (8, None)]


def test_schemas_may_import_others(served: Registry) -> None:
    motors = FileDescriptorProto(name="any name", package="parts", syntax="proto3")
    add_field(motors.message_type.add(name="Motor"), "speed", "double")
    add_field(motors.message_type[0], "at", ".google.protobuf.Timestamp")
    motors.dependency.append("google/protobuf/timestamp.proto")
    add(served, motors, subject="motors")
    motors.name = "parts/motors.proto"
    file = file_of(motor=".parts.Motor", at=".google.protobuf.Timestamp")
    file.dependency.extend([motors.name, "google/protobuf/timestamp.proto"])
    id = add(served, file, references=[{"name": motors.name, "subject": "motors", "version": 1}])
    message = classes(file, motors)("plant.Reading")()
    message.motor.speed, message.motor.at.seconds = 1.5, 1
    schema = pa.schema([("motor.speed", pa.float64()), ("motor.at", TIME), ("at", TIME)])
    rows, letters = read(served, [framed(id, FIRST + message.SerializeToString())], schema)
    assert letters == []
    assert rows == [{"motor.speed": 1.5, "motor.at": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "at": None}]


def test_an_import_without_a_reference_is_a_dead_letter(served: Registry) -> None:
    file = file_of(v="int64")
    file.dependency.append("parts/motors.proto")
    id = add(served, file)
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("v", pa.int64())]))
    assert letter.error == "SchemaMismatch"
    assert letter.message.endswith("got parts/motors.proto; register a reference")


def test_descriptors_that_do_not_fit_each_other_are_a_dead_letter(served: Registry) -> None:
    id = add(served, file_of(v=".plant.NoSuch"))
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("v", pa.int64())]))
    assert letter.message.startswith(f"schema {id}: expected descriptors that fit each other, got ")


def test_a_message_that_is_cut_short_is_a_dead_letter(served: Registry) -> None:
    file = file_of(unit="string", v="double")
    whole: Message = classes(file)("plant.Reading")(unit="abc", v=1.5)
    id, body = add(served, file), whole.SerializeToString()
    schema = pa.schema([pa.field("unit", pa.string(), nullable=False), ("v", pa.float64())])
    cut = [n for n in range(1, len(body)) if n != 5]  # after 5 bytes the text is complete
    rows, letters = read(served, [framed(id, FIRST + body[:n]) for n in cut], schema)
    assert rows == [] and len(letters) == len(cut)
    assert all(letter.error == "Malformed" for letter in letters)
    assert letters[0].message.startswith(f"schema {id}: expected a message plant.Reading, got other bytes: ")


def test_a_registry_that_returns_text_alone_stops_the_shard(served: Registry) -> None:
    id = add(served, file_of(v="int64"))
    served.describes = False
    try:
        with pytest.raises(Refused, match=rf"expected schema {id} as descriptors .* got text; use a registry"):
            read(served, [framed(id, FIRST)], pa.schema([("v", pa.int64())]))
    finally:
        served.describes = True


def test_a_schema_of_another_kind_is_a_dead_letter(served: Registry) -> None:
    id = served.add({"type": "string"})
    _, (letter,) = read(served, [framed(id, FIRST)], pa.schema([("v", pa.int64())]))
    assert letter.message == f"schema {id}: expected type PROTOBUF, as the content type says, got AVRO"


def test_an_unknown_schema_is_a_dead_letter_and_an_outage_is_waited_for(served: Registry) -> None:
    schema = pa.schema([("v", pa.int64())])
    file = file_of(v="int64")
    _, (letter,) = read(served, [framed(99_999, FIRST)], schema)
    assert letter.error == "SchemaUnknown"
    body = FIRST + classes(file)("plant.Reading")(v=7).SerializeToString()
    records = [record(framed(add(served, file), body), 0, PROTOBUF)]
    codec = Codec(topic="plant", schema=schema, options=served.options())
    served.status = 503
    try:
        with pytest.raises(Unavailable):
            codec.decode(records)
    finally:
        served.status = 0
    batch, letters = codec.decode(records)
    assert (batch["v"].to_pylist(), letters) == ([7], [])
