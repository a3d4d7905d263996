"""Mutated messages, and an oracle that decodes them with only Python's json and pyarrow."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.crash.job import SCHEMA
from tests.crash.load import STEP_MS, Message, arrow, reading
from tests.crash.oracle import Readings

CONTENT = "content-type"
STREAM = b"application/vnd.apache.arrow.stream"
NAMES = [f.name for f in SCHEMA]
NULL = b"\0null"
EXACT = 2**53
"""From this number on, floats do not represent every integer."""
FIRST_GOOD = 50_000_000
"""The first unit of good messages. Mutants start from small units, so that no mutation yields a unit of good messages."""


def good(count: int, *, seed: int, units: int = 400) -> Iterator[Message]:
    """Yield good messages with one reading each; a unit stays on its partition."""
    rng = random.Random(seed)
    for i in range(count):
        unit = FIRST_GOOD + i % units
        content = reading(unit, 1 + i // units, rng.randrange(100) / 100 + 0.0005, float(rng.randrange(1000)))
        yield Message(unit % 2, json.dumps(content).encode(), [], 0, b"good")


def mutants(count: int, *, seed: int) -> Iterator[Message]:
    """Yield good messages with one or more mutations each; some are still valid."""
    rng = random.Random(seed)
    for i in range(count):
        value, kind = _base(rng, i)
        headers = [(CONTENT, kind)] if kind != JSON or rng.random() < 0.3 else []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            value = rng.choice(_ANY if kind == JSON or rng.random() < 0.6 else _STREAMS)(rng, value)
        if kind == JSON and rng.random() < 0.5:
            value = rng.choice(_OBJECTS)(rng, i)
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            headers.insert(rng.randrange(len(headers) + 1), rng.choice(_HEADERS)(rng))
        yield Message(rng.randrange(2), value, headers, 0, b"mutant %d \xff" % i)


class Name(str):
    """A header name that is not UTF-8, as a producer in C may write it."""

    def encode(self, *_: str) -> bytes:
        return super().encode() + b"\xff"


@contextmanager
def null_headers() -> Iterator[None]:
    """Make kafka-python write `NULL` as a header without a value, which other clients can write and it cannot."""
    append = DefaultRecordBatchBuilder.append

    def patched(self: Any, offset: int, at: int, key: Any, value: Any, headers: Any, **more: Any) -> Any:
        return append(self, offset, at, key, value, [(n, None if v == NULL else v) for n, v in headers], **more)

    with mock.patch.object(DefaultRecordBatchBuilder, "append", patched):
        yield


def shuffled(*kinds: Iterator[Message], seed: int, start_ms: int) -> Iterator[Message]:
    """Yield all messages with ascending timestamps in random order, in which each kind keeps its own order."""
    rng, left = random.Random(seed), [list(kind)[::-1] for kind in kinds]
    while filled := [kind for kind in left if kind]:
        start_ms += STEP_MS
        yield rng.choices(filled, [len(kind) for kind in filled])[0].pop()._replace(at_ms=start_ms)


JSON = b"application/json"


def _base(rng: random.Random, i: int) -> tuple[bytes, bytes]:
    rows = [_reading(rng, i, row) for row in range(rng.randrange(1, 6))]
    return (arrow(rows), STREAM) if rng.random() < 0.4 else (json.dumps(rows[0]).encode(), JSON)


def _reading(rng: random.Random, i: int, row: int = 0) -> dict[str, Any]:
    """Return a reading. Forty consecutive messages have the same unit, so that the valid ones fill windows."""
    return reading(1 + i // 40, 1 + 10 * (i % 40) + row, rng.randrange(100) / 100 + 0.0005, float(rng.randrange(1000)))


def _flip(rng: random.Random, value: bytes) -> bytes:
    out = bytearray(value)
    for _ in range(rng.choice([1, 1, 2, 8]) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng: random.Random, value: bytes) -> bytes:
    return value[: rng.randrange(len(value) + 1)]


def _splice(rng: random.Random, value: bytes) -> bytes:
    other, _ = _base(rng, rng.randrange(8000))
    return value[: rng.randrange(len(value) + 1)] + other[rng.randrange(len(other)) :]


def _put(rng: random.Random, value: bytes) -> bytes:
    at = rng.randrange(len(value) + 1)
    return value[:at] + rng.choice(_BITS) + value[at + rng.choice([0, 0, 1, 5]) :]


def _twice(rng: random.Random, value: bytes) -> bytes:
    return value + rng.choice([b"", b"\n", b" ", b",", b"\0"]) + value


def _around(rng: random.Random, value: bytes) -> bytes:
    before, after = rng.choice([(b" \n", b"\t\r\n"), (b"\xef\xbb\xbf", b""), (b"[", b"]"), (b"", b"}"), (b"\0", b"\0")])
    return before + value + after


def _encoded(rng: random.Random, value: bytes) -> bytes:
    return value.decode("latin-1").encode(rng.choice(["utf-16", "utf-32", "utf-8"]))


def _nothing(rng: random.Random, value: bytes) -> bytes | None:
    return rng.choice([None, b"", b" ", b"\n", b"{}", b"[]", b"null", b"0", bytes(rng.randbytes(rng.randrange(60)))])


_BITS = [b"\n", b"\r\n", b"\x00", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"\\u0031", b"\\ud800", b"}{", b":", b",", b"NaN",
         b"-", b"9" * 30, b"e400", b"e39", b".", b"[" * 3000, b'{"a":' * 3000, b"/*x*/", b"true", b"\xc3\xa9"]  # fmt: skip
_ANY: list[Callable[[random.Random, Any], Any]] = [
    lambda rng, value: _flip(rng, value or b""),
    lambda rng, value: _cut(rng, value or b""),
    lambda rng, value: _splice(rng, value or b""),
    lambda rng, value: _put(rng, value or b""),
    lambda rng, value: _twice(rng, value or b""),
    lambda rng, value: _around(rng, value or b""),
    lambda rng, value: _encoded(rng, value or b""),
    _nothing,
]

LITERALS = ["null", "true", "false", '""', '"7"', '"x"', "[]", "{}", "[1]", "7", "-7", "-0", "0", "7.0", "1.5", "-0.0", "1e2",
            "1E+2", "1e-400", "5e-324", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e39", "-3.4028235677973366e38",
            "3.4028234663852886e38", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
            "18446744073709551615", "18446744073709551616", "-4611686018427387904", "-4611686018427387903", "9" * 320, "01", "+1",
            ".5", "1.", "0x10", "1_000", "1e", "'x'", "\\u0031", "nul", '"\\ud800"', '"\\ud83d\\ude00"', '"\ud7ff"', '"\n"',
            '"\\u0000"', '"' + "y" * 9000 + '"', "[" * 400 + "]" * 400,
            "[" * 5000 + "]" * 5000, '{"heat":1}', "1 2", "1,", ""]  # fmt: skip


def _cells(rng: random.Random, i: int) -> list[tuple[str, str]]:
    return [(json.dumps(name), json.dumps(content)) for name, content in _reading(rng, i).items()]


def _written(rng: random.Random, cells: Sequence[tuple[str, str]]) -> bytes:
    space = rng.choice(["", "", " ", "\n", "\r", "\t "])
    text = "{" + f",{space}".join(f"{space}{name}{space}:{space}{content}" for name, content in cells) + f"{space}}}"
    return text.encode("utf-8", "surrogatepass")


def _other_type(rng: random.Random, i: int) -> bytes:
    cells = _cells(rng, i)
    at = rng.randrange(len(cells))
    cells[at] = (cells[at][0], rng.choice(LITERALS))
    return _written(rng, cells)


def _field_more(rng: random.Random, i: int) -> bytes:
    cells = _cells(rng, i)
    name = rng.choice(['"x"', '"heat"', '"cycle"', '"\\u0068eat"', '"Heat"', '""', '"x:y"', '"\\ud800"', "x"])
    cells.insert(rng.randrange(len(cells) + 1), (name, rng.choice(LITERALS)))
    return _written(rng, cells)


def _field_less(rng: random.Random, i: int) -> bytes:
    cells = _cells(rng, i)
    return _written(rng, rng.sample(cells, rng.randrange(len(cells) + 1)))


_OBJECTS = [_other_type, _other_type, _field_more, _field_less]


def _other_stream(rng: random.Random, value: bytes | None) -> bytes:
    """Return an Arrow stream with another schema, or with values that the schema cannot hold."""
    rows = [_reading(rng, rng.randrange(8000), row) for row in range(rng.choice([0, 1, 3, 8]))]
    columns: dict[str, Any] = {name: pa.array([r[name] for r in rows], SCHEMA.field(name).type) for name in NAMES}
    for name in rng.sample(NAMES, rng.choice([0, 1, 1, 2])):
        columns[name] = rng.choice(_COLUMNS)(rng, columns[name])
    order = rng.sample(NAMES, len(NAMES)) if rng.random() < 0.3 else list(NAMES)
    names = rng.choice([order, order, order, order[1:], [*order, "x"], [*order, order[0]]])
    arrays = [columns.get(name, pa.nulls(len(rows))) for name in names]
    batch = pa.RecordBatch.from_arrays(arrays, names)
    sink, compression = pa.BufferOutputStream(), rng.choice([None, None, "lz4", "zstd"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _spoilt(rng: random.Random, column: pa.Array) -> pa.Array:
    """Return the column with one value that is NaN, infinite or out of the type's range."""
    values = [float(v) for v in column.to_pylist()]
    if values:
        values[rng.randrange(len(values))] = rng.choice([math.nan, math.inf, -math.inf, 1e39, 1e300])
    return pa.array(values, pa.float64())


