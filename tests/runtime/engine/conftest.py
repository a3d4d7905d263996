"""Fixtures of the engine's tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from contextlib import closing

import pytest
from kafka import TopicPartition

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.kafka import clients

WriteJournal = Callable[..., TopicPartition]


@pytest.fixture
def write_journal(kafka: KafkaServer) -> WriteJournal:
    """`write_journal(records, commit=True)` writes each record, a key and a value, to shard 1 in a transaction of its own."""
    options, topic = {"bootstrap_servers": kafka.bootstrap_servers}, f"_tocsin.{uuid.uuid4().hex}"
    with clients.admin(options) as admin:
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)

    def write(records: Iterable[tuple[bytes, bytes]], commit: bool = True) -> TopicPartition:
        with closing(clients.producer(options, transactional_id=topic)) as producer:
            producer.init_transactions()
            for key_, value in records:
                producer.begin_transaction()
                producer.send(topic, key=key_, value=value, partition=1)
                producer.flush()
                producer.commit_transaction() if commit else producer.abort_transaction()
        return TopicPartition(topic, 1)

    return write
