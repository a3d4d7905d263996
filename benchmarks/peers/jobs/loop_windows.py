"""By hand: a loop that decodes a poll into a data frame, with kafka-python or librdkafka. It keeps no position and no state."""

import os
import sys

import parquet_files
import polars as pl

LENGTH, POLL, ROWS = 30, 5000, 200_000
SENSORS = ["setting1", "setting2", "setting3", *(f"s{i}" for i in range(1, 22))]
SCHEMA = {"unit": pl.Int64, "cycle": pl.Int64, **dict.fromkeys(SENSORS, pl.Float64)}


def polls_of_librdkafka(servers, topic, content):
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    while True:
        messages = [message for message in consumer.consume(POLL, 0.1) if not message.error()]
        yield [content(message.value(), message.headers) for message in messages]


def polls_of_kafka_python(servers, topic, content):
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=servers, group_id=None, max_poll_records=POLL, max_partition_fetch_bytes=8 << 20
    )
    assigned = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(assigned)
    consumer.seek_to_beginning(*assigned)
    while True:
        records = [record for records in consumer.poll(100).values() for record in records]
        yield [content(record.value, lambda record=record: record.headers) for record in records]


def value_alone(value, headers):
    return value


def with_headers(value, headers):
    return value, dict(headers())


def decode(values):
    """The readings of a poll."""
    return pl.read_ndjson(b"\n".join(values), schema=SCHEMA)


class Means:
    """The rows of a poll; keeps each unit's last readings for the next poll."""

    def __init__(self):
        self._tails = pl.DataFrame(schema={"unit": pl.Int64, "cycle": pl.Int64, "value": pl.Float64})

    def __call__(self, frame):
        frame = pl.concat([self._tails, frame.select("unit", "cycle", value=pl.mean_horizontal(SENSORS))])
        mean = pl.col("value").rolling_mean(LENGTH).over("unit")
        rows = frame.with_columns(mean=mean).slice(len(self._tails)).drop_nulls("mean").drop("value")
        self._tails = frame.group_by("unit", maintain_order=True).tail(LENGTH - 1)
        return rows


def main(client, decode=decode, judge=None, content=value_alone):
    polls = {"librdkafka": polls_of_librdkafka, "kafka-python": polls_of_kafka_python}[client]
    judge, held, has_written = judge or Means(), [], False
    for values in polls(os.environ["KAFKA"], os.environ["TOPIC"], content):
        if values and (rows := judge(decode(values))) is not None and len(rows):
            held.append(rows)
        if held and (not values or not has_written or sum(map(len, held)) >= ROWS):
            parquet_files.write(pl.concat(held).to_arrow())
            held, has_written = [], True


if __name__ == "__main__":
    main(sys.argv[1])