_COLUMNS: list[Callable[[random.Random, pa.Array], pa.Array]] = [
    _spoilt,
    lambda rng, column: pa.array([None, *column.to_pylist()][: len(column)], column.type),
    lambda rng, column: column.cast(pa.int16(), safe=False),
    lambda rng, column: column.cast(pa.float32(), safe=False),
    lambda rng, column: column.cast(pa.float16(), safe=False),
    lambda rng, column: column.cast(pa.string()),
    lambda rng, column: column.cast(pa.int32(), safe=False).dictionary_encode(),
    lambda rng, column: pa.array([rng.choice([1, 2**53 + 1, 2**63, 2**64 - 1]) for _ in column], pa.uint64()),
    lambda rng, column: pa.nulls(len(column)),
    lambda rng, column: pa.array([[1]] * len(column)),
    lambda rng, column: pa.array([True] * len(column)),
]
_STREAMS = [_other_stream, _other_stream, lambda rng, value: _flip(rng, value or b"")]

_HEADERS: list[Callable[[random.Random], tuple[str, bytes]]] = [
    lambda rng: ("trace", rng.randbytes(rng.randrange(20))),
    lambda rng: ("null", NULL),
    lambda rng: (Name("name"), b"\xff"),
    lambda rng: (CONTENT, NULL),
    lambda rng: ("Content-Type", rng.choice([JSON, STREAM, b"Application/JSON; charset=utf-8", b" application/json "])),
    lambda rng: (CONTENT, rng.choice([b"text/csv", b"", b"\xff\xfe", b"application/jso", STREAM + b"x"])),
    lambda rng: ("tocsin-row", rng.choice([b"1", b"x", NULL])),
    lambda rng: ("tocsin-replay", rng.choice([b"9" * 5000, b"\xff", NULL])),
    lambda rng: ("tocsin-dead-size", b"x"),
    lambda rng: ("tocsin-dead-sha256", b"0" * 64),
    lambda rng: ("__connect.errors.partition", b"x"),
    lambda rng: ("__connect.errors.topic", b"elsewhere"),
    lambda rng: ("long", rng.randbytes(3000)),
    lambda rng: ("\U0001f514", b"\x00"),
]


