"""Writes single events to an alert topic, outside of a shard's transactions: what people do, and what a supervisor notices."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.permanent_errors import permanent

ANSWER_S = 15
"""Seconds that Kafka may take to store the event."""


def publish(options: Mapping[str, Any], alert: Alert, partition: int | None = None) -> None:
    """Write an event to its pipeline's alert topic.

    Guarantee: the broker has stored it when this returns. After an error it may or may not be stored; to publish the same
    event again is harmless, because it has the same id.

    Args:
        partition: where to; None: by its key.

    Raises:
        Refused: this user may not write to the topic.
        Unavailable: Kafka does not answer.
    """
    topic = names.alert_topic(alert.pipeline)
    try:
        with closing(clients.producer(options)) as producer:
            sent = producer.send(topic, alert.value(), alert.key.encode(), alert.headers(), partition)
            sent.get(ANSWER_S)
    except KafkaError as reason:
        if refused := permanent(reason, topic):
            raise refused from reason
        raise Unavailable(f"{topic}: expected it to store the event, got {reason!r}; try again") from reason
