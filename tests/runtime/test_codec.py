"""A poll becomes exactly its readings, at their offsets; everything else is a dead letter with the original bytes."""

import json
import math
import re
import struct
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import ConsumerRecord

from pipelines.runtime import json_messages
from pipelines.runtime.arrow_messages import MAX_BAD_ROWS
from pipelines.runtime.codec import ARROW_STREAM, Codec
from pipelines.runtime.errors import ConfigError
from pipelines.runtime.json_messages import HALVED_ROWS, SLOW_ROWS

SCHEMA = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("cycle", pa.int64(), nullable=False),
        pa.field("s1", pa.float64(), nullable=False),
        pa.field("s2", pa.float32()),
        pa.field("small", pa.int16()),
        pa.field("count", pa.uint64()),
        pa.field("on", pa.bool_()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
    ]
)
NUMBERS_ONLY = pa.schema([f for f in SCHEMA if f.name not in ("unit", "at")])
SENSORS = pa.schema([pa.field(f"s{i}", pa.float64(), nullable=False) for i in range(1, 25)])
NS = pa.timestamp("ns", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ARROW = [("content-type", ARROW_STREAM.encode())]
GOOD = {"unit": "u1", "cycle": 7, "s1": 0.5}
BESIDE = SLOW_ROWS + 50  # good records around a bad one: enough for the fast way


def record(value, offset=0, headers=(), partition=3, timestamp=1_700_000_000_000):
    return ConsumerRecord("plant", partition, 0, offset, timestamp, 0, b"key", value, list(headers), None, 3, 0, 0)


def written(batch, *, compression=None, end=True):
    """The Arrow IPC stream of a record batch, or of several."""
    batches = batch if isinstance(batch, list) else [batch]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as stream:
        for one in batches:
            stream.write_batch(one)
    return sink.getvalue().to_pybytes() if end else sink.getvalue().to_pybytes()[:-8]


def readings(rows, **changed):
    """A batch of `rows` readings with only the fields that must be there, and the given ones."""
    columns = {"unit": [f"u{i}" for i in range(rows)], "cycle": range(rows), "s1": [i / 4 for i in range(rows)]}
    return pa.record_batch({name: pa.array(c) for name, c in {**columns, **changed}.items()})


def decode_among_good(value, headers=(), **options):
    """Decode a value alone and between good ones; both must do the same. Returns its rows and letters."""
    decoder = Codec(topic="plant", schema=SCHEMA, **options)
    alone, letters = decoder.decode([record(value, 500, headers)])
    good = [record(json.dumps(GOOD).encode(), offset) for offset in range(BESIDE)]
    half = BESIDE // 2
    batch, among = decoder.decode([*good[:half], record(value, 500, headers), *good[half:]])
    others = batch.filter(pa.array([offset != 500 for offset in batch["_offset"].to_pylist()]))
    assert others["_offset"].to_pylist() == list(range(BESIDE))
    assert others.select(["unit", "cycle", "s1"]).to_pylist() == [GOOD] * BESIDE
    assert batch.num_rows == BESIDE + alone.num_rows
    assert batch.slice(half, alone.num_rows).equals(alone)
    assert among == letters
    return alone.to_pylist(), letters


def test_a_poll_keeps_order_identity_and_kafka_time():
    records = [record(json.dumps({**GOOD, "cycle": i}).encode(), 1000 - i, (), i % 4, 5000 + i) for i in range(BESIDE)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert letters == []
    assert batch.schema.names[:4] == ["_partition", "_offset", "_row", "_timestamp"]
    assert pa.schema(list(batch.schema)[4:]).equals(SCHEMA)
    assert batch["cycle"].to_pylist() == list(range(BESIDE))
    assert batch["_offset"].to_pylist() == [1000 - i for i in range(BESIDE)]
    assert batch["_partition"].to_pylist() == [i % 4 for i in range(BESIDE)]
    assert batch["_row"].to_pylist() == [0] * BESIDE
    assert batch["_timestamp"].cast(pa.int64()).to_pylist() == [5000 + i for i in range(BESIDE)]


def test_an_unknown_kafka_time_is_null():
    batch, _ = Codec(topic="plant", schema=SCHEMA).decode([record(json.dumps(GOOD).encode(), timestamp=-1)])
    assert batch["_timestamp"].to_pylist() == [None]


def test_an_empty_poll_and_a_poll_of_bad_records_are_empty_batches():
    decoder = Codec(topic="plant", schema=SCHEMA)
    for records, dead in ([], 0), ([record(b"x", i) for i in range(BESIDE)], BESIDE):
        batch, letters = decoder.decode(records)
        assert (batch.num_rows, batch.schema, len(letters)) == (0, decoder.batch_schema, dead)


def test_everything_at_its_extremes_is_exact_on_both_ways():
    numbers = [2**53 + 1, -(2**63), 2**63 - 1, 0]
    for cycle in numbers:
        row = {**GOOD, "cycle": cycle, "small": -32768, "count": 2**64 - 1, "on": False, "s1": 5e-324, "s2": 0.1}
        (decoded,), letters = decode_among_good(json.dumps(row).encode())
        assert letters == []
        assert {name: decoded[name] for name in row} == {**row, "s2": float(np.float32(0.1))}


GOOD_VALUES = {
    "white space around": b' \t\r\n{"unit":"u1","cycle":7,"s1":0.5}\n ',
    "pretty": json.dumps(GOOD, indent=2).encode(),
    "carriage returns": b'{"unit":"u1",\r"cycle":7,\r\n"s1":0.5}',
    "escaped key": b'{"\\u0075nit":"u1","cycle":7,"s1":0.5}',
    "escaped text": b'{"unit":"\\u00751","cycle":7,"s1":0.5}',
    "nulls": b'{"unit":"u1","cycle":7,"s1":0.5,"s2":null,"on":null,"at":null}',
    "unknown fields": b'{"unit":"u1","cycle":7,"s1":0.5,"x":1,"y":"a:{[","z":null}',
    "unknown nested fields": b'{"unit":"u1","cycle":7,"s1":0.5,"x":{"s1":9,"a":[{"unit":"b"}]}}',
    "repeated only inside": b'{"unit":"u1","cycle":7,"s1":0.5,"x":{"a":1,"a":2}}',
    "nested a thousand deep": b'{"unit":"u1","cycle":7,"s1":0.5,"x":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "exponents": b'{"unit":"u1","cycle":7,"s1":5E-1}',
    "another order": b'{"s1":0.5,"cycle":7,"unit":"u1"}',
}


@pytest.mark.parametrize("value", GOOD_VALUES.values(), ids=GOOD_VALUES)
def test_json_written_otherwise_is_the_same_reading(value):
    (row,), letters = decode_among_good(value)
    assert letters == []
    assert {name: row[name] for name in GOOD} == GOOD


BAD_VALUES = {
    "tombstone": (None, "EmptyValue", "expected a value, got null, a tombstone"),
    "empty": (b"", "EmptyValue", "expected a value, got no bytes"),
    "space": (b"  ", "Malformed", "not JSON"),
    "not JSON": (b"unit=1", "Malformed", "not JSON"),
    "braces only": (b"{}", "SchemaMismatch", "missing unit, cycle, s1 (expected 3 fields, got 0)"),
    "array": (b'[{"unit":"u1"}]', "Malformed", "expected one JSON object, got an array"),
    "number": (b"12", "Malformed", "expected one JSON object, got 12 (int)"),
    "missing": (b'{"unit":"u1","cycle":7}', "SchemaMismatch", "missing s1 (expected 3 fields, got 2)"),
    "null": (b'{"unit":"u1","cycle":7,"s1":null}', "BadValue", "s1: expected a number that fits double, got null"),
    "two objects": (b'{"unit":"u1","cycle":7,"s1":0.5}{"unit":"u1","cycle":7,"s1":0.5}', "Malformed", "not JSON"),
    "garbage between": (b'{"unit":"u1","cycle":7,"s1":0.5}x{"unit":"u1","cycle":7,"s1":1}', "Malformed", "not JSON"),
    "two lines": (b'{"unit":"u1","cycle":7,"s1":0.5}\n{"unit":"u1","cycle":7,"s1":1}', "Malformed", "not JSON"),
    "raw newline in text": (b'{"unit":"u\n1","cycle":7,"s1":0.5}', "Malformed", "not JSON"),
    "raw carriage return in text": (b'{"unit":"u\r1","cycle":7,"s1":0.5}', "Malformed", "not JSON"),
    "raw tab in text": (b'{"unit":"u\t1","cycle":7,"s1":0.5}', "Malformed", "not JSON"),
    "BOM": (b'\xef\xbb\xbf{"unit":"u1","cycle":7,"s1":0.5}', "Malformed", "BOM"),
    "invalid UTF-8": (b'{"unit":"u\xff","cycle":7,"s1":0.5}', "Malformed", "UTF-8"),
    "invalid UTF-8 unseen": (b'{"unit":"u1","cycle":7,"s1":0.5,"x":"\xff"}', "Malformed", "UTF-8"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "Malformed", "not JSON"),
    "half a surrogate pair": (b'{"unit":"\\ud800","cycle":7,"s1":0.5}', "Malformed", "surrogate"),
    "cut short": (b'{"unit":"u1","cycle":7,"s1":0.', "Malformed", "not JSON"),
    "trailing comma": (b'{"unit":"u1","cycle":7,"s1":0.5,}', "Malformed", "not JSON"),
    "number in a string": (b'{"unit":"u1","cycle":7,"s1":"12"}', "BadValue", "double, got '12' (str)"),
    "integer in a string": (b'{"unit":"u1","cycle":"7","s1":1}', "BadValue", "int64, got '7' (str)"),
    "fraction": (
        b'{"unit":"u1","cycle":1.5,"s1":1}',
        "BadValue",
        "cycle: expected an integer that fits int64, got 1.5",
    ),
    "whole fraction": (b'{"unit":"u1","cycle":7.0,"s1":1}', "BadValue", "got 7.0 (float)"),
    "bool for a number": (b'{"unit":"u1","cycle":7,"s1":true}', "BadValue", "got True (bool)"),
    "bool for an integer": (b'{"unit":"u1","cycle":true,"s1":1}', "BadValue", "got True (bool)"),
    "number for a bool": (b'{"unit":"u1","cycle":7,"s1":1,"on":1}', "BadValue", "expected true or false, got 1 (int)"),
    "number for a string": (b'{"unit":1,"cycle":7,"s1":1}', "BadValue", "unit: expected a string, got 1 (int)"),
    "bool for a string": (b'{"unit":true,"cycle":7,"s1":1}', "BadValue", "expected a string, got True (bool)"),
    "object for a string": (b'{"unit":{"a":1},"cycle":7,"s1":1}', "BadValue", "expected a string, got an object"),
    "array for a string": (b'{"unit":["a"],"cycle":7,"s1":1}', "BadValue", "expected a string, got an array"),
    "object for a number": (b'{"unit":"u1","cycle":7,"s1":{"a":1}}', "BadValue", "got an object"),
    "int64 overflow": (b'{"unit":"u1","cycle":9223372036854775808,"s1":1}', "BadValue", "fits int64"),
    "int64 underflow": (b'{"unit":"u1","cycle":-9223372036854775809,"s1":1}', "BadValue", "fits int64"),
    "uint64 overflow": (b'{"unit":"u1","cycle":7,"s1":1,"count":18446744073709551616}', "BadValue", "fits uint64"),
    "below zero": (b'{"unit":"u1","cycle":7,"s1":1,"count":-1}', "BadValue", "fits uint64, got -1"),
    "int16 overflow": (b'{"unit":"u1","cycle":7,"s1":1,"small":32768}', "BadValue", "fits int16, got 32768"),
    "float32 overflow": (
        b'{"unit":"u1","cycle":7,"s1":1,"s2":1e39}',
        "BadValue",
        "s2: expected a number that fits float",
    ),
    "double overflow": (b'{"unit":"u1","cycle":7,"s1":1e400}', "Malformed", "infinity"),
    "NaN": (b'{"unit":"u1","cycle":7,"s1":NaN}', "Malformed", "not JSON"),
    "infinity": (b'{"unit":"u1","cycle":7,"s1":-Infinity}', "Malformed", "not JSON"),
    "key twice": (b'{"unit":"u1","cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "field s1 is there twice"),
    "key twice with space": (b'{"unit":"a:b","cycle":7,"s1" : 1,"s1":2}', "SchemaMismatch", "field s1 is there twice"),
    "key twice, escaped": (b'{"unit":"u1","cycle":7,"s1":1,"\\u00731":2}', "SchemaMismatch", "field s1 is there twice"),
    "key twice, hidden": (b'{"unit":"\\u003a","cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "field s1 is there twice"),
    "unknown key twice": (b'{"unit":"u1","cycle":7,"s1":1,"x":1,"x":2}', "SchemaMismatch", "field x is there twice"),
    "key twice, a string short": (b'{"unit":1,"cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "field s1 is there twice"),
    "number for a string, one unknown": (b'{"unit":1,"cycle":7,"s1":1,"x":2}', "BadValue", "unit: expected a string"),
    "deep": (b'{"unit":"u1","cycle":7,"s1":' + b"[" * 100_000, "Malformed", "depth"),
    "time without offset": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2026-01-02T03:04:05"}', "BadValue", "RFC 3339"),
    "no such day": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2026-02-30T03:04:05Z"}', "BadValue", "RFC 3339"),
    "leap second": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2016-12-31T23:59:60Z"}', "BadValue", "RFC 3339"),
    "time in nanoseconds": (b'{"unit":"u1","cycle":7,"s1":1,"at":1700000000000000000}', "BadValue", "milliseconds"),
    "time as a fraction": (b'{"unit":"u1","cycle":7,"s1":1,"at":1.7e12}', "BadValue", "milliseconds"),
    "time as a string": (b'{"unit":"u1","cycle":7,"s1":1,"at":"1700000000000"}', "BadValue", "RFC 3339"),
}


@pytest.mark.parametrize(("value", "error", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_a_dead_letter_alone_and_among_good_ones(value, error, message):
    rows, (letter,) = decode_among_good(value)
    assert rows == []
    assert (letter.topic, letter.partition, letter.offset, letter.row) == ("plant", 3, 500, None)
    assert (letter.stage, letter.error) == ("decode", error)
    assert message in letter.message
    assert "\n" not in letter.message
    assert (letter.key, letter.value, letter.timestamp) == (b"key", value, 1_700_000_000_000)


def test_a_value_over_the_limit_is_a_dead_letter_before_it_is_parsed():
    value = json.dumps({**GOOD, "x": "y" * 20_000_000}).encode()
    rows, (letter,) = decode_among_good(value)
    assert rows == []
    assert (letter.error, letter.message) == ("TooLarge", f"expected at most 16777216 bytes, got {len(value)}")
    assert letter.value is value


def test_messages_stay_short_whatever_the_value():
    _, (letter,) = decode_among_good(json.dumps({**GOOD, "n" * 10_000: 1}).encode(), unknown="reject")
    assert len(letter.message) < 400
    _, (letter,) = decode_among_good(json.dumps({**GOOD, "s1": "9" * 10_000}).encode())
    assert len(letter.message) < 400


@pytest.mark.parametrize("first", [{**GOOD, "x": 1}, GOOD], ids=["unknown in the first", "known in the first"])
def test_unknown_fields_are_ignored_or_rejected_wherever_they_are(first):
    records = [record(json.dumps({**GOOD, "x": 1} if i % 10 == 1 else GOOD).encode(), i) for i in range(1, BESIDE)]
    records = [record(json.dumps(first).encode(), 0), *records]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert (batch.num_rows, letters) == (BESIDE, [])
    batch, letters = Codec(topic="plant", schema=SCHEMA, unknown="reject").decode(records)
    unknown = [i for i in range(BESIDE) if b'"x"' in records[i].value]
    assert [letter.offset for letter in letters] == unknown
    assert set(batch["_offset"].to_pylist()) == set(range(BESIDE)) - set(unknown)
    assert {letter.message for letter in letters} == {"unknown x, expected only the schema's fields"}


def test_many_bad_records_in_a_large_poll_are_found_at_their_offsets():
    bad = {*range(0, 5000, 331), 1, 2, 4998, 4999}
    values = [
        b'{"s1":"x"}' if i in bad else b"{%s}" % b",".join(b'"s%d":%d.25' % (k, i) for k in range(1, 25))
        for i in range(5000)
    ]
    assert len(values) > 4 * HALVED_ROWS
    batch, letters = Codec(topic="plant", schema=SENSORS).decode([record(v, 10 + i) for i, v in enumerate(values)])
    assert [letter.offset - 10 for letter in letters] == sorted(bad)
    good = [i for i in range(5000) if i not in bad]
    assert batch["_offset"].to_pylist() == [10 + i for i in good]
    assert all(batch[f"s{k}"].to_pylist() == [i + 0.25 for i in good] for k in (1, 24))


TIMES = {
    '"2026-01-31T12:00:00Z"': "2026-01-31T12:00:00+00:00",
    '"2026-01-31 12:00:00.5+01:30"': "2026-01-31T10:30:00.500000+00:00",
    '"2026-01-31T12:00:00.123456789-12:00"': "2026-02-01T00:00:00.123456+00:00",
    '"1969-12-31T23:59:59.9999999Z"': "1969-12-31T23:59:59.999999+00:00",
    '"1700-01-01T00:00:00Z"': "1700-01-01T00:00:00+00:00",
    "1769860800123": "2026-01-31T12:00:00.123000+00:00",
    "-1": "1969-12-31T23:59:59.999000+00:00",
}


@pytest.mark.parametrize(("written_as", "meant"), TIMES.items())
@pytest.mark.parametrize("neighbour", [None, "2026-01-01T00:00:00Z", 1_700_000_000_000])
def test_times_are_strings_or_milliseconds_beside_any_neighbour(written_as, meant, neighbour):
    other = json.dumps({**GOOD, "at": neighbour} if neighbour else GOOD).encode()
    value = b'{"unit":"u1","cycle":7,"s1":0.5,"at":%s}' % written_as.encode()
    for count in 1, BESIDE:
        records = [record(other, i) for i in range(count)] + [record(value, count)]
        batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
        assert letters == []
        assert batch["at"][count].as_py().isoformat() == meant


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("time", ['"2199-12-31T23:59:59.999999999Z"', '"1700-01-01T00:00:00.000000001Z"', "1", "-1"])
def test_both_ways_agree_on_a_time_in_every_unit(unit, time):
    decoder = Codec(topic="plant", schema=pa.schema([pa.field("at", pa.timestamp(unit, tz="UTC"), nullable=False)]))
    records = [record(b'{"at":%s}' % time.encode(), i) for i in range(BESIDE)]
    fast, _ = decoder.decode(records)
    slow, _ = decoder.decode(records[:1])
    per_second = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    if time.startswith('"'):
        seconds = int(datetime.fromisoformat(time[1:20] + "+00:00").timestamp())
        expected = seconds * per_second + int(time[21:30]) * per_second // 10**9
    else:
        expected = int(time) * per_second // 1000
    assert fast["at"].cast(pa.int64()).to_pylist() == [expected] * BESIDE
    assert slow["at"].cast(pa.int64()).to_pylist() == [expected]


# The oracle: Python's own json, one record at a time.


class NoReadingError(Exception):
    pass


def refuse(_):
    raise NoReadingError


def finite(text):
    return float(text) if math.isfinite(float(text)) else refuse(text)


def whole(text):
    return int(text) if math.isfinite(finite(text)) else refuse(text)


def unrepeated(pairs):
    found = dict(pairs)
    found["\0repeated"] = len(found) < len(pairs)
    return found


def expected_row(value, schema, unknown):
    """What the schema makes of a value, or None."""
    ranges = {"cycle": (-(2**63), 2**63), "small": (-(2**15), 2**15), "count": (0, 2**64)}
    try:
        found = json.loads(
            value.decode("utf-8"),
            parse_constant=refuse,
            parse_float=finite,
            parse_int=whole,
            object_pairs_hook=unrepeated,
        )
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (NoReadingError, ValueError, RecursionError, AttributeError):
        return None
    if type(found) is not dict or found.pop("\0repeated") or (unknown == "reject" and set(found) - set(schema.names)):
        return None
    row = []
    for f in schema:
        content = found.get(f.name)
        if content is None:
            if not f.nullable:
                return None
        elif f.name == "at":
            content = expected_time(content)
        elif f.name in ranges:
            low, high = ranges[f.name]
            content = content if type(content) is int and low <= content < high else NoReadingError
        elif f.name in ("s1", "s2"):
            content = float(content) if type(content) in (int, float) else NoReadingError
            if f.name == "s2" and content is not NoReadingError:
                with np.errstate(over="ignore"):
                    content = float(np.float32(content))
                content = content if math.isfinite(content) else NoReadingError
        elif type(content) is not {"unit": str, "on": bool}[f.name]:
            content = NoReadingError
        if content is NoReadingError:
            return None
        row.append(content)
    return row


def expected_time(content):
    first, end = datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    if type(content) is int and abs(content) < 10**14:
        time = EPOCH + timedelta(milliseconds=content)
        return time if first <= time < end else NoReadingError
    shape = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
    if type(content) is not str or not re.fullmatch(shape, content, re.ASCII):
        return NoReadingError
    try:
        time = datetime.fromisoformat(content)
    except ValueError:
        return NoReadingError
    return time.astimezone(UTC) if 1700 <= time.year < 2200 else NoReadingError


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53 + 1, 2**63, -(2**63) - 1, 2**64, 3.4028235677973366e38, 3.402823567797336e38, 1e39, -0.0]),
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, TEXT, st.sampled_from(["12", "true", "a:b", '"', "[", "{", "\\", ":"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=4,
)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
CLOCKS = st.one_of(
    st.datetimes(datetime(1600, 1, 1), datetime(2300, 1, 1), timezones=ZONES).map(datetime.isoformat),
    st.integers(-(10**13), 10**13),
    st.sampled_from(
        ["2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "\uff12026-01-01T00:00:00Z"]
    ),
)
FIELDS = {
    "unit": TEXT, "cycle": st.integers(-(2**63), 2**63 - 1), "s1": NUMBERS, "s2": NUMBERS,
    "small": st.integers(-(2**15), 2**15 - 1), "count": st.integers(0, 2**64 - 1), "on": st.booleans(), "at": CLOCKS,
}  # fmt: skip
SPACES = st.sampled_from(["", " ", "\r", "\t", "\n"])


@st.composite
def objects(draw, schema=SCHEMA):
    """A JSON object near the schema: fields left out, of other types, twice, unknown; written in any of JSON's ways."""
    pairs = [
        (name, draw(content))
        for name, content in FIELDS.items()
        if name in schema.names and (name in GOOD or draw(st.booleans()))
    ]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        pairs.append((draw(st.one_of(st.sampled_from([*FIELDS, "x", "x:y"]), TEXT)), draw(ANYTHING)))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(pairs) - 1))
        pairs[place] = (pairs[place][0], draw(ANYTHING))
    pairs = draw(st.permutations(pairs)) if draw(st.booleans()) else pairs
    space, ascii_only = draw(SPACES), draw(st.booleans())
    cells = (
        f"{json.dumps(n, ensure_ascii=ascii_only)}{space}:{json.dumps(c, ensure_ascii=ascii_only)}" for n, c in pairs
    )
    return ("{" + f",{space}".join(cells) + "}").encode()


@st.composite
def damaged(draw, schema=SCHEMA):
    """An object with some bytes replaced, cut out or put in."""
    value = bytearray(draw(objects(schema)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(value)))
        end = start + draw(st.integers(0, 3))
        value[start:end] = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"}{", b"\n", b":", b'"', b"1", b"\\"]))
        )
    return bytes(value)


def values(schema):
    return st.one_of(
        objects(schema), objects(schema), damaged(schema), st.binary(max_size=20), st.just(b""), st.just(None),
        st.sampled_from([value for value, *_ in BAD_VALUES.values()]), st.sampled_from(list(GOOD_VALUES.values())),
    )  # fmt: skip


def whole_polls_or_halves_of_one(halved):
    """Where halving ends: by default a small poll with one malformed value takes the slow way as a whole."""
    return mock.patch.multiple(json_messages, SLOW_ROWS=0, HALVED_ROWS=1 if halved else HALVED_ROWS)


@pytest.mark.parametrize("schema", [SCHEMA, NUMBERS_ONLY], ids=["with strings", "numbers only"])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 40), st.sampled_from(["ignore", "reject"]), st.booleans())
def test_any_mixture_gives_what_python_reads_one_by_one(schema, data, beside, unknown, halved):
    mixture = data.draw(st.lists(values(schema), min_size=1, max_size=20))
    names = set(schema.names) & {*GOOD, "at"}
    good = [{**GOOD, "cycle": i, "at": 1000 * i} for i in range(beside)]
    mixture += [json.dumps({name: row[name] for name in names}).encode() for row in good]
    if data.draw(st.booleans()):
        mixture.reverse()
    with whole_polls_or_halves_of_one(halved):
        batch, letters = Codec(topic="plant", schema=schema, unknown=unknown).decode(
            [record(value, 7 * i) for i, value in enumerate(mixture)]
        )
    rows = {7 * i: expected_row(value, schema, unknown) for i, value in enumerate(mixture)}
    assert [letter.offset for letter in letters] == [offset for offset, row in rows.items() if row is None]
    assert all(letter.value is mixture[letter.offset // 7] for letter in letters)
    decoded = [[*row.values()] for row in batch.to_pylist()]
    assert [row[1] for row in decoded] == [offset for offset, row in rows.items() if row is not None]
    assert [row[4:] for row in decoded] == [row for row in rows.values() if row is not None]


# Arrow streams


def test_an_arrow_message_gives_its_rows_in_order():
    decoder = Codec(topic="plant", schema=SCHEMA)
    records = [
        record(written([readings(5), readings(3)]), 10, ARROW),
        record(json.dumps(GOOD).encode(), 11),
        record(written(readings(0)), 12, ARROW),
        record(written(readings(4)), 13, ARROW, partition=1),
    ]
    batch, letters = decoder.decode(records)
    assert letters == []
    assert batch["_offset"].to_pylist() == [10] * 8 + [11] + [13] * 4
    assert batch["_partition"].to_pylist() == [3] * 9 + [1] * 4
    assert batch["_row"].to_pylist() == [*range(8), 0, *range(4)]
    assert batch["cycle"].to_pylist() == [*range(5), *range(3), 7, *range(4)]
    assert batch["s2"].null_count == 13


def test_widths_order_and_writers_of_arrow_do_not_matter():
    frame = pl.DataFrame(
        {
            "s1": [1, 2],
            "x": [[1], [2]],
            "cycle": pl.Series([3, 4], dtype=pl.UInt8),
            "unit": ["a", "b" * 20],
            "s2": [None, None],
        }
    ).with_columns(
        at=pl.lit(datetime(2026, 1, 2)).dt.replace_time_zone("Europe/Berlin").cast(pl.Datetime("ns", "Europe/Berlin"))
    )
    sink = pa.BufferOutputStream()
    frame.write_ipc_stream(sink)
    wide = readings(
        2,
        unit=pa.array(["c", "d"], pa.large_string()),
        s2=pa.array([0.1, 0.2], pa.float64()),
        at=pa.array([1999, 0], NS),
    )
    records = [record(sink.getvalue().to_pybytes(), 0, ARROW), record(written(wide), 1, ARROW)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert letters == []
    assert batch["unit"].to_pylist() == ["a", "b" * 20, "c", "d"]
    assert batch["s1"].to_pylist() == [1.0, 2.0, 0.0, 0.25]
    assert batch["cycle"].to_pylist() == [3, 4, 0, 1]
    assert batch["at"].to_pylist() == [datetime(2026, 1, 1, 23, tzinfo=UTC)] * 2 + [
        EPOCH + timedelta(microseconds=1),
        EPOCH,
    ]


def nan_at(*places, rows=10):
    return readings(rows, s1=[float("nan") if i in places else 1.0 for i in range(rows)])


def test_bad_rows_of_a_message_are_dead_letters_and_the_others_live():
    value = written(nan_at(2, 7))
    late = written(readings(3, unit=["a", None, "c"]))
    records = [record(written(readings(2)), 1, ARROW), record(value, 2, ARROW), record(late, 3, ARROW)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    rows = list(zip(batch["_offset"].to_pylist(), batch["_row"].to_pylist(), strict=True))
    assert rows == [(1, 0), (1, 1), *((2, i) for i in range(10) if i not in (2, 7)), (3, 0), (3, 2)]
    assert [(letter.offset, letter.row, letter.error) for letter in letters] == [
        (2, 2, "BadValue"), (2, 7, "BadValue"), (3, 1, "BadValue")
    ]  # fmt: skip
    assert [letter.message for letter in letters[1:]] == [
        "s1: expected a number that fits double, got nan (float)",
        "unit: expected a string, got null",
    ]
    assert letters[0].value is value
    assert str(letters[0]).startswith("plant[3]@2 row 2: s1: expected a number that fits double")


def test_a_bad_row_with_a_time_that_python_cannot_hold_is_a_dead_letter_too():
    schema = pa.schema([pa.field("at", NS), pa.field("s1", pa.float64(), nullable=False)])
    value = written(pa.record_batch({"at": pa.array([1, None, 2], NS), "s1": [1.0, None, math.inf]}))
    batch, letters = Codec(topic="plant", schema=schema).decode([record(value, 1, ARROW)])
    assert batch["at"].cast(pa.int64()).to_pylist() == [1]
    assert [letter.message for letter in letters] == [
        "s1: expected a number that fits double, got null",
        "s1: expected a number that fits double, got inf (float)",
    ]


def test_a_message_of_mostly_bad_rows_is_one_dead_letter():
    value = written(nan_at(*range(3, MAX_BAD_ROWS + 4), rows=200))
    records = [record(value, 1, ARROW), record(written(readings(1)), 2, ARROW)]
    batch, (letter,) = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert batch["_offset"].to_pylist() == [2]
    assert (letter.offset, letter.row) == (1, None)
    assert (
        letter.message
        == "101 of 200 rows are bad; the first, row 3: s1: expected a number that fits double, got nan (float)"
    )


def arrow_column(name, array):
    return written(readings(len(array), **{name: array}))


def one_text_in_many_rows(size, rows):
    """String views that all point at the same bytes."""
    _, views, shown = pa.array(["z" * size], pa.string_view()).buffers()
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(views.to_pybytes()[:16] * rows), shown])


def not_utf8():
    offsets, text = struct.pack("<ii", 0, 1), b"\xff"
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


BAD_STREAMS = {
    "tombstone": (None, "EmptyValue", "tombstone"),
    "empty": (b"", "EmptyValue", "no bytes"),
    "JSON": (json.dumps(GOOD).encode(), "Malformed", "Arrow IPC stream"),
    "cut short in a batch": (written(readings(50))[:-300], "Malformed", "Arrow IPC stream"),
    "cut short between batches": (written([readings(5), readings(5)], end=False), "Malformed", "cut short"),
    "two streams": (written(readings(2)) + written(readings(2)), "Malformed", "more than one stream"),
    "something after the end": (written(readings(2)) + b"x", "Malformed", "no end mark"),
    "missing column": (
        written(readings(2).select(["unit", "cycle"])), "SchemaMismatch", "missing s1 (expected 3 fields, got 2)"
    ),
    "column twice": (
        written(pa.record_batch([*readings(2).columns, pa.array([1.0, 2.0])], ["unit", "cycle", "s1", "s1"])),
        "SchemaMismatch", "column s1 is there twice",
    ),
    "string for a number": (arrow_column("s1", pa.array(["1", "2"])), "SchemaMismatch", "s1: expected double, got string"),
    "fraction": (arrow_column("cycle", pa.array([1.0, 2.0])), "SchemaMismatch", "cycle: expected int64, got double"),
    "bool for a number": (arrow_column("s1", pa.array([True])), "SchemaMismatch", "expected double, got bool"),
    "dictionary": (arrow_column("unit", pa.array(["a"]).dictionary_encode()), "SchemaMismatch", "expected string, got dict"),
    "local time": (arrow_column("at", pa.array([0], pa.timestamp("us"))), "SchemaMismatch", "expected timestamp[us, tz=UTC]"),
    "does not fit": (arrow_column("small", pa.array([1, 40_000])), "BadValue", "40000"),
    "not exact": (arrow_column("s1", pa.array([2**53 + 1])), "BadValue", "9007199254740993"),
    "invalid UTF-8": (arrow_column("unit", not_utf8()), "Malformed", "UTF8"),
    "negative size": (
        written(readings(900, x=["z" * 1000] * 900), compression="zstd").replace(
            struct.pack("<q", 900_000), struct.pack("<q", -(2**40))
        ),
        "Malformed", "a buffer of negative size",
    ),
    "bomb in a dictionary": (
        written(readings(9, x=pa.array(["z" * 900_000] * 9).dictionary_encode()), compression="zstd"),
        "TooLarge", "bytes decoded",
    ),
    "too many rows": (written([readings(600), readings(401)]), "TooLarge", "expected at most 1000 rows, got 1001"),
    "too long": (b"x" * 100_001, "TooLarge", "expected at most 100000 bytes, got 100001"),
    "bomb": (
        written(readings(900, x=["z" * 1000] * 900), compression="zstd"), "TooLarge", "expected at most 100000 bytes decoded"
    ),
    "bomb of views": (
        written(readings(900, unit=one_text_in_many_rows(1000, 900))),
        "TooLarge", "bytes of strings, got 900000",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "error", "message"), BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_bad_stream_is_one_dead_letter_alone_and_among_good_ones(value, error, message):
    rows, (letter,) = decode_among_good(value, ARROW, max_rows=1000, max_bytes=100_000)
    assert rows == []
    assert (letter.offset, letter.row, letter.error, letter.value) == (500, None, error, value)
    assert message in letter.message
    decoder = Codec(topic="plant", schema=SCHEMA, max_rows=1000, max_bytes=100_000)
    good = [record(written(readings(3)), i, ARROW) for i in range(3)]
    batch, (beside,) = decoder.decode([good[0], record(value, 500, ARROW), *good[1:]])
    assert batch["_offset"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert beside == letter


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_stream_under_the_limit_is_read(compression):
    value = written(readings(900, x=["z" * 90] * 900), compression=compression)
    rows, letters = decode_among_good(value, ARROW, max_rows=1000, max_bytes=130_000)
    assert (len(rows), letters) == (900, [])


def test_columns_beside_the_schema_may_be_of_any_type():
    value = written(readings(2, x=pa.array(["a", "b"]).dictionary_encode(), y=[[1], []], z=[{"a": 1}, None]))
    rows, letters = decode_among_good(value, ARROW)
    assert (len(rows), letters) == (2, [])


def test_columns_beside_the_schema_are_rejected_if_wanted():
    rows, (letter,) = decode_among_good(written(readings(2, x=[1, 2])), ARROW, unknown="reject")
    assert (rows, letter.error) == ([], "SchemaMismatch")
    assert letter.message.startswith("unknown x")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_stream_never_harms_its_neighbours(data):
    value = bytearray(written(readings(20, s2=[0.5] * 20), compression=data.draw(st.sampled_from([None, "lz4"]))))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    value = bytes(value[: data.draw(st.integers(0, len(value)))]) if data.draw(st.booleans()) else bytes(value)
    good = written(readings(3))
    batch, letters = Codec(topic="plant", schema=SCHEMA, max_rows=1000).decode(
        [record(good, 0, ARROW), record(value, 1, ARROW), record(good, 2, ARROW)]
    )
    batch.validate(full=True)
    rows = [(row["_offset"], row["cycle"]) for row in batch.to_pylist() if row["_offset"] != 1]
    assert rows == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
    assert all(letter.offset == 1 and letter.value == value for letter in letters)


def test_rows_of_nothing_but_nulls_cannot_fill_memory():
    optional = pa.schema([pa.field(f"s{i}", pa.float64()) for i in range(50)])
    value = written(pa.record_batch({"s0": pa.nulls(900_000)}))
    assert len(value) < 1000
    batch, (letter,) = Codec(topic="plant", schema=optional).decode([record(value, 1, ARROW)])
    assert (batch.num_rows, letter.error) == (0, "TooLarge")
    assert letter.message == "expected at most 16777216 bytes decoded, got 360000000"


# Content types, settings


@pytest.mark.parametrize("written_as", [b"application/json", b"Application/JSON; charset=utf-8", None])
def test_json_is_known_by_its_header_or_by_none(written_as):
    rows, letters = decode_among_good(json.dumps(GOOD).encode(), [("Content-Type", written_as), ("trace", b"1")])
    assert (len(rows), letters) == (1, [])


def test_another_content_type_is_a_dead_letter():
    headers = [("content-type", b"application/json"), ("content-type", b"text/csv")]
    rows, (letter,) = decode_among_good(b"u1;7;0.5", headers)
    assert (rows, letter.error, letter.headers) == ([], "UnknownContentType", tuple(headers))
    assert letter.message == f"expected content-type application/json or {ARROW_STREAM}, got 'text/csv' (str)"


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([]),
        pa.schema([pa.field("_offset", pa.int64())]),
        pa.schema([pa.field("a", pa.int64()), pa.field("a", pa.int64())]),
        pa.schema([pa.field("a", pa.list_(pa.int64()))]),
        pa.schema([pa.field("a", pa.timestamp("ms"))]),
        pa.schema([pa.field("a", pa.timestamp("s", tz="UTC"))]),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_at_once(schema):
    with pytest.raises(ConfigError, match="plant: "):
        Codec(topic="plant", schema=schema)