def readings(m: ConsumerRecord) -> Readings:
    """Yield a message's readings with their rows; None for a row, or a whole message, that has no valid reading."""
    named = [value for name, value in m.headers if name.lower() == CONTENT and value is not None]
    kind = named[-1].split(b";")[0].strip().lower() if named else JSON
    try:
        if kind == JSON:
            yield 0, _object(m.value or b"")
        elif kind == STREAM:
            yield from list(_rows(m.value or b""))
        else:
            yield None, None
    except (ValueError, TypeError, RecursionError, OverflowError, OSError, pa.ArrowException):
        yield None, None


def _object(value: bytes) -> dict[str, Any]:
    """Return the reading of a JSON message.

    Raises:
        ValueError: if it is not a reading by RFC 8259 and the schema.
    """
    found = json.loads(
        value.decode(), object_pairs_hook=list, parse_constant=_number, parse_float=_number, parse_int=_number
    )
    json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is not text
    names = [pair[0] for pair in found] if value.lstrip()[:1] == b"{" else []
    if len(set(names)) < len(names) or not {*NAMES} <= {*names}:
        raise ValueError(names)
    return {name: _cell(name, dict(found)[name]) for name in NAMES}


def _number(text: str) -> int | float:
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text) if {*text} & {*".eE"} else int(text)


def _cell(name: str, content: Any) -> int | float:
    if name in ("unit", "cycle"):
        if type(content) is float and content.is_integer() and abs(content) < EXACT:
            content = int(content)
        if type(content) is not int or not -(2**63) <= content < 2**63:
            raise ValueError(content)
        return content
    if type(content) not in (int, float):
        raise ValueError(content)
    return float(content)


def _rows(value: bytes) -> Readings:
    """Yield the readings of an Arrow stream.

    Raises:
        ValueError, OSError, pa.ArrowException: if the whole stream is invalid.
    """
    source = io.BytesIO(value)
    with pa.ipc.open_stream(source) as stream:
        schema, batches = stream.schema, list(stream)
    for batch in batches:
        batch.validate(full=True)
    table = pa.Table.from_batches(batches, schema)
    if not len(table):
        raise ValueError("no rows")
    if source.read() or not value.endswith(b"\xff\xff\xff\xff\0\0\0\0"):
        raise ValueError("cut short, or more than one stream")
    columns = []
    for name in NAMES:
        (at,) = schema.get_all_field_indices(name)
        kind, values = schema.field(at).type, table.column(at).to_pylist()
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise ValueError(f"{name} is {kind}")
        columns.append([_fitting(v, SCHEMA.field(name).type) for v in values])
    for row, cells in enumerate(zip(*columns, strict=True)):
        yield row, None if None in cells else dict(zip(NAMES, cells, strict=True))


def _fitting(value: int | float | None, kind: pa.DataType) -> int | float | None:
    """Convert a cell to its column's type; None if it does not fit."""
    if value is None or not math.isfinite(value):
        return None
    if kind == pa.float64():
        return float(value) if isinstance(value, float) or abs(value) <= EXACT else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < EXACT else None
    return value if -(2**63) <= value < 2**63 else None
