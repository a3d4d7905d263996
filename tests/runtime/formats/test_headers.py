"""Fields from a record's headers are read as strictly as its value, and are in each of its rows."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tests.support.codec_samples import ARROW, BESIDE, record, written
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.formats.codec import Codec


def _from(place, name, kind, *, nullable=False):
    return pa.field(name, kind, nullable=nullable, metadata={"from": place})


FACTS = [
    _from("header:ce_id", "id", pa.string()),
    pa.field("unit", pa.string(), nullable=False),
    _from("header:ce_time", "at", pa.timestamp("us", tz="UTC")),
    _from("header:frame", "frame", pa.int32(), nullable=True),
    pa.field("heat", pa.float64()),
    _from("header:gain", "gain", pa.float64(), nullable=True),
    _from("header:night", "night", pa.bool_(), nullable=True),
]
SCHEMA = pa.schema([*FACTS, _from("value", "text", pa.string())])
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
REQUIRED = {"ce_id": b"a1", "ce_time": b"2026-01-31T12:00:00+00:00"}
VALUE = b'{"unit": "u1", "heat": 0.5}'


def _headers(**changed):
    """Return the required headers with some added or replaced. `...` removes one."""
    return [(name, content) for name, content in {**REQUIRED, **changed}.items() if content is not ...]


def _decode(headers, value=VALUE, schema=SCHEMA):
    """Decode a record alone and between good ones; both must do the same. Returns its rows and letters."""
    codec = Codec(topic="plant", schema=schema)
    alone, letters = codec.decode([record(value, 5000, headers)])
    good = [record(VALUE, offset, _headers()) for offset in range(BESIDE)]
    batch, among = codec.decode([*good[:100], record(value, 5000, headers), *good[100:]])
    assert among == letters
    assert batch.num_rows == BESIDE + alone.num_rows
    assert batch.slice(100, alone.num_rows).equals(alone)
    assert [o for o in batch["_offset"].to_pylist() if o != 5000] == list(range(BESIDE))
    return alone.to_pylist(), letters


def test_headers_and_the_value_itself_are_columns_where_the_schema_has_them():
    headers = _headers(frame=b"-7.0", gain=b"2", night=b"true", other=b"\xff")
    (row,), letters = _decode(headers)
    assert letters == []
    assert list(row)[4:] == SCHEMA.names
    assert {name: row[name] for name in SCHEMA.names} == {
        "id": "a1", "unit": "u1", "at": NOON, "frame": -7, "heat": 0.5, "gain": 2.0, "night": True, "text": VALUE.decode(),
    }  # fmt: skip


def test_each_row_has_its_own_records_headers():
    records = [record(b'{"unit":"u%d"}' % i, i, _headers(ce_id=b"a%d" % i), partition=i % 3) for i in range(2 * BESIDE)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert letters == []
    assert batch["unit"].to_pylist() == [f"u{i}" for i in range(2 * BESIDE)]
    assert batch["id"].to_pylist() == [f"a{i}" for i in range(2 * BESIDE)]
    assert batch["text"].to_pylist() == [f'{{"unit":"u{i}"}}' for i in range(2 * BESIDE)]


def test_what_need_not_be_there_is_null_and_of_two_headers_the_last_counts():
    (row,), _ = _decode([*_headers(frame=None), ("ce_id", b"b2")])
    assert (row["id"], row["frame"], row["gain"], row["night"]) == ("b2", None, None, None)


@pytest.mark.parametrize("time", [b"2026-01-31 13:30:00.0000009+01:30", b"1769860800000"])
def test_a_time_is_written_as_in_json(time):
    (row,), _ = _decode(_headers(ce_time=time))
    assert row["at"] == NOON


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("ce_id", ..., "SchemaMismatch", "missing header ce_id"),
        ("ce_id", None, "SchemaMismatch", "missing header ce_id"),
        ("ce_id", b"a\xff", "BadValue", "id: expected a string, got 'a\\\\xff' (str)"),
        ("ce_time", b"2026-01-31T12:00:00", "BadValue", "at: expected an RFC 3339 time with an offset"),
        ("ce_time", b"2026-02-30T12:00:00Z", "BadValue", "got '2026-02-30T12:00:00Z' (str)"),
        ("ce_time", b'"2026-01-31T12:00:00Z"', "BadValue", "at: expected an RFC 3339 time"),
        ("ce_time", b"", "BadValue", "got '' (str)"),
        ("frame", b"7.5", "BadValue", "frame: expected an integer that fits int32, got '7.5' (str)"),
        ("frame", b"2147483648", "BadValue", "fits int32"),
        ("frame", b"seven", "BadValue", "got 'seven' (str)"),
        ("frame", b"null", "BadValue", "got 'null' (str)"),
        ("gain", b"NaN", "BadValue", "gain: expected a number that fits double, got 'NaN' (str)"),
        ("night", b"1", "BadValue", "night: expected true or false, got '1' (str)"),
    ],
)
def test_a_header_that_is_missing_or_wrong_makes_a_dead_letter(name, content, error, message):
    headers = _headers(**{name: content})
    rows, (letter,) = _decode(headers)
    assert (rows, letter.offset, letter.row, letter.stage, letter.error) == ([], 5000, None, "decode", error)
    assert message in letter.message
    assert (letter.value, letter.headers) == (VALUE, tuple(headers))


def test_a_value_that_is_no_reading_is_one_dead_letter_whatever_its_headers():
    for value, error in ((b"not a reading", "Malformed"), (None, "EmptyValue"), (b'{"heat": 1}', "SchemaMismatch")):
        rows, (letter,) = _decode(_headers(ce_id=...), value)
        assert (rows, letter.error) == ([], error)


STREAM = written(pa.record_batch({"unit": ["u1", "u2", None, "u4"], "heat": [1.0, 2.0, 3.0, 4.0]}))


def test_every_row_of_a_stream_has_its_messages_headers():
    rows, (letter,) = _decode([*_headers(frame=b"7"), *ARROW], STREAM, pa.schema(FACTS))
    assert [(row["_row"], row["unit"], row["id"], row["frame"]) for row in rows] == [
        (0, "u1", "a1", 7), (1, "u2", "a1", 7), (3, "u4", "a1", 7),
    ]  # fmt: skip
    assert (letter.row, letter.error) == (2, "BadValue")


def test_a_stream_with_a_wrong_header_is_one_dead_letter():
    rows, (letter,) = _decode([*_headers(frame=b"x"), *ARROW], STREAM, pa.schema(FACTS))
    assert (rows, letter.row, letter.message[:6]) == ([], None, "frame:")


def test_a_stream_is_no_text():
    rows, (letter,) = _decode([*_headers(), *ARROW], STREAM)
    assert (rows, letter.row) == ([], None)
    assert letter.message.startswith("text: expected text in UTF-8, got ")
    assert len(letter.message) < 400


def test_the_value_is_kept_as_it_was_written():
    value = json.dumps({"heat": 1.0, "unit": "ü", "more": [{"a": None}]}, indent=2, ensure_ascii=False).encode()
    (row,), _ = _decode(_headers(), value)
    assert row["text"].encode() == value


@pytest.mark.parametrize(
    "fields",
    [
        [_from("header:a", "a", pa.string())],
        [pa.field("unit", pa.string()), _from("trailer:a", "a", pa.string())],
        [pa.field("unit", pa.string()), _from("value", "a", pa.int64())],
        [pa.field("unit", pa.string()), _from("header:a", "a", pa.list_(pa.int64()))],
    ],
    ids=["nothing of the value", "from nowhere", "a value that is no text", "a type that no header has"],
)
def test_a_schema_that_cannot_be_read_is_refused_at_once(fields):
    with pytest.raises(ConfigError, match="plant: "):
        Codec(topic="plant", schema=pa.schema(fields))
