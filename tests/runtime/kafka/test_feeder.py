"""The feeder on Apache Kafka: placement, order, pace, types and errors."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Event, Timer
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.kafka import feeder
from tocsin.pipelines.runtime.kafka.feeder import feed

PARTITIONS = 4


@pytest.fixture
def topic(create_topic: Callable[..., str]) -> Callable[..., str]:
    """`topic(**config)` creates a topic of 4 partitions with this configuration, and returns its name."""
    return lambda **config: create_topic("feed", partitions=PARTITIONS, config=config)


@pytest.fixture
def options(kafka: Any) -> dict[str, Any]:
    return {"bootstrap_servers": kafka.bootstrap_servers}


def read(kafka: Any, topic: str) -> dict[int, list[Any]]:
    """Return all records of a topic by partition."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, check_crcs=True)
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    end = consumer.end_offsets(partitions)
    records: dict[int, list[Any]] = {p.partition: [] for p in partitions}
    while any(consumer.position(p) < end[p] for p in partitions):
        for partition, polled in consumer.poll(1000).items():
            records[partition.partition] += polled
    consumer.close()
    return records


def rows(records: list[Any]) -> list[dict[str, Any]]:
    if records and records[0].headers == [("content-type", b"application/json")]:
        return [orjson.loads(record.value) for record in records]
    assert all(record.headers == [("content-type", b"application/vnd.apache.arrow.stream")] for record in records)
    return [row for record in records for row in pa.ipc.open_stream(record.value).read_all().to_pylist()]


def readings(count: int, keys: int = 37) -> pl.DataFrame:
    """Return rows of interleaved keys. `step` counts each key's rows, `row` all rows."""
    return pl.DataFrame({"row": range(count)}).with_columns(
        unit=pl.col("row") % keys, step=pl.col("row") // keys, value=pl.col("row") / 7
    )


@pytest.mark.parametrize("format", ["json", "arrow"])
def test_all_rows_of_a_key_are_on_one_partition_in_order(kafka, topic, options, format) -> None:
    name, table = topic(), readings(5_000)
    batches = [table.slice(start, 700) for start in range(0, 5_000, 700)]
    report = feed(batches, kafka=options, topic=name, key="unit", format=format, rows_per_message=50)

    records = read(kafka, name)
    assert report.rows == 5_000
    assert report.messages == sum(len(on) for on in records.values())
    assert sorted((row for on in records.values() for row in rows(on)), key=lambda row: row["row"]) == table.to_dicts()
    seen: dict[int, int] = {}
    for partition, on in records.items():
        steps: dict[int, int] = {}
        for row in rows(on):
            assert seen.setdefault(row["unit"], partition) == partition
            assert row["step"] == steps.get(row["unit"], -1) + 1
            steps[row["unit"]] = row["step"]
    assert len(set(seen.values())) == PARTITIONS


def test_both_formats_and_a_plain_producer_agree_where_a_key_lives(kafka, topic, options) -> None:
    table, names = readings(200), [topic(), topic(), topic()]
    feed([table], kafka=options, topic=names[0], key="unit", format="json")
    feed([table], kafka=options, topic=names[1], key="unit", format="arrow")
    producer = KafkaProducer(**options)
    for row in table.to_dicts():
        producer.send(names[2], orjson.dumps(row), str(row["unit"]).encode(), [("content-type", b"application/json")])
    producer.close()
    json, arrow, plain = (read(kafka, name) for name in names)
    assert [{row["unit"] for row in rows(json[p])} for p in json] == [
        {row["unit"] for row in rows(plain[p])} for p in plain
    ]
    assert [rows(json[p]) for p in json] == [rows(arrow[p]) for p in arrow]
    assert all(record.key == str(rows([record])[0]["unit"]).encode() for on in json.values() for record in on)


def test_arrow_keeps_every_column_type(kafka, topic, options) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "asset": pa.array(["pump-1", "pump-3", "pump-1"]).dictionary_encode(),
            "count": pa.array([1, 2, None], pa.int16()),
            "level": pa.array([0.5, float("nan"), 2], pa.float32()),
            "at": pa.array([1, 2, 3], pa.timestamp("ns", "Europe/Oslo")),
            "raw": pa.array([b"\x00", b"", None], pa.binary()),
        },
    )
    name = topic()
    assert feed([batch], kafka=options, topic=name, key="asset", format="arrow").messages == 2
    read_back = {on[0].value: partition for partition, on in read(kafka, name).items() if on}
    tables = [pa.ipc.open_stream(value).read_all() for value in read_back]
    assert all(table.schema.equals(batch.schema, check_metadata=True) for table in tables)
    both = pa.concat_tables(sorted(tables, key=lambda table: table["asset"][0].as_py()))
    assert both.cast(both.schema).to_pydict()["raw"] == [b"\x00", None, b""]
    assert both["at"].to_pylist() == batch.take([0, 2, 1])["at"].to_pylist()


