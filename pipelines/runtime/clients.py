"""Kafka clients, with the settings that exactly-once needs; TLS and SASL pass through untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from pipelines.runtime.errors import Unavailable


def consumer(options: Mapping[str, Any], **more: Any) -> KafkaConsumer:
    """A consumer without a group: partitions are assigned by hand, positions are kept in the lake."""
    fixed = {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
    }
    return _connect(KafkaConsumer, {**options, **fixed, **more})


def producer(options: Mapping[str, Any], **more: Any) -> KafkaProducer:
    """An idempotent producer; with `transactional_id` a transactional one."""
    # 2 ms: kafka-python waits this long between the steps of a transaction; its default of 100 ms makes a commit 110 ms.
    fixed = {"acks": "all", "retry_backoff_ms": 2, "transaction_timeout_ms": 15_000, "allow_auto_create_topics": False}
    return _connect(KafkaProducer, {**options, **fixed, **more})


def admin(options: Mapping[str, Any]) -> KafkaAdminClient:
    """An admin client."""
    return _connect(KafkaAdminClient, dict(options))


def _connect(client: Any, options: dict[str, Any]) -> Any:
    known = {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}
    try:
        return client(**known)
    except KafkaError as reason:
        where = options.get("bootstrap_servers", "localhost")
        raise Unavailable(
            f"Kafka at {where}: expected a broker to answer, got {reason or type(reason).__name__}; is it running?"
        ) from reason
