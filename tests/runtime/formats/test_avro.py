"""Avro messages with a schema registry: each type, each way in which a message or its schema does not fit, and outages."""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import cloudpickle
import pyarrow as pa
import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.codec_samples import ARROW, record, written
from tests.support.registry import Registry, framed, registry
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.formats import schema_registry
from tocsin.pipelines.runtime.formats.codec import Codec

AVRO = [("content-type", b"application/avro")]
TIME = pa.timestamp("us", "UTC")
NOON = datetime(2026, 1, 31, 12, 0, 0, 250_001, UTC)
ID = uuid.UUID(int=7)
READING = {
    "type": "record",
    "name": "Reading",
    "namespace": "plant",
    "fields": [
        {"name": "unit", "type": "string"},
        {"name": "cycle", "type": "int"},
        {"name": "speed", "type": ["null", "double"], "default": None},
    ],
}
SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("speed", pa.float64()),
    ]
)


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    with registry() as made:
        yield made


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "PAUSES_S", (0.0, 0.0))


def body(schema: Any, value: Any) -> bytes:
    """A record as fastavro writes it."""
    sink = io.BytesIO()
    schemaless_writer(sink, parse_schema(schema), value)
    return sink.getvalue()


def read(
    served: Registry, values: list[bytes | None], schema: pa.Schema = SCHEMA, **options: Any
) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
    """Decode messages. Returns the rows' own fields, and the dead letters."""
    codec = Codec(topic="plant", schema=schema, options=served.options(), **options)
    batch, letters = codec.decode([record(value, offset, AVRO) for offset, value in enumerate(values)])
    return batch.select(schema.names).to_pylist(), letters


def field(kind: Any, name: str = "v") -> dict[str, Any]:
    """A record of one field."""
    return {"type": "record", "name": "One", "fields": [{"name": name, "type": kind}]}


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


FIXED = {"type": "fixed", "name": "F", "size": 16}
ENUM = {"type": "enum", "name": "E", "symbols": ["IDLE", "BUSY"]}
FIT: list[tuple[Any, Any, pa.DataType, Any]] = [
    ("int", -7, pa.int8(), -7),
    ("int", 7, pa.uint64(), 7),
    ("long", 2**62, pa.int64(), 2**62),
    ("long", 7, pa.float64(), 7.0),
    ("float", 1.5, pa.float32(), 1.5),
    ("double", 0.1, pa.float64(), 0.1),
    ("double", 7.0, pa.int16(), 7),
    ("boolean", True, pa.bool_(), True),
    ("string", "ü", pa.string(), "ü"),
    (ENUM, "BUSY", pa.string(), "BUSY"),
    (logical("string", "uuid"), str(ID), pa.string(), str(ID)),
    ({**FIXED, "logicalType": "uuid"}, ID.bytes, pa.string(), str(ID)),
    (logical("int", "date"), date(2026, 1, 31), pa.string(), "2026-01-31"),
    (logical("bytes", "decimal", precision=6, scale=2), Decimal("-12.34"), pa.float64(), -12.34),
    (logical("bytes", "decimal", precision=40, scale=3), Decimal("0.1"), pa.float64(), 0.1),
    (logical("bytes", "decimal", precision=6, scale=2), Decimal("12.00"), pa.int64(), 12),
    ({**FIXED, "logicalType": "decimal", "precision": 30}, Decimal(2**62), pa.int64(), 2**62),
    (logical("long", "timestamp-millis"), NOON, TIME, NOON.replace(microsecond=250_000)),
    (logical("long", "timestamp-micros"), NOON, TIME, NOON),
    (logical("long", "timestamp-micros"), NOON, pa.timestamp("ms", "UTC"), NOON.replace(microsecond=250_000)),
    (logical("long", "timestamp-micros"), NOON - timedelta(days=90_000), TIME, NOON - timedelta(days=90_000)),
    ("string", "2026-01-31T12:00:00.250001Z", TIME, NOON),
    ("long", 1_769_860_800_250, TIME, NOON.replace(microsecond=250_000)),
    (logical("string", "no-such-type"), "a", pa.string(), "a"),
    (logical("string", "date"), "a", pa.string(), "a"),
    (["null", "long"], None, pa.int64(), None),
    (["null", "long"], 7, pa.int64(), 7),
    (["double", "null", "int"], 1.5, pa.float64(), 1.5),
    (["null", logical("long", "timestamp-micros")], NOON, TIME, NOON),
    (["null", logical("bytes", "decimal", precision=6, scale=1)], Decimal("1.5"), pa.float64(), 1.5),
    ("null", None, pa.string(), None),
    ({"type": "long"}, 7, pa.int64(), 7),
]