@pytest.mark.parametrize(("format", "rows_per_message"), [("json", 1), ("arrow", 20)])
def test_the_rate_is_held_evenly(kafka, topic, options, format, rows_per_message) -> None:
    name = topic()
    report = feed(
        [readings(4_000)],
        kafka={**options, "linger_ms": 0},
        topic=name,
        key="unit",
        rate=2_000,
        format=format,
        rows_per_message=rows_per_message,
    )
    assert report.seconds == pytest.approx(2, rel=0.1)
    assert report.behind < 0.3
    sent = sorted((r.timestamp, len(rows([r]))) for on in read(kafka, name).values() for r in on)
    quarters = [0] * 4
    for at, count in sent:
        quarters[min(3, (at - sent[0][0]) // 500)] += count
    assert all(count == pytest.approx(1_000, rel=0.25) for count in quarters), quarters


def test_after_a_stall_the_feed_catches_up_and_says_how_late_it_was(topic, options) -> None:
    def stalling() -> Iterator[pl.DataFrame]:
        yield readings(500)
        time.sleep(0.6)
        yield readings(1_500)

    report = feed(stalling(), kafka=options, topic=topic(), key="unit", rate=1_000)
    assert report.seconds == pytest.approx(2, rel=0.1)
    assert 0.5 < report.behind < 0.9


def test_a_rate_out_of_reach_is_reported_honestly(topic, options) -> None:
    report = feed([readings(20_000)], kafka=options, topic=topic(), key="unit", rate=10_000_000)
    assert report.behind > 0.05
    assert report.behind == pytest.approx(report.seconds - 20_000 / 10_000_000, abs=1)
    assert report.rows / report.seconds < 1_000_000


def test_a_stopped_feed_has_delivered_what_it_reports(kafka, topic, options) -> None:
    def endless() -> Iterator[pl.DataFrame]:
        while True:
            yield readings(100)

    def progress(rows: int) -> None:
        seen.append(rows)
        if rows >= 2_000:
            stop.set()

    name, stop, seen = topic(), Event(), []
    report = feed(endless(), kafka=options, topic=name, key="unit", rate=10_000, stop=stop, progress=progress)
    assert seen == list(range(100, 2_001, 100))
    assert report.rows == 2_000 == sum(len(on) for on in read(kafka, name).values())


def test_what_is_in_flight_is_bounded(kafka, topic, options, monkeypatch) -> None:
    monkeypatch.setattr(feeder, "IN_FLIGHT", 10_000)
    name = topic()
    assert feed([readings(3_000)], kafka=options, topic=name, key="unit").messages == 3_000
    assert sum(len(on) for on in read(kafka, name).values()) == 3_000


@pytest.mark.parametrize("format", ["json", "arrow"])
def test_rows_are_stamped_with_the_time_of_sending(kafka, topic, options, format) -> None:
    name, before = topic(), datetime.now(UTC)
    table = readings(100, keys=1).with_columns(taken=pl.lit("long ago"))
    feed(
        [table], kafka=options, topic=name, key="unit", rate=200, event_time="taken", format=format, rows_per_message=10
    )
    [on] = (on for on in read(kafka, name).values() if on)
    taken = [row["taken"] for row in rows(on)]
    taken = [datetime.fromisoformat(at) for at in taken] if format == "json" else taken
    assert before <= taken[0] < taken[-1] <= datetime.now(UTC)
    assert taken == sorted(taken)
    assert 0.3 < (taken[-1] - taken[0]).total_seconds() < 0.7


def test_a_broker_that_is_killed_and_comes_back_has_each_row_once(own_kafka: KafkaServer) -> None:
    name, table, options = "feed", readings(6_000), {"bootstrap_servers": own_kafka.bootstrap_servers}
    with KafkaAdminClient(**options) as admin:
        admin.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True)
    crash = Timer(0.7, lambda: (own_kafka.kill(), own_kafka.start()))
    crash.start()
    report = feed([table], kafka=options, topic=name, key="unit", rate=3_000)
    crash.join()
    assert report.rows == 6_000
    assert report.seconds > 2.5  # otherwise, the kill came too late
    assert sorted(row["row"] for on in read(own_kafka, name).values() for row in rows(on)) == list(range(6_000))


def test_the_setting_that_chooses_a_pipelines_client_is_accepted(topic, options) -> None:
    assert feed([readings(7)], kafka={**options, "client": "librdkafka"}, topic=topic(), key="unit").messages == 7


def test_a_missing_topic_gives_one_line_and_is_not_created(kafka, options) -> None:
    with pytest.raises(Unavailable) as raised:
        feed([readings(1)], kafka=options, topic="never-made", key="unit")
    assert_one_line(raised, "never-made", str(kafka.bootstrap_servers), "create the topic")
    with KafkaAdminClient(**options) as admin:
        assert "never-made" not in admin.list_topics()


def test_a_missing_broker_gives_one_line() -> None:
    with pytest.raises(Unavailable) as raised:
        feed(
            [readings(1)],
            kafka={"bootstrap_servers": "localhost:1", "bootstrap_timeout_ms": 1000},
            topic="sensors",
            key="unit",
        )
    assert_one_line(raised, "topic sensors at localhost:1", "broker is up")


def test_a_row_that_is_not_acknowledged_is_never_dropped_silently(topic, options) -> None:
    name = topic(**{"cleanup.policy": "compact"})  # takes no message without a key
    with pytest.raises(Unavailable) as raised:
        feed([readings(10)], kafka=options, topic=name, key="unit", format="arrow")
    assert_one_line(raised, name, "Compacted topic")


@pytest.mark.parametrize("format", ["json", "arrow"])
def test_a_message_that_the_topic_refuses_for_its_size_gives_one_line(topic, options, format) -> None:
    table = readings(100, keys=1).with_columns(text=pl.lit("x" * 3_000))
    name = topic(**{"max.message.bytes": "2000"})
    with pytest.raises(ConfigError) as raised:
        feed([table], kafka=options, topic=name, key="unit", format=format)
    assert_one_line(raised, name, "MessageSizeTooLarge", "lower rows_per_message")


@pytest.mark.parametrize(
    ("arguments", "table", "said"),
    [
        ({"key": "engine"}, readings(1), "'engine'"),
        ({"key": "unit"}, pl.DataFrame({"unit": [1, None]}), "null in 1 of 2 rows"),
        ({"key": "unit"}, pl.DataFrame({"unit": [1], "raw": [b"\x00"]}), "feed Arrow"),
        ({"key": "unit", "rate": 0}, readings(1), "rate 0"),
        ({"key": "unit", "kafka": {"nonsense": 1}}, readings(1), "nonsense"),
    ],
)
def test_what_cannot_be_fed_gives_one_line(topic, options, arguments, table, said) -> None:
    with pytest.raises(ConfigError) as raised:
        feed([table], **{"topic": topic(), **arguments, "kafka": {**options, **arguments.get("kafka", {})}})
    assert_one_line(raised, said)


def assert_one_line(raised: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    text = str(raised.value)
    assert "\n" not in text
    assert all(part in text for part in parts), text


def test_a_frame_is_a_message_with_its_facts_in_headers(kafka, topic, options) -> None:
    name, at = topic(), datetime(2026, 1, 31, 12, tzinfo=UTC)
    facts = {
        "camera": ["a", "b"],
        "sequence": [1, 2],
        "time": [at, at],
        "note": [None, "x"],
        "jpeg": [b"first", b"second"],
    }
    report = feed([pl.DataFrame(facts)], kafka=options, topic=name, key="camera", format="jpeg")
    sent = sorted((record for on in read(kafka, name).values() for record in on), key=lambda record: record.key)
    assert report.messages == report.rows == 2
    assert [(record.key, record.value) for record in sent] == [(b"a", b"first"), (b"b", b"second")]
    said = [
        ("content-type", b"image/jpeg"),
        ("camera", b"b"),
        ("sequence", b"2"),
        ("time", b"2026-01-31T12:00:00+00:00"),
    ]
    assert sent[1].headers == [*said, ("note", b"x")]
    with pytest.raises(ConfigError, match="expected a column jpeg with each frame's file, got \\['camera'\\]"):
        feed([pl.DataFrame({"camera": ["a"]})], kafka=options, topic=name, key="camera", format="jpeg")
