"""A dead letter carries the unchanged original and the reason, and never grows too large for its topic."""

import base64
import hashlib
import json

import orjson
import pytest
from kafka.consumer.fetcher import ConsumerRecord
from pyarrow import fs

from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.kafka.dead_letters import (
    ROW_SIZE_LIMIT,
    SIZE_LIMIT,
    DeadLetterTally,
    OriginalStore,
    load_original,
    store_original,
)

KAFKA_DEFAULT_LIMIT = 1024 * 1024


def letter(*, value=b"{}", key=b"k", headers=(("trace", b"1"),), row=None, message="expected 21 sensors, got 20"):
    record = ConsumerRecord("sensors.industrial", 3, 0, 1042, 1700, 0, key, value, list(headers), None, 1, 1, 1)
    return DeadLetter.of(record, stage="decode", error="BadValue", message=message, row=row)


@pytest.fixture
def store(tmp_path):
    return OriginalStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "", uri="s3://bucket/lake")


def size(dead):
    return len(dead.key or b"") + len(dead.value or b"") + sum(len(n) + len(v) for n, v in dead.headers_out())


def test_it_says_where_what_and_where_to_in_one_line():
    where = "sensors.industrial[3]@1042"
    assert str(letter()) == f"{where}: expected 21 sensors, got 20; sent to sensors.industrial.dlq"
    assert str(letter(row=7)).startswith(f"{where} row 7: expected")


