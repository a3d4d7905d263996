"""A poll becomes exactly its readings, at their offsets; everything else is a dead letter with the original bytes."""

import gc
import json
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from tests.support.codec_samples import (
    ARROW,
    BAD_VALUES,
    BESIDE,
    GOOD,
    GOOD_VALUES,
    SCHEMA,
    SENSORS,
    decode_among_good,
    readings,
    record,
    written,
)
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.fields import END_MS
from tocsin.pipelines.runtime.formats.arrow import Arrow
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.formats.json import HALVED_ROWS, Json
from tocsin.pipelines.runtime.formats.rows import DecodedPoll

ARROW_ALIAS = "application/x-apache-arrow-stream"


def test_a_poll_with_bad_records_is_freed_when_it_is_decoded() -> None:
    misfit = written(pa.record_batch({"unit": ["u1"]}))
    bad = [record(b"{"), record(b"no stream", 1, ARROW), record(misfit, 2, ARROW)]
    codec = Codec(topic="plant", schema=SCHEMA)
    gc.disable()
    try:
        _, letters = codec.decode(bad)
        polls = [held for held in gc.get_objects() if isinstance(held, DecodedPoll)]
    finally:
        gc.enable()
    assert (len(letters), polls) == (len(bad), [])


def test_a_poll_keeps_order_identity_and_kafka_time():
    records = [record(json.dumps({**GOOD, "cycle": i}).encode(), 2000 - i, (), i % 4, 5000 + i) for i in range(BESIDE)]
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode(records)
    assert letters == []
    assert batch.schema.names[:4] == ["_partition", "_offset", "_row", "_timestamp"]
    assert pa.schema(list(batch.schema)[4:]).equals(SCHEMA)
    assert batch["cycle"].to_pylist() == list(range(BESIDE))
    assert batch["_offset"].to_pylist() == [2000 - i for i in range(BESIDE)]
    assert batch["_partition"].to_pylist() == [i % 4 for i in range(BESIDE)]
    assert batch["_row"].to_pylist() == [0] * BESIDE
    assert batch["_timestamp"].cast(pa.int64()).to_pylist() == [5000 + i for i in range(BESIDE)]


def test_an_unknown_kafka_time_is_null():
    batch, _ = Codec(topic="plant", schema=SCHEMA).decode([record(json.dumps(GOOD).encode(), timestamp=-1)])
    assert batch["_timestamp"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("stamp", "says"),
    [
        (1_700_000_000_000_000, "microseconds?"),
        (1_700_000_000_000_000_000, "nanoseconds?"),
        (2**63 - 1, "got 9223372036854775807"),
        (END_MS, "got 7258118400000"),
        (-2, "got -2"),
        (-(2**63), "got -9223372036854775808"),
    ],
)
@pytest.mark.parametrize("many", [False, True], ids=["JSON", "Arrow"])
def test_a_record_whose_kafka_time_is_none_is_one_dead_letter(stamp, says, many):
    value, headers = (written(readings(3)), ARROW) if many else (json.dumps(GOOD).encode(), ())
    good = record(value, 1, headers), record(value, 3, headers, timestamp=END_MS - 1)
    batch, (letter,) = Codec(topic="plant", schema=SCHEMA).decode(
        [good[0], record(value, 2, headers, 3, stamp), good[1]]
    )
    assert set(batch["_offset"].to_pylist()) == {1, 3}
    assert (letter.offset, letter.row, letter.stage, letter.error) == (2, None, "decode", "BadTimestamp")
    assert letter.timestamp == stamp and letter.value is value
    assert letter.message.startswith("Kafka's timestamp: expected milliseconds") and letter.message.endswith(says)


def test_a_record_that_is_no_reading_and_has_no_time_either_is_one_dead_letter():
    _, letters = Codec(topic="plant", schema=SCHEMA).decode([record(b"x", 1, timestamp=-2)])
    assert [letter.error for letter in letters] == ["BadTimestamp"]


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (1_700_000_000_000_000, "microseconds"),
        (1_700_000_000_000_000_000, "nanoseconds"),
        (1_700_000_000.25, "seconds"),
        ("1700000000", "seconds"),
    ],
)
def test_a_time_in_another_unit_says_which_it_may_be(time, unit):
    rows, (letter,) = decode_among_good(json.dumps({**GOOD, "at": time}).encode())
    assert rows == []
    assert letter.message.startswith("at: expected ") and letter.message.endswith(f"; {unit}?")


