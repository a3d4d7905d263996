"""A JSON Schema says what the codec accepts: what the codec takes is valid, and what is invalid becomes a dead letter."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.codec_samples import BAD_VALUES, GOOD_VALUES, SCHEMA, record
from tocsin.pipelines.runtime.declare.fields import END_MS, EXACT, FIRST_MS, FLOAT32_LIMIT
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.json_schema import headers, payload

TIME = pa.timestamp("ms", "UTC")
INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
TYPES = [
    *INTEGERS,
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.string(),
    *(pa.timestamp(u, "UTC") for u in ("ms", "us", "ns")),
]

FIT: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [-128, 127, 7.0]),
    (pa.uint8(), [0, 255]),
    (pa.int64(), [-(2**63), 2**63 - 1, 2.0**52]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float32(), [0, 1, 0.1, -3.4e38, 3.4028235e38]),
    (pa.float64(), [0, 1, 0.1, 10**300, -1.7976931348623157e308]),
    (pa.bool_(), [True, False]),
    (pa.string(), ["", "ü", "12", "x" * 5000]),
    (
        TIME,
        [
            *(0, FIRST_MS, END_MS - 1, 1.7e12, "2026-01-31T12:00:00Z", "2026-01-31 12:00:00+01:00"),
            *("1700-01-01T00:00:00Z", "2199-12-31T23:59:59.999999999-00:00"),
        ],
    ),
]
UNFIT: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [-129, 128, 7.5, "7", True, [7], {"a": 7}]),
    (pa.uint8(), [-1, 256, -1.0, 1e3]),
    (pa.int64(), [-(2**63) - 1, 2**63, 1e300, "7"]),
    (pa.uint64(), [-1, 2**64]),
    (pa.float32(), [FLOAT32_LIMIT, -1e39, 10**39, "1.5", False]),
    (pa.float64(), [10**400, "1.5", True, []]),
    (pa.bool_(), [0, 1, "true"]),
    (pa.string(), [0, 1.5, True, ["a"], {"a": "b"}]),
    (
        TIME,
        [
            *(
                FIRST_MS - 1,
                END_MS,
                1.5,
                True,
                "",
                "1700000000000",
                "2026-01-31",
                "2026-01-31T12:00:00",
                "2200-01-01T00:00:00Z",
            ),
            *(
                "2026-01-31T12:00:60Z",
                "2026-01-31T24:00:00Z",
                "2026-01-31T12:00:00.1234567890Z",
                "2026-01-31t12:00:00z",
            ),
        ],
    ),
]


def _schema(kind: pa.DataType, *, nullable: bool = False) -> pa.Schema:
    return pa.schema([pa.field("v", kind, nullable=nullable)])


def _is_valid(schema: pa.Schema, value: Any, unknown: Any = "ignore") -> bool:
    described = payload(schema, unknown=unknown)
    Draft202012Validator.check_schema(described)
    return bool(Draft202012Validator(described).is_valid(value))


def _is_accepted(schema: pa.Schema, content: bytes, unknown: Any = "ignore") -> bool:
    batch, letters = Codec(topic="plant", schema=schema, unknown=unknown).decode([record(content)])
    assert batch.num_rows + len(letters) == 1
    return bool(batch.num_rows)


def _cases(table: list[tuple[pa.DataType, list[Any]]]) -> list[Any]:
    return [pytest.param(kind, value, id=f"{kind} {str(value)[:40]}") for kind, values in table for value in values]


@pytest.mark.parametrize(("kind", "value"), _cases(FIT))
def test_a_value_that_is_valid_becomes_a_row(kind: pa.DataType, value: Any) -> None:
    assert _is_valid(_schema(kind), {"v": value})
    assert _is_accepted(_schema(kind), json.dumps({"v": value}).encode())


@pytest.mark.parametrize(("kind", "value"), _cases(UNFIT))
def test_a_value_that_is_invalid_becomes_a_dead_letter(kind: pa.DataType, value: Any) -> None:
    assert not _is_valid(_schema(kind), {"v": value})
    assert not _is_accepted(_schema(kind), json.dumps({"v": value}).encode())


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_field_may_be_null_or_absent_if_it_is_nullable_and_only_then(kind: pa.DataType) -> None:
    for nullable in (False, True):
        schema = pa.schema([*_schema(kind, nullable=nullable), pa.field("w", pa.bool_(), nullable=False)])
        for value in ({"v": None, "w": True}, {"w": True}):
            accepted = _is_accepted(schema, json.dumps(value).encode())
            assert _is_valid(schema, value) == accepted == nullable


@pytest.mark.parametrize("unknown", ["ignore", "reject"])
def test_fields_outside_the_schema_are_treated_as_the_pipeline_says(unknown: Any) -> None:
    value = {"v": 1, "x": {"y": [1]}}
    accepted = _is_accepted(_schema(pa.int64()), json.dumps(value).encode(), unknown)
    assert _is_valid(_schema(pa.int64()), value, unknown) == accepted == (unknown == "ignore")


@pytest.mark.parametrize("value", [[], 1, "a", None, True], ids=str)
def test_a_message_is_an_object(value: Any) -> None:
    assert not _is_valid(_schema(pa.int64(), nullable=True), value)
    assert not _is_accepted(_schema(pa.int64(), nullable=True), json.dumps(value).encode())


def _near(*bounds: float) -> st.SearchStrategy[Any]:
    """Numbers around bounds, as integers and as floats."""
    return st.sampled_from(bounds).flatmap(
        lambda bound: st.integers(int(bound) - 2, int(bound) + 2) | st.just(float(bound)) | st.just(bound * 1.5)
    )


MOMENTS = st.builds(
    lambda moment, separator, fraction, offset: f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}{fraction}{offset}",
    st.datetimes(datetime(1699, 1, 1), datetime(2201, 1, 1)),
    st.sampled_from(["T", " ", "t", ""]),
    st.sampled_from(["", ".5", ".123456789", ".", ",5"]),
    st.sampled_from(["Z", "+00:00", "-23:59", "+24:00", "", "z"]),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-300, 70_000),
    _near(*(2.0**n for n in (7, 8, 15, 16, 31, 32, 53, 63, 64)), FIRST_MS, END_MS, FLOAT32_LIMIT),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    MOMENTS,
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@settings(max_examples=50)
@given(value=VALUES, nullable=st.booleans())
def test_whatever_is_sent_the_codec_and_the_schema_agree(kind: pa.DataType, value: Any, nullable: bool) -> None:
    schema = _schema(kind, nullable=nullable)
    accepted = _is_accepted(schema, json.dumps({"v": value}).encode())
    assert _is_valid(schema, {"v": value}) == accepted or (not accepted and _beyond_a_schema(value))


def _beyond_a_schema(value: Any) -> bool:
    """Whether a schema cannot tell that the value is refused; see `LIMITS`."""
    return isinstance(value, str) or (isinstance(value, float) and abs(value) >= EXACT)


@pytest.mark.parametrize("name", GOOD_VALUES)
def test_every_good_sample_is_valid(name: str) -> None:
    assert _is_valid(SCHEMA, orjson.loads(GOOD_VALUES[name]))


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_sample_of_plain_json_is_invalid_or_beyond_a_schema(name: str) -> None:
    value, error, _ = BAD_VALUES[name]
    if error in ("EmptyValue", "Malformed") or "twice" in name or name in ("no such day", "whole but rounded"):
        return
    assert value is not None and not _is_valid(SCHEMA, json.loads(value))


FRAMED = pa.schema(
    [
        pa.field("v", pa.int64(), nullable=False),
        pa.field("place", pa.string(), nullable=False, metadata={"from": "header:X-Place"}),
        pa.field("small", pa.int8(), metadata={"from": "header:small"}),
        pa.field("at", TIME, nullable=False, metadata={"from": "header:at"}),
        pa.field("whole", pa.string(), nullable=False, metadata={"from": "value"}),
    ]
)


def test_fields_from_headers_are_no_part_of_the_payload() -> None:
    described = payload(FRAMED, unknown="reject", notes={"v": "The asset."})
    assert [*described["properties"]] == described["required"] == ["v"]
    assert described["properties"]["v"]["description"] == "The asset."
    of_headers = headers(FRAMED, {"small": "Tiny."})
    assert [*of_headers["properties"]] == ["X-Place", "small", "at"]
    assert of_headers["required"] == ["X-Place", "at"]
    assert of_headers["properties"]["small"]["description"] == "Tiny."


@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"small": b"127"}, {"small": b"7.0"}, {"small": None}, {"at": b"1767225600000"}),
        *({"small": b"128"}, {"small": b"true"}, {"small": b'"7"'}, {"at": b"now"}, {"X-Place": None}, {"at": None}),
    ],
    ids=str,
)
def test_headers_that_the_codec_takes_are_valid_and_no_others(changed: dict[str, bytes | None]) -> None:
    """A null header stands for one that is absent."""
    sent = {"X-Place": b"hall 3", "at": b"2026-01-31T12:00:00Z"} | changed
    batch, _ = Codec(topic="plant", schema=FRAMED).decode([record(b'{"v": 1}', headers=[*sent.items()])])
    read = {name: _parsed(name, text) for name, text in sent.items() if text is not None or name == "small"}
    assert Draft202012Validator(headers(FRAMED)).is_valid(read) == bool(batch.num_rows)


def _parsed(name: str, text: bytes | None) -> Any:
    """A header's value as the schema describes it."""
    try:
        return None if text is None else text.decode() if name == "X-Place" else json.loads(text)
    except ValueError:
        return text.decode() if text else None
