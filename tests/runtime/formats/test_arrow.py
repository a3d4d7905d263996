"""Arrow streams of many rows: a bad row alone is a dead letter, and no stream affects other messages."""

import json
import math
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.codec_samples import (
    ARROW,
    EPOCH,
    GOOD,
    NS,
    SCHEMA,
    decode_among_good,
    readings,
    record,
    written,
)
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.message import MAX_BAD_ROWS


def test_an_arrow_message_gives_its_rows_in_order():
    decoder = Codec(topic="plant", schema=SCHEMA)
    records = [
        record(written([readings(5), readings(3)]), 10, ARROW),
        record(json.dumps(GOOD).encode(), 11),
        record(written([readings(4).slice(0, 0), readings(4)]), 13, ARROW, partition=1),
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


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_whole_numbers_in_a_column_of_floats_are_integers(kind):
    value = written(readings(3, cycle=pa.array([1.0, -2.0, 3.0], kind), small=pa.array([1.0, None, -0.0], kind)))
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode([record(value, 1, ARROW)])
    assert letters == []
    assert batch.schema.field("cycle").type == pa.int64()
    assert (batch["cycle"].to_pylist(), batch["small"].to_pylist()) == ([1, -2, 3], [1, None, 0])


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


YEAR_1_MS, YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000


@pytest.mark.parametrize(
    ("written_as", "time"),
    [
        ("ms", YEAR_1_MS - 1),
        ("ms", YEAR_10000_MS),
        ("ms", 1_700_000_000_000_000),
        ("us", 1000 * YEAR_1_MS - 1),
        ("us", 1000 * YEAR_10000_MS),
        ("us", 1_700_000_000_000_000_000),
        ("s", 1_700_000_000_000),
        ("ns", 2**63 - 1),
    ],
)
def test_a_row_of_a_time_beyond_all_calendars_is_a_dead_letter_and_the_others_live(written_as, time):
    kind = pa.timestamp(written_as, "UTC")
    value = written(readings(3, at=pa.array([0, time, None], kind)))
    batch, (letter,) = Codec(topic="plant", schema=SCHEMA).decode([record(value, 1, ARROW)])
    assert batch["_row"].to_pylist() == [0, 2]
    assert (letter.row, letter.error) == (1, "BadValue")
    assert letter.message.startswith("at: expected an RFC 3339 time with an offset, or milliseconds since 1970")
    assert "from 1700 to 2199, got " in letter.message


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


def one_text_in_a_dictionary(size, rows):
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array(["z" * size]))


def _views(texts):
    places = pa.array(range(len(texts)), pa.int32())
    return pa.DictionaryArray.from_arrays(places, pa.array(texts, pa.string_view()))


def not_utf8():
    offsets, text = struct.pack("<ii", 0, 1), b"\xff"
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


BAD_STREAMS = {
    "tombstone": (None, "EmptyValue", "tombstone"),
    "empty": (b"", "EmptyValue", "no bytes"),
    "no rows": (written(readings(0)), "EmptyValue", "expected rows, got an empty stream"),
    "JSON": (json.dumps(GOOD).encode(), "Malformed", "Arrow IPC stream"),
    "cut short in a batch": (written(readings(50))[:-300], "Malformed", "Arrow IPC stream"),
    "cut short between batches": (written([readings(5), readings(5)], end=False), "Malformed", "truncated"),
    "two streams": (written(readings(2)) + written(readings(2)), "Malformed", "more than one stream"),
    "something after the end": (written(readings(2)) + b"x", "Malformed", "no end-of-stream mark"),
    "missing column": (
        written(readings(2).select(["unit", "cycle"])), "SchemaMismatch", "missing s1 (expected 3 fields, got 2)"
    ),
    "column twice": (
        written(pa.record_batch([*readings(2).columns, pa.array([1.0, 2.0])], ["unit", "cycle", "s1", "s1"])),
        "SchemaMismatch", "expected each column once, got column s1 twice",
    ),
    "string for a number": (arrow_column("s1", pa.array(["1", "2"])), "SchemaMismatch", "s1: expected double, got string"),
    "bool for a number": (arrow_column("s1", pa.array([True])), "SchemaMismatch", "expected double, got bool"),
    "local time": (arrow_column("at", pa.array([0], pa.timestamp("us"))), "SchemaMismatch", "expected timestamp[us, tz=UTC]"),
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
    "bomb of a dictionary": (
        written(readings(900, unit=one_text_in_a_dictionary(1000, 900))),
        "TooLarge", "bytes of strings, got 900000",
    ),
}  # fmt: skip


MISFITS = {
    "fraction": ("cycle", pa.array([1.0, 2.5]), "cycle: expected an integer that fits int64, got 2.5 (float)"),
    "rounded": ("cycle", pa.array([1.0, 2.0**53]), "floats are rounded from 2**53 on; send integers"),
    "whole but too large": ("small", pa.array([1.0, 4e4]), "small: expected an integer that fits int16, got 40000.0"),
    "NaN for an integer": ("cycle", pa.array([1.0, math.nan]), "got nan (float)"),
    "too large": ("small", pa.array([1, 40_000]), "small: expected an integer that fits int16, got 40000 (int)"),
    "below zero": ("count", pa.array([1, -1]), "count: expected an integer that fits uint64, got -1 (int)"),
    "not exact": ("s1", pa.array([1, 2**53 + 1]), "s1: expected a number that fits double, got 9007199254740993"),
    "a decimal with a fraction": ("cycle", pa.array([Decimal("1.0"), Decimal("2.5")]), "Decimal('2.5')"),
    "a time beyond 64 bits": ("at", pa.array([0, YEAR_10000_MS], pa.timestamp("s", "UTC")), "got 253402300800000 s since 1970"),
    "a time in the wrong column": ("at", pa.array([0, 17 * 10**11], pa.timestamp("s", "UTC")), "; microseconds?"),
    "in a dictionary": ("small", pa.array([1, 40_000]).dictionary_encode(), "got 40000 (int)"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "column", "message"), MISFITS.values(), ids=MISFITS)
