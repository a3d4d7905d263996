"""The floor: a bare relay. Each poll with an alert is one transaction, with a record more as Tocsin's journal takes one."""

import os
import sys
from datetime import UTC, datetime

import orjson


def alert_of(value, timestamp):
    reading = orjson.loads(value)
    if (reading["cycle"] + reading["unit"]) % 100:
        return None
    at = datetime.fromtimestamp(timestamp / 1000, UTC).isoformat().encode()
    return value, [("ce_time", at), ("ce_type", b"raised")]


def with_librdkafka(servers, topic, alerts):
    from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "none", "enable.auto.commit": False})
    consumer.assign(
        [TopicPartition(topic, p, OFFSET_END) for p in consumer.list_topics(topic).topics[topic].partitions]
    )
    producer = Producer({"bootstrap.servers": servers, "transactional.id": alerts, "linger.ms": 0})
    producer.init_transactions()
    while True:
        first = consumer.poll(1.0)
        messages = [first, *consumer.consume(999, 0)] if first else []
        found = [alert_of(m.value(), m.timestamp()[1]) for m in messages if not m.error()]
        if any(found):
            producer.begin_transaction()
            for value, headers in filter(None, found):
                producer.produce(alerts, value, headers=headers)
            producer.produce(f"{alerts}.journal", b"step")
            producer.commit_transaction()


def with_kafka_python(servers, topic, alerts):
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=servers, group_id=None, fetch_max_wait_ms=100)
    assigned = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(assigned)
    consumer.seek_to_end(*assigned)
    producer = KafkaProducer(
        bootstrap_servers=servers, transactional_id=alerts, acks="all", linger_ms=0, retry_backoff_ms=2
    )
    producer.init_transactions()
    while True:
        polled = [record for records in consumer.poll(1000).values() for record in records]
        found = [alert_of(record.value, record.timestamp) for record in polled]
        if any(found):
            producer.begin_transaction()
            for value, headers in filter(None, found):
                producer.send(alerts, value, headers=headers)
            producer.send(f"{alerts}.journal", b"step")
            producer.commit_transaction()


if __name__ == "__main__":
    relay = {"librdkafka": with_librdkafka, "kafka-python": with_kafka_python}[sys.argv[1]]
    relay(os.environ["KAFKA"], os.environ["TOPIC"], os.environ["ALERTS"])
