"""What the codec's tests share: a schema, records, values good and bad, and a bad one among good ones."""

import json
from datetime import UTC, datetime

import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.formats.arrow import Arrow
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.json import SLOW_ROWS

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
ARROW = [("content-type", Arrow.media_type.encode())]
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
    """Decode a value alone and between good ones; both must do the same. Returns its rows and dead letters."""
    decoder = Codec(topic="plant", schema=SCHEMA, **options)
    alone, dead_letters = decoder.decode([record(value, 5000, headers)])
    good = [record(json.dumps(GOOD).encode(), offset) for offset in range(BESIDE)]
    half = BESIDE // 2
    batch, among = decoder.decode([*good[:half], record(value, 5000, headers), *good[half:]])
    others = batch.filter(pa.array([offset != 5000 for offset in batch["_offset"].to_pylist()]))
    assert others["_offset"].to_pylist() == list(range(BESIDE))
    assert others.select(["unit", "cycle", "s1"]).to_pylist() == [GOOD] * BESIDE
    assert batch.num_rows == BESIDE + alone.num_rows
    assert batch.slice(half, alone.num_rows).equals(alone)
    assert among == dead_letters
    return alone.to_pylist(), dead_letters


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
    "whole numbers as floats": b'{"unit":"u1","cycle":7.0,"s1":0.5}',
    "whole numbers with exponents": b'{"unit":"u1","cycle":70e-1,"s1":0.5}',
    "another order": b'{"s1":0.5,"cycle":7,"unit":"u1"}',
}

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
    "whole but rounded": (
        b'{"unit":"u1","cycle":9007199254740993.0,"s1":1}',
        "BadValue",
        "got 9007199254740992.0 (float)",
    ),
    "whole but too large": (b'{"unit":"u1","cycle":7,"s1":1,"small":4e4}', "BadValue", "fits int16, got 40000.0"),
    "whole but below zero": (b'{"unit":"u1","cycle":7,"s1":1,"count":-1.0}', "BadValue", "fits uint64, got -1.0"),
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
    "key twice": (b'{"unit":"u1","cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "got field s1 twice"),
    "key twice with space": (b'{"unit":"a:b","cycle":7,"s1" : 1,"s1":2}', "SchemaMismatch", "got field s1 twice"),
    "key twice, escaped": (b'{"unit":"u1","cycle":7,"s1":1,"\\u00731":2}', "SchemaMismatch", "got field s1 twice"),
    "key twice, hidden": (b'{"unit":"\\u003a","cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "got field s1 twice"),
    "unknown key twice": (b'{"unit":"u1","cycle":7,"s1":1,"x":1,"x":2}', "SchemaMismatch", "got field x twice"),
    "key twice, a string short": (b'{"unit":1,"cycle":7,"s1":1,"s1":2}', "SchemaMismatch", "got field s1 twice"),
    "number for a string, one unknown": (b'{"unit":1,"cycle":7,"s1":1,"x":2}', "BadValue", "unit: expected a string"),
    "deep": (b'{"unit":"u1","cycle":7,"s1":' + b"[" * 100_000, "Malformed", "depth"),
    "time without offset": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2026-01-02T03:04:05"}', "BadValue", "RFC 3339"),
    "no such day": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2026-02-30T03:04:05Z"}', "BadValue", "RFC 3339"),
    "leap second": (b'{"unit":"u1","cycle":7,"s1":1,"at":"2016-12-31T23:59:60Z"}', "BadValue", "RFC 3339"),
    "time in nanoseconds": (b'{"unit":"u1","cycle":7,"s1":1,"at":1700000000000000000}', "BadValue", "milliseconds"),
    "time as a fraction": (b'{"unit":"u1","cycle":7,"s1":1,"at":1.7e0}', "BadValue", "milliseconds"),
    "time as a string": (b'{"unit":"u1","cycle":7,"s1":1,"at":"1700000000000"}', "BadValue", "RFC 3339"),
}