def test_its_record_is_the_original_with_the_reason_after_its_headers():
    dead = letter(row=7)
    assert (dead.destination, dead.key, dead.value) == ("sensors.industrial.dlq", b"k", b"{}")
    assert dead.headers_out() == [
        ("trace", b"1"),
        ("__connect.errors.topic", b"sensors.industrial"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"1042"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.exception.class.name", b"BadValue"),
        ("__connect.errors.exception.message", b"expected 21 sensors, got 20"),
        ("tocsin-timestamp", b"1700"),
        ("tocsin-row", b"7"),
    ]
    assert "tocsin-row" not in dict(letter().headers_out())


def test_a_tombstone_stays_one_and_any_text_fits_a_header():
    dead = letter(value=None, message="half a pair: \ud800, " + "x" * 2_000_000)
    assert dead.value is None
    assert size(dead) < 2000


OURS = (
    ("__connect.errors.topic", b"elsewhere"),
    ("__connect.errors.offset", b"x"),
    ("tocsin-row", b"x"),
    ("tocsin-timestamp", b""),
    ("tocsin-null-headers", b"0"),
    ("tocsin-dead-sha256", b"0" * 64),
    ("tocsin-dead-size", b"x"),
)


@pytest.mark.parametrize(
    "headers", [(("a", None), ("a", b""), ("a", None)), OURS], ids=["null values", "named like ours"]
)
@pytest.mark.parametrize("value", [b"x", b"x" * 600_000], ids=["small", "large"])
@pytest.mark.parametrize("key", [b"\xff", b"k" * 600_000], ids=["short key", "long key"])
@pytest.mark.parametrize("row", [None, 7])
def test_what_is_published_is_read_back_as_it_was_whatever_the_headers(store, headers, value, key, row):
    dead = letter(value=value, key=key, headers=headers, row=row)
    small = store_original(dead, store)
    out = small.headers_out()
    assert all(type(content) is bytes for _, content in out)  # the client accepts no other type
    published = ConsumerRecord("sensors.industrial.dlq", 0, 0, 5, 99, 0, small.key, small.value, out, None, 1, 1, 1)
    back = DeadLetter.read(published)
    assert back == small and load_original(back, store) == dead
    assert back.size == (len(value) if key == b"\xff" else int(dict(small.kept)["tocsin-dead-size"]))


def test_a_small_original_is_left_alone(store, tmp_path):
    small = letter(value=b"x" * (SIZE_LIMIT - 100))
    assert store_original(small, store) is small
    assert store_original(letter(value=None), store) == letter(value=None)
    assert list(tmp_path.iterdir()) == []


def test_a_large_original_goes_to_the_lake_by_its_hash(store, tmp_path):
    value = bytes(range(256)) * 4096 * 20
    digest = hashlib.sha256(value).hexdigest()
    large = store_original(letter(value=value), store)
    assert large.value is None
    assert large.key == b"k"
    assert large.headers == (("trace", b"1"),)
    assert large.kept == (
        ("tocsin-dead-uri", f"s3://bucket/lake/_dead/{digest}".encode()),
        ("tocsin-dead-sha256", digest.encode()),
        ("tocsin-dead-size", str(len(value)).encode()),
    )
    assert [path.name for path in (tmp_path / "_dead").iterdir()] == [digest]
    assert (tmp_path / "_dead" / digest).read_bytes() == value


def test_writing_it_again_changes_nothing(store, tmp_path):
    large = letter(value=b"x" * 600_000)
    first = store_original(large, store)
    (path,) = (tmp_path / "_dead").iterdir()
    before = path.stat().st_mtime_ns
    after_a_crash = OriginalStore(fs.LocalFileSystem(), str(tmp_path), uri="s3://bucket/lake")
    assert store_original(large, after_a_crash) == store_original(large, store) == first
    assert path.stat().st_mtime_ns == before
    assert list((tmp_path / "_dead").iterdir()) == [path]


def test_an_interrupted_write_is_not_taken_for_the_original(store, tmp_path):
    large = letter(value=b"x" * 600_000)
    name = hashlib.sha256(large.value).hexdigest()
    (tmp_path / "_dead").mkdir()
    (tmp_path / "_dead" / f"{name}.0123").write_bytes(b"x" * 10)
    store_original(large, store)
    assert (tmp_path / "_dead" / name).read_bytes() == large.value


def test_rows_of_one_message_share_one_stored_original(store, tmp_path):
    rows = [store_original(letter(value=b"x" * (ROW_SIZE_LIMIT + 1), row=i), store) for i in range(100)]
    assert len(list((tmp_path / "_dead").iterdir())) == 1
    assert sum(size(row) for row in rows) < SIZE_LIMIT
    short = letter(value=b"x" * 1000, row=1)
    assert store_original(short, store) is short


@pytest.mark.parametrize("headers", [[("h", b"v" * 900_000)], [(f"h{i}", b"v" * 1000) for i in range(900)]])
def test_a_huge_key_or_headers_take_the_whole_record_to_the_lake(store, tmp_path, headers):
    whole = letter(key=b"\xff" * 100, value=b"\x00", headers=headers, row=3)
    outside = store_original(whole, store)
    assert size(outside) < 2000 < KAFKA_DEFAULT_LIMIT
    fields = dict(outside.headers_out())
    assert fields["tocsin-dead-format"] == b"record"
    kept = json.loads((tmp_path / "_dead" / fields["tocsin-dead-sha256"].decode()).read_bytes())
    assert base64.b64decode(kept["key"]) == whole.key
    assert base64.b64decode(kept["value"]) == whole.value
    assert [(name, base64.b64decode(v)) for name, v in kept["headers"]] == headers


def test_a_tally_counts_and_keeps_the_newest_and_survives_a_snapshot_and_a_move_of_shards():
    tally = DeadLetterTally()
    tally.note([], "t", 1)
    assert tally.facts() == {"dead_letters": 0, "dead_letter": None}
    tally.note([letter(), letter(row=7, message="got \ud800" + "x" * 2000)], "t", 5)
    stored = json.loads(orjson.dumps(tally.facts()))
    newest = {"topic": "t", "partition": 3, "offset": 1042, "row": 7, "stage": "decode", "error": "BadValue", "at": 5}
    assert DeadLetterTally.of(stored) == tally and tally.newest == newest | {"message": "got ?" + "x" * 995}
    later = DeadLetterTally(2, {**newest, "at": 9})
    assert DeadLetterTally.of(stored, {"now": 3}, later.facts()) == DeadLetterTally(4, later.newest)
    assert DeadLetterTally.of({}) == DeadLetterTally.of() == DeadLetterTally()
