"""librdkafka's transactions while the broker is away."""

from __future__ import annotations

import time
from threading import Timer

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka.librdkafka import LIBRDKAFKA
from tocsin.pipelines.runtime.kafka.publisher import transactions
from tocsin.pipelines.runtime.kafka.transactions import Message

pytestmark = pytest.mark.kafka
AWAY_S = 20.0
"""Longer than the 15 s after which librdkafka gave up before."""


def test_a_commit_outlasts_a_broker_that_is_away_and_each_message_is_there_once(own_kafka: KafkaServer) -> None:
    options = {"bootstrap_servers": own_kafka.bootstrap_servers, "client": LIBRDKAFKA}
    with KafkaAdminClient(bootstrap_servers=own_kafka.bootstrap_servers) as admin:
        admin.create_topics({"alerts": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    publishing = transactions(options, "job/0", group="job")
    publishing.begin()
    publishing.commit([Message("alerts", b"k", b"0")], {})
    own_kafka.kill()
    back = Timer(AWAY_S, own_kafka.start)
    back.start()
    began = time.monotonic()
    for number in range(1, 4):
        publishing.commit([Message("alerts", b"k", b"%d" % number)], {})
    back.join()
    assert time.monotonic() - began > AWAY_S
    publishing.close()
    consumer = KafkaConsumer(
        bootstrap_servers=own_kafka.bootstrap_servers, group_id=None, isolation_level="read_committed"
    )
    consumer.assign([TopicPartition("alerts", 0)])
    consumer.seek_to_beginning(TopicPartition("alerts", 0))
    found, deadline = list[bytes](), time.monotonic() + 20
    while len(found) < 4 and time.monotonic() < deadline:
        found += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
    assert not consumer.poll(timeout_ms=1000)
    consumer.close()
    assert found == [b"0", b"1", b"2", b"3"]