@pytest.mark.parametrize(("kind", "value", "column", "expected"), FIT, ids=[f"{k} {t}" for k, _, t, _ in FIT])
def test_a_value_of_each_type_is_read(
    served: Registry, kind: Any, value: Any, column: pa.DataType, expected: Any
) -> None:
    id = served.add(field(kind))
    rows, letters = read(served, [framed(id, body(field(kind), {"v": value}))], pa.schema([("v", column)]))
    assert letters == []
    assert rows == [{"v": expected}]


def test_nanoseconds_are_kept(served: Registry) -> None:
    kind = logical("long", "timestamp-nanos")
    id, column = served.add(field(kind)), pa.timestamp("ns", "UTC")
    moments = [1_769_860_800_000_000_001, -1, 1_769_860_800_000_000_000]
    values = [framed(id, body(field("long"), {"v": moment})) for moment in moments]
    codec = Codec(topic="plant", schema=pa.schema([("v", column)]), options=served.options())
    batch, letters = codec.decode([record(value, n, AVRO) for n, value in enumerate(values)])
    assert (batch["v"].cast(pa.int64()).to_pylist(), letters) == (moments, [])


UNFIT: list[tuple[Any, pa.DataType, str]] = [
    ("string", pa.int64(), "an integer that fits int64, got string"),
    ("string", pa.float64(), "a number that fits double, got string"),
    ("int", pa.string(), "a string, got int"),
    ("boolean", pa.int64(), "an integer that fits int64, got boolean"),
    ("long", pa.bool_(), "true or false, got long"),
    ("bytes", pa.string(), "a string, got bytes"),
    (FIXED, pa.string(), "a string, got fixed"),
    (ENUM, pa.int64(), "an integer that fits int64, got enum"),
    (logical("bytes", "decimal", precision=6, scale=2), pa.string(), "a string, got decimal"),
    (logical("long", "timestamp-millis"), pa.int64(), "an integer that fits int64, got timestamp-millis"),
    (logical("long", "local-timestamp-millis"), TIME, "an RFC 3339 time with an offset"),
    (logical("int", "date"), TIME, "an RFC 3339 time with an offset"),
    (logical("int", "time-millis"), pa.int64(), "an integer that fits int64, got time-millis"),
    ({"type": "array", "items": "long"}, pa.int64(), "an integer that fits int64, got array"),
    ({"type": "map", "values": "long"}, pa.int64(), "an integer that fits int64, got map"),
    (field("long"), pa.int64(), "an integer that fits int64, got record"),
    (["null", "string", "long"], pa.int64(), "an integer that fits int64, got string or long"),
    (["null", "long", logical("long", "timestamp-millis")], TIME, "an RFC 3339 time with an offset"),
]


@pytest.mark.parametrize(("kind", "column", "said"), UNFIT, ids=[f"{k} {t}" for k, t, _ in UNFIT])
def test_a_field_of_another_type_is_a_dead_letter_that_says_so(
    served: Registry, kind: Any, column: pa.DataType, said: str
) -> None:
    outer = {"type": "record", "name": "Outer", "fields": [{"name": "v", "type": kind}]}
    id = served.add(outer)
    rows, (letter,) = read(served, [framed(id, b"\0" * 20)], pa.schema([("v", column)]))
    assert (rows, letter.error, letter.row) == ([], "SchemaMismatch", None)
    assert letter.message.startswith(f"schema {id}: field v: expected {said}")