def test_a_value_that_does_not_fit_is_a_dead_letter_and_the_other_rows_live(name, column, message):
    rows, (letter,) = decode_among_good(arrow_column(name, column), ARROW)
    assert len(rows) == 1 and rows[0]["_row"] == 0 and rows[0][name] is not None
    assert (letter.offset, letter.row, letter.error) == (5000, 1, "BadValue")
    assert message in letter.message and "\n" not in letter.message


@pytest.mark.parametrize("bad", [100, 101, 400])
def test_values_that_do_not_fit_are_a_letter_each_up_to_a_hundred(bad):
    value = arrow_column("small", pa.array([*[40_000] * bad, *range(100)]))
    rows, letters = decode_among_good(value, ARROW)
    if bad == 100:
        assert ([letter.row for letter in letters], len(rows)) == ([*range(100)], 100)
    else:
        assert (len(letters), letters[0].row, rows) == (1, None, [])
        assert letters[0].message.startswith(f"at least 101 of {bad + 100} rows are bad; the first, row 0: small: ")


FITTING = {
    "a dictionary of strings": ("unit", pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    "a dictionary of large strings": ("unit", pa.array(["a", "b"], pa.large_string()).dictionary_encode(), ["a", "b"]),
    "a dictionary of views": ("unit", _views(["a", "b" * 20]), ["a", "b" * 20]),
    "a dictionary with small places": ("unit", pa.array(["a"]).cast(pa.dictionary(pa.uint8(), pa.string())), ["a"]),
    "a dictionary of numbers": ("s1", pa.array([0.5, 2]).dictionary_encode(), [0.5, 2.0]),
    "a dictionary of times": (
        "at", pa.array([1000], pa.timestamp("ms", "UTC")).dictionary_encode(), [EPOCH + timedelta(seconds=1)]
    ),
    "a dictionary of nothing but nulls": ("s2", pa.array([None, None], pa.float64()).dictionary_encode(), [None, None]),
    "large strings": ("unit", pa.array(["a"], pa.large_string()), ["a"]),
    "string views": ("unit", pa.array(["a" * 20], pa.string_view()), ["a" * 20]),
    "half floats": ("s1", pa.array([0.5], pa.float16()), [0.5]),
    "decimals": ("s1", pa.array([Decimal("0.25")]), [0.25]),
    "whole decimals": ("cycle", pa.array([Decimal("7.00")]), [7]),
    "wider integers": ("small", pa.array([-7], pa.int64()), [-7]),
    "unsigned integers": ("cycle", pa.array([7], pa.uint64()), [7]),
    "integers for a float": ("s2", pa.array([7], pa.int8()), [7.0]),
    "times in seconds": ("at", pa.array([1], pa.timestamp("s", "Europe/Berlin")), [EPOCH + timedelta(seconds=1)]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "column", "meant"), FITTING.values(), ids=FITTING)
def test_a_column_of_any_type_that_holds_the_fields_values_is_read(name, column, meant):
    rows, letters = decode_among_good(arrow_column(name, column), ARROW)
    assert letters == []
    assert [row[name] for row in rows] == meant


def test_batches_with_dictionaries_of_their_own_are_read_in_order_and_in_any_number():
    parts = [readings(2, unit=pa.array(names).dictionary_encode()) for names in (["a", "b"], ["c", "a"], ["b", "b"])]
    records = [record(written(parts), 1, ARROW), record(written(parts[1]), 2, ARROW)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert letters == []
    assert batch["unit"].to_pylist() == [*"abcabb", *"ca"]


SENT = {
    "s1": (pa.array(["1"]), "expected double, got string; send any integer, float or decimal type"),
    "cycle": (pa.array([True]), "expected int64, got bool; send any integer type, or whole numbers"),
    "unit": (pa.array([b"a"]), "expected string, got binary; send string, large_string or string_view"),
    "at": (pa.array([0], pa.timestamp("us")), "got timestamp[us]; send a timestamp of any unit with a time zone"),
    "on": (pa.array([1]), "expected bool, got int64; send bool"),
}


@pytest.mark.parametrize("name", SENT)
def test_a_column_that_cannot_be_read_says_what_to_send_instead(name):
    column, message = SENT[name]
    rows, (letter,) = decode_among_good(arrow_column(name, column), ARROW)
    assert (rows, letter.row, letter.error) == ([], None, "SchemaMismatch")
    assert message in letter.message and letter.message.startswith(f"column {name}: ")


@pytest.mark.parametrize(("value", "error", "message"), BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_bad_stream_is_one_dead_letter_alone_and_among_good_ones(value, error, message):
    rows, (letter,) = decode_among_good(value, ARROW, max_rows=1000, max_bytes=100_000)
    assert rows == []
    assert (letter.offset, letter.row, letter.error, letter.value) == (5000, None, error, value)
    assert message in letter.message
    decoder = Codec(topic="plant", schema=SCHEMA, max_rows=1000, max_bytes=100_000)
    good = [record(written(readings(3)), i, ARROW) for i in range(3)]
    batch, (beside,) = decoder.decode([good[0], record(value, 5000, ARROW), *good[1:]])
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