def test_an_offset_that_leads_out_of_the_years_is_no_time():
    for time in ("2199-12-31T23:59:59-00:01", "1700-01-01T00:00:00+00:01"):
        rows, (letter,) = decode_among_good(json.dumps({**GOOD, "at": time}).encode())
        assert (rows, letter.error) == ([], "BadValue")


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


@pytest.mark.parametrize("value", GOOD_VALUES.values(), ids=GOOD_VALUES)
def test_json_written_otherwise_is_the_same_reading(value):
    (row,), letters = decode_among_good(value)
    assert letters == []
    assert {name: row[name] for name in GOOD} == GOOD


@pytest.mark.parametrize(("value", "error", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_a_dead_letter_alone_and_among_good_ones(value, error, message):
    rows, (letter,) = decode_among_good(value)
    assert rows == []
    assert (letter.topic, letter.partition, letter.offset, letter.row) == ("plant", 3, 5000, None)
    assert (letter.stage, letter.error) == ("decode", error)
    assert message in letter.message
    assert "\n" not in letter.message
    assert (letter.key, letter.value, letter.timestamp) == (b"key", value, 1_700_000_000_000)


def test_a_poll_of_whole_numbers_written_as_floats_is_read_at_once(monkeypatch):
    values = [json.dumps({**GOOD, "cycle": float(i), "small": float(i % 9), "at": 1000.0 * i}) for i in range(BESIDE)]
    monkeypatch.setattr(Json, "_object", None)  # the slow path must not run
    batch, letters = Codec(topic="plant", schema=SCHEMA).decode([record(v.encode(), i) for i, v in enumerate(values)])
    assert letters == []
    assert batch["cycle"].to_pylist() == [*range(BESIDE)]
    assert batch["small"].to_pylist() == [i % 9 for i in range(BESIDE)]
    assert batch["at"].cast(pa.int64()).to_pylist() == [1_000_000 * i for i in range(BESIDE)]


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
    bad = {*range(0, 9000, 331), 1, 2, 8998, 8999}
    values = [
        b'{"s1":"x"}' if i in bad else b"{%s}" % b",".join(b'"s%d":%d.25' % (k, i) for k in range(1, 25))
        for i in range(9000)
    ]
    assert len(values) > 4 * HALVED_ROWS
    batch, letters = Codec(topic="plant", schema=SENSORS).decode([record(v, 10 + i) for i, v in enumerate(values)])
    assert [letter.offset - 10 for letter in letters] == sorted(bad)
    good = [i for i in range(9000) if i not in bad]
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


@pytest.mark.parametrize(
    "written_as",
    [
        b"application/json",
        b"Application/JSON; charset=utf-8",
        b"text/json",
        b"application/vnd.plant.reading+json",
        None,
    ],
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
def test_json_is_known_by_its_header_or_by_none(name, written_as):
    rows, letters = decode_among_good(json.dumps(GOOD).encode(), [(name, written_as), ("trace", b"1")])
    assert (len(rows), letters) == (1, [])


@pytest.mark.parametrize(
    "written_as", ["application/vnd.apache.arrow.stream; v=5", "APPLICATION/VND.APACHE.ARROW.STREAM", ARROW_ALIAS]
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_a_stream_is_known_by_its_header(name, written_as):
    rows, letters = decode_among_good(written(readings(2)), [(name, written_as.encode())])
    assert (len(rows), letters) == (2, [])


def test_another_content_type_is_a_dead_letter():
    headers = [("content-type", b"application/json"), ("content-type", b"text/csv")]
    rows, (letter,) = decode_among_good(b"u1;7;0.5", headers)
    assert (rows, letter.error, letter.headers) == ([], "UnknownContentType", tuple(headers))
    assert letter.message == f"expected content-type application/json or {Arrow.media_type}, got 'text/csv' (str)"


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