@pytest.mark.parametrize(
    ("kind", "value", "column"),
    [
        ("int", 200, pa.int8()),
        ("long", -1, pa.uint64()),
        ("double", math.nan, pa.float64()),
        ("double", math.inf, pa.float64()),
        ("double", 1.5, pa.int64()),
        ("double", 1e39, pa.float32()),
        (logical("bytes", "decimal", precision=6, scale=2), Decimal("12.34"), pa.int64()),
        (logical("bytes", "decimal", precision=400), Decimal(10**399), pa.float64()),
        (logical("bytes", "decimal", precision=400, scale=1), Decimal(f"{10**398}.5"), pa.float64()),
        (["null", "long"], None, pa.int64()),
        ("string", "today", TIME),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_value_that_does_not_fit_its_field_is_a_dead_letter(
    served: Registry, kind: Any, value: Any, column: pa.DataType
) -> None:
    id, schema = served.add(field(kind)), pa.schema([pa.field("v", column, nullable=False)])
    rows, (letter,) = read(served, [framed(id, body(field(kind), {"v": value}))], schema)
    assert (rows, letter.error, letter.row) == ([], "BadValue", None)
    assert letter.message.startswith("v: expected ")


@pytest.mark.parametrize("moment", [2**63 - 1, -(2**63), 253_402_300_800_000_001])
def test_a_time_that_no_calendar_has_is_a_dead_letter(served: Registry, moment: int) -> None:
    id = served.add(field(logical("long", "timestamp-micros")))
    _, (letter,) = read(served, [framed(id, body(field("long"), {"v": moment}))], pa.schema([("v", TIME)]))
    assert letter.error == "BadValue"


def test_many_messages_are_rows_in_order_and_the_bad_ones_alone_are_dead_letters(served: Registry) -> None:
    id = served.add(READING)
    values = [
        framed(id, body(READING, {"unit": f"u{n}", "cycle": n, "speed": math.nan if n % 10 == 3 else n / 2}))
        for n in range(50)
    ]
    rows, letters = read(served, values)
    assert [row["cycle"] for row in rows] == [n for n in range(50) if n % 10 != 3]
    assert [letter.offset for letter in letters] == [3, 13, 23, 33, 43]


def test_formats_may_be_mixed_in_a_topic(served: Registry) -> None:
    id = served.add(READING)
    arrow = written(pa.record_batch({"unit": ["b", "c"], "cycle": [2, 3]}))
    avro = framed(id, body(READING, {"unit": "a", "cycle": 1, "speed": None}))
    records = [
        record(avro, 0, AVRO),
        record(arrow, 1, ARROW),
        record(b'{"unit": "d", "cycle": 4}', 2),
        record(avro, 3, AVRO),
    ]
    batch, letters = Codec(topic="plant", schema=SCHEMA, options=served.options()).decode(records)
    assert letters == []
    assert batch["unit"].to_pylist() == ["a", "b", "c", "d", "a"]
    assert batch["_row"].to_pylist() == [0, 0, 1, 0, 0]


def test_writers_of_several_versions_are_read_side_by_side(served: Registry) -> None:
    """A field with a default is added, an int becomes a long, and a field is removed."""
    second = {**READING, "fields": [READING["fields"][0], {"name": "cycle", "type": "long"}, READING["fields"][2]]}
    second["fields"].append({"name": "oil", "type": "double", "default": 1.5})
    third = {**second, "fields": [f for f in second["fields"] if f["name"] != "speed"]}
    ids = [served.add(version) for version in (READING, second, third)]
    schema = pa.schema([*SCHEMA, pa.field("oil", pa.float64())])
    values = [
        framed(ids[0], body(READING, {"unit": "a", "cycle": 1, "speed": 0.5})),
        framed(ids[1], body(second, {"unit": "a", "cycle": 2**40, "speed": 0.5, "oil": 2.0})),
        framed(ids[2], body(third, {"unit": "a", "cycle": 3, "oil": 2.5})),
    ]
    rows, letters = read(served, values, schema)
    assert letters == []
    assert [(row["cycle"], row["speed"], row["oil"]) for row in rows] == [
        (1, 0.5, None),
        (2**40, 0.5, 2.0),
        (3, None, 2.5),
    ]
    required = pa.schema([*SCHEMA, pa.field("oil", pa.float64(), nullable=False)])
    rows, (letter,) = read(served, values, required)
    assert len(rows) == 2
    assert letter.message == f"schema {ids[0]}: missing oil (expected 3 fields, got 2)"


NESTED = {
    "type": "record",
    "name": "Outer",
    "fields": [
        {"name": "unit", "type": "string"},
        {
            "name": "motor",
            "type": ["null", {"type": "record", "name": "Motor", "fields": [{"name": "speed", "type": "double"}]}],
        },
        {"name": "spare", "type": "Motor"},
        {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": ENUM}}},
    ],
}
FLAT = pa.schema(
    [pa.field("unit", pa.string(), nullable=False), ("motor.speed", pa.float64()), ("spare.speed", pa.float64())]
)


@pytest.mark.parametrize("unknown", ["ignore", "reject"])
def test_a_field_of_a_nested_record_has_a_dotted_name(served: Registry, unknown: Any) -> None:
    outer = NESTED if unknown == "ignore" else {**NESTED, "fields": NESTED["fields"][:3]}
    id = served.add(outer)
    tags = {"tags": {"a": ["BUSY"]}} if unknown == "ignore" else {}
    values = [{"unit": "a", "motor": motor, "spare": {"speed": 2.5}} | tags for motor in ({"speed": 1.5}, None)]
    rows, letters = read(served, [framed(id, body(outer, value)) for value in values], FLAT, unknown=unknown)
    assert letters == []
    assert [(row["motor.speed"], row["spare.speed"]) for row in rows] == [(1.5, 2.5), (None, 2.5)]


def test_unknown_fields_are_refused_if_the_pipeline_says_so(served: Registry) -> None:
    id = served.add(NESTED)
    _, (letter,) = read(served, [framed(id, b"")], FLAT, unknown="reject")
    assert letter.message == f"schema {id}: unknown tags, expected only the schema's fields"


def test_types_may_be_in_schemas_that_the_schema_refers_to(served: Registry) -> None:
    motor = {"type": "record", "name": "Motor", "namespace": "plant", "fields": [{"name": "speed", "type": "double"}]}
    served.add(motor, subject="motors")
    outer = {
        "type": "record",
        "name": "Outer",
        "namespace": "plant",
        "fields": [{"name": "motor", "type": "plant.Motor"}],
    }
    again = {"name": "plant.Motor", "subject": "motors", "version": 1}
    box = {"type": "record", "name": "Box", "namespace": "plant", "fields": [{"name": "motor", "type": "plant.Motor"}]}
    served.add(box, subject="boxes", references=[again])
    id = served.add(outer, references=[again, {"name": "plant.Box", "subject": "boxes", "version": 1}])
    whole = {**outer, "fields": [{"name": "motor", "type": motor}]}
    schema = pa.schema([("motor.speed", pa.float64())])
    rows, letters = read(served, [framed(id, body(whole, {"motor": {"speed": 1.5}}))], schema)
    assert (rows, letters) == ([{"motor.speed": 1.5}], [])


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("string", "expected a record, got string"),
        ([READING, "string"], "expected a record, got union"),
        ({"type": "array", "items": READING}, "expected a record, got array"),
        ("{", "expected an Avro schema, got "),
        (
            {"type": "record", "name": "R", "fields": [{"name": "v", "type": "no.Such"}]},
            "expected an Avro schema, got ",
        ),
        (
            {"type": "record", "name": "R", "fields": [{"name": "v", "type": ["null", "R"]}]},
            "expected no type that contains itself, got R",
        ),
        (field({"type": "array", "items": "null"}), "expected arrays whose items take bytes"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_used_is_a_dead_letter(served: Registry, schema: Any, said: str) -> None:
    id = served.add(schema if schema != "string" else '"string"')
    for _ in range(2):
        _, (letter,) = read(served, [framed(id, b"\x02a")], pa.schema([("v", pa.string())]))
        assert letter.error == "SchemaMismatch"
        assert letter.message.startswith(f"schema {id}: {said}")


def test_a_schema_of_another_kind_is_a_dead_letter(served: Registry) -> None:
    id = served.add('syntax = "proto3";', "PROTOBUF")
    _, (letter,) = read(served, [framed(id, b"")])
    assert letter.message == f"schema {id}: expected type AVRO, as the content type says, got PROTOBUF"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "EmptyValue"),
        (b"", "EmptyValue"),
        (b"\0", "Malformed"),
        (b'{"unit": "a"}', "Malformed"),
        (b"\0" * 4, "Malformed"),
    ],
)
def test_what_is_not_in_the_wire_format_is_a_dead_letter(served: Registry, value: bytes | None, error: str) -> None:
    _, (letter,) = read(served, [value])
    assert letter.error == error
    assert error == "EmptyValue" or letter.message.startswith(
        "expected application/avro, got bytes that do not begin with 0 and a schema's id: "
    )


def test_a_message_that_is_cut_short_or_too_long_is_a_dead_letter(served: Registry) -> None:
    id, whole = served.add(READING), body(READING, {"unit": "abc", "cycle": 1000, "speed": 0.5})
    rows, letters = read(served, [framed(id, whole[:n]) for n in range(len(whole))])
    assert rows == [] and len(letters) == len(whole)
    assert {letter.error for letter in letters} == {"Malformed"}
    assert letters[-1].message.startswith(
        f"schema {id}: expected an Avro record, got other bytes: the bytes end inside it"
    )
    _, (letter,) = read(served, [framed(id, whole + b"\0")])
    assert letter.message == f"schema {id}: expected one Avro record, got 1 bytes after it"


def test_a_message_of_more_bytes_than_the_limit_is_a_dead_letter(served: Registry) -> None:
    id = served.add(READING)
    value = framed(id, body(READING, {"unit": "x" * 2000, "cycle": 1, "speed": None}))
    _, (letter,) = read(served, [value], max_bytes=1000)
    assert (letter.error, letter.message) == ("TooLarge", f"expected at most 1000 bytes, got {len(value)}")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_row_or_a_dead_letter(nested: tuple[Codec, int], content: bytes) -> None:
    codec, id = nested
    batch, letters = codec.decode([record(framed(id, content), 0, AVRO), record(content, 1, AVRO)])
    assert batch.num_rows + len(letters) == 2


@pytest.fixture(scope="module")
def nested(served: Registry) -> tuple[Codec, int]:
    """A codec, and the id of a schema that it fits."""
    return Codec(topic="plant", schema=FLAT, options=served.options()), served.add(NESTED)


def test_an_unknown_schema_is_a_dead_letter_and_the_others_are_read(served: Registry) -> None:
    id = served.add(READING)
    good = framed(id, body(READING, {"unit": "a", "cycle": 1, "speed": None}))
    rows, (letter,) = read(served, [good, framed(99_999, b""), good])
    assert len(rows) == 2
    assert (letter.offset, letter.error) == (1, "SchemaUnknown")
    assert letter.message == f"expected schema 99999 in the registry {served.url}, got none; register it"


def test_while_the_registry_does_not_answer_nothing_is_decoded_and_nothing_is_lost(served: Registry) -> None:
    id = served.add(READING)
    records = [
        record(b"not JSON", 0),
        record(framed(id, body(READING, {"unit": "a", "cycle": 1, "speed": None})), 1, AVRO),
    ]
    codec = Codec(topic="plant", schema=SCHEMA, options=served.options())
    served.status = 503
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"schema registry {served.url}: expected an answer, got HTTP 503"):
                codec.decode(records)
    finally:
        served.status = 0
    batch, letters = codec.decode(records)
    assert batch["unit"].to_pylist() == ["a"]
    assert [letter.error for letter in letters] == ["Malformed"]
    served.status = 503  # what is known needs no registry
    try:
        assert codec.decode(records)[0].num_rows == 1
    finally:
        served.status = 0


