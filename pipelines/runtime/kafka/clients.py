"""Kafka clients with the settings that exactly-once needs. TLS and SASL options pass through unchanged."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.kafka import private
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent

COORDINATOR_S = 10.0
"""Seconds to wait for a group's coordinator."""


def consumer(options: Mapping[str, Any], **more: Any) -> KafkaConsumer:
    """A consumer without a group: partitions are assigned by hand, positions are kept in the lake."""
    # The minimum time between two metadata requests. With kafka-python's 100 ms, each start waits for it twice.
    quick = {"retry_backoff_ms": 20}
    fixed = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
    }
    return _connect(KafkaConsumer, {**quick, **options, **fixed, **more})


def producer(options: Mapping[str, Any], **more: Any) -> KafkaProducer:
    """An idempotent producer; with `transactional_id` a transactional one."""
    # kafka-python waits `retry_backoff_ms` between a transaction's steps. Its default of 100 ms makes a commit 110 ms.
    fixed = {"acks": "all", "retry_backoff_ms": 2, "transaction_timeout_ms": 15_000, "allow_auto_create_topics": False}
    created = _connect(KafkaProducer, {**options, **fixed, **more})
    if created.config["transactional_id"]:
        # A producer fenced in mid-transaction would ask for a new epoch (KIP-360), which aborts its successor's.
        created._transaction_manager._supports_epoch_bump = lambda: False
    return created


def admin(options: Mapping[str, Any]) -> KafkaAdminClient:
    """An admin client."""
    return _connect(KafkaAdminClient, dict(options))


class Patience:
    """Decides whether to keep waiting for Kafka.

    An unreachable broker may return. One that is reachable, but has not ended the operation in time, is not expected to.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.waiting = False
        """Whether the broker was unreachable at the last check."""

    def lasts(self) -> bool:
        """Whether to keep waiting; checks the broker within a few seconds.

        True also when the broker has just returned, so that the caller waits its full time again.
        """
        was_waiting, quick = self.waiting, {"bootstrap_timeout_ms": 5000, "request_timeout_ms": 5000}
        try:
            _connect(KafkaAdminClient, {**self._options, **quick}).close()
            self.waiting = False
        except (Unavailable, KafkaError):
            self.waiting = True
        return self.waiting or was_waiting


def partitions(client: KafkaAdminClient, topics: Collection[str]) -> dict[str, int]:
    """The number of partitions of each topic. Missing topics are left out."""
    described = client.describe_topics(sorted(topics))
    return {d["name"]: len(d["partitions"]) for d in described if not d.get("error_code")}


def partitions_of(consumer: KafkaConsumer, topic: str) -> set[int]:
    """A topic's partitions according to the broker; empty if there is no such topic, or this user may not see it.

    The consumer's own `partitions_for_topic` requests the metadata of all topics of the cluster.
    """
    cluster = consumer._cluster
    cluster.add_topic(topic)
    for _ in range(2):  # the first request may have been in flight already, for other topics
        consumer._net.run(cluster.refresh_metadata)
        if found := cluster.partitions_for_topic(topic):
            return set(found)
    return set()


def group_has_read(options: Mapping[str, Any], group: str, topic: str, partitions: Sequence[int]) -> bool:
    """Whether a group has committed a position above 0 in one of these partitions; False if the broker can't tell."""
    topic_partitions, give_up = [TopicPartition(topic, p) for p in partitions], time.monotonic() + COORDINATOR_S
    with admin(options) as client:
        while True:
            try:
                found = client.list_group_offsets({group: topic_partitions}).get(group, {})
                return any(position.offset > 0 for position in found.values())
            except KafkaError as reason:
                if not reason.retriable or time.monotonic() > give_up:
                    return False
            time.sleep(0.1)  # a broker that has just started has no coordinator for the group yet


def committed(options: Mapping[str, Any], topics: Sequence[str]) -> Iterator[ConsumerRecord]:
    """All committed records of topics up to their current ends; each partition's in order."""
    with closing(consumer(options)) as client:
        assigned = [TopicPartition(t, p) for t in topics for p in partitions_of(client, t)]
        client.assign(assigned)
        begins, ends = client.beginning_offsets(assigned), client.end_offsets(assigned)
        for tp, begin in begins.items():
            client.seek(tp, begin)
        while any(client.position(tp) < end for tp, end in ends.items()):
            for records in client.poll(500).values():
                yield from records


def read(consumer: KafkaConsumer, tp: TopicPartition, start: int, end: int) -> Iterator[ConsumerRecord]:
    """The records of an assigned partition from one offset up to another, as far as the consumer sees them."""
    consumer.seek(tp, start)
    while consumer.position(tp) < end:
        yield from consumer.poll(timeout_ms=1000).get(tp, [])


def _connect(client: Any, options: dict[str, Any]) -> Any:
    private.check()
    known = {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}
    where = f"Kafka at {options.get('bootstrap_servers', 'localhost')}"
    opened = []

    def open_client(**config: Any) -> Any:
        opened.append(client.DEFAULT_CONFIG["kafka_client"](**config))
        return opened[-1]

    try:
        # A client whose constructor fails leaves its own thread and sockets open.
        with ExitStack() as stack:
            stack.callback(lambda: [connection.close() for connection in opened])
            created = client(**known, kafka_client=open_client)
            stack.pop_all()
        return created
    except (ValueError, TypeError, AssertionError, ImportError) as reason:
        raise ConfigError(
            f"{where}: expected options in [kafka] that kafka-python accepts, got {' '.join(str(reason).split())}; correct them"
        ) from reason
    except KafkaError as reason:
        if refused := permanent(reason, where):
            raise refused from reason
        raise Unavailable(
            f"{where}: expected a broker to answer, got {reason or type(reason).__name__}; is it running?"
        ) from reason