def test_a_codec_that_has_decoded_travels_to_another_process(served: Registry) -> None:
    id = served.add(READING)
    records = [record(framed(id, body(READING, {"unit": "a", "cycle": 1, "speed": None})), 1, AVRO)]
    codec = Codec(topic="plant", schema=SCHEMA, options=served.options())
    codec.decode(records)
    assert cloudpickle.loads(cloudpickle.dumps(codec)).decode(records)[0].num_rows == 1


def test_messages_without_a_content_type_are_of_the_pipelines_own(served: Registry) -> None:
    id = served.add(READING)
    value = framed(id, body(READING, {"unit": "a", "cycle": 1, "speed": None}))
    json = record(b'{"unit": "b", "cycle": 2}', 1, [("content-type", b"application/json")])
    codec = Codec(topic="plant", schema=SCHEMA, options=served.options(), content_type="application/avro")
    batch, letters = codec.decode([record(value, 0), json])
    assert (batch["unit"].to_pylist(), letters) == (["a", "b"], [])


def test_without_a_registry_the_format_is_unknown_and_the_letter_says_what_to_set() -> None:
    _, (letter,) = Codec(topic="plant", schema=SCHEMA).decode([record(b"\0", 0, AVRO)])
    assert letter.error == "UnknownContentType"
    assert letter.message.endswith("got 'application/avro' (str); set [schema_registry] to read it")
    with pytest.raises(
        ConfigError, match=r"plant: expected content-type .* got 'application/avro' .* set \[schema_registry\]"
    ):
        Codec(topic="plant", schema=SCHEMA, content_type="application/avro")
