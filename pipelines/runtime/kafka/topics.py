"""The topics that a pipeline needs, created if they are missing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.kafka import clients

log = logging.getLogger(__name__)
GROW_S = 30
LARGEST = 4 << 20
"""The largest record, in bytes, that the journal's topic and its producer accept."""
LONG = 256 << 10
"""A checkpoint is due once the journal's steps take this many bytes; twice as many are the limit. The rest of `LARGEST` is for
plans in marks."""
MIN_RECORD_BYTES = 4 * LONG
"""The smallest record limit of a journal's topic, in bytes, with which a shard starts. More is for large plans in marks."""
JOURNAL = {"cleanup.policy": "compact", "max.message.bytes": str(LARGEST)}
"""Settings of a journal's topic."""


def provision(options: Mapping[str, Any], pipeline: Pipeline, *, shards: int, create_input: int = 0) -> int:
    """Create a pipeline's alert topic, if it has alerts, and its dead-letter and journal topics; check the input topic.

    The journal has at least one partition a shard.

    Args:
        create_input: partitions of the input topic if it is to be created, too; 0: it must exist.

    Returns:
        The input topic's number of partitions.

    Raises:
        ConfigError: the input topic is missing or compacted, or has fewer partitions than there are shards, or the journal
            accepts only small records and we may not change that.
    """
    with clients.admin(options) as admin:
        try:
            if create_input:
                create_topic(admin, pipeline.topic, create_input)
            partitions = _partitions(admin, pipeline.topic)
            check_exists(pipeline.topic, partitions)
            check_shards(pipeline.name, pipeline.topic, shards, partitions)
            check_retention(pipeline.topic, _setting(admin, pipeline.topic, "cleanup.policy", "delete"))
            if pipeline.rings:
                create_topic(admin, pipeline.alerts, partitions)
            create_topic(admin, pipeline.dead_letters, 1)
            create_topic(admin, pipeline.journal, shards, **JOURNAL)
            check_compaction(pipeline.journal, _setting(admin, pipeline.journal, "cleanup.policy", "compact"))
            if _partitions(admin, pipeline.journal) < shards:
                _grow(admin, pipeline.journal, shards)
            _widen(admin, pipeline.journal)
        except KafkaError as reason:
            raise Unavailable(
                f"Kafka at {options.get('bootstrap_servers')}: {reason!r}; check its address and your rights"
            ) from reason
    return partitions


def check_exists(topic: str, partitions: int) -> None:
    """Raise `ConfigError` if the input topic has no partitions: it does not exist."""
    if not partitions:
        raise ConfigError(
            f"topic {topic}: expected it to exist, got none; create it, or feed it once with `tocsin feed`"
        )


def check_shards(pipeline: str, topic: str, shards: int, partitions: int) -> None:
    """Raise `ConfigError` if a shard has no partition."""
    if shards > partitions:
        raise ConfigError(
            f"topic {topic}: expected a partition for each of the {shards} shards at least, got {partitions}; set "
            f"pipelines.{pipeline}.shards = {partitions}, or add partitions"
        )


def check_retention(topic: str, policy: str) -> None:
    """Raise `ConfigError` if the input topic is compacted."""
    if "compact" in policy:
        raise ConfigError(
            f"topic {topic}: expected cleanup.policy=delete, got {policy}: compaction would delete readings; "
            f"{alter(topic, 'cleanup.policy=delete')}, or read another topic"
        )


def check_compaction(journal: str, policy: str) -> None:
    """Raise `ConfigError` if a journal's topic is not compacted alone."""
    if policy != "compact":
        raise ConfigError(
            f"topic {journal}: expected cleanup.policy=compact, got {policy}: retention would delete records that recovery needs; "
            f"{alter(journal, 'cleanup.policy=compact')}"
        )


def alter(topic: str, setting: str) -> str:
    """The command that changes a topic's setting."""
    return f"`kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {setting}`"


def restore_outputs(options: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Create the alert and dead-letter topics again if they are gone. Without them no transaction of a shard could end.

    Raises:
        KafkaError: they can't be created now, or this user may not create them.
    """
    with clients.admin(options) as admin:
        if pipeline.rings:
            create_topic(admin, pipeline.alerts, _partitions(admin, pipeline.topic) or 1)
        create_topic(admin, pipeline.dead_letters, 1)


def create_topic(admin: Any, topic: str, partitions: int, **configs: str) -> None:
    """Create a topic unless it exists. For a topic that exists, no right to create it is needed."""
    if _partitions(admin, topic):
        return
    new_topic = {topic: {"num_partitions": partitions, "configs": configs}}
    with contextlib.suppress(TopicAlreadyExistsError):
        admin.create_topics(new_topic, wait_for_metadata=True)


def _grow(admin: Any, topic: str, partitions: int) -> None:
    """Give a topic more partitions, and wait until the broker reports them."""
    admin.create_partitions({topic: partitions})
    give_up = time.monotonic() + GROW_S
    while (existing := _partitions(admin, topic)) < partitions:
        if time.monotonic() > give_up:
            raise Unavailable(
                f"topic {topic}: expected {partitions} partitions within {GROW_S} s, got {existing}; try again"
            )
        time.sleep(0.1)


def _partitions(admin: Any, topic: str) -> int:
    return clients.partitions(admin, [topic]).get(topic, 0)


def _widen(admin: Any, journal: str) -> None:
    """Raise a journal topic's record limit to `LARGEST`, also for a topic created before this was set."""
    limit = int(_setting(admin, journal, "max.message.bytes", str(LARGEST)))
    if limit >= LARGEST:
        return
    configs = {"max.message.bytes": str(LARGEST)}
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, journal, configs)])
    except KafkaError as reason:
        line = (
            f"topic {journal}: expected max.message.bytes of {LARGEST} at least, got {limit}, and {reason!r} when it was to be "
            f"raised: a larger record would end the shard; {alter(journal, f'max.message.bytes={LARGEST}')}"
        )
        if limit < MIN_RECORD_BYTES:
            raise ConfigError(line) from reason
        log.warning("%s", line)


def _setting(admin: Any, topic: str, name: str, default: str) -> str:
    """A topic's setting; the default if the broker can't report it (Tansu)."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], config_filter="all")
    except KafkaError:
        return default
    (configs,) = (topics[topic] for topics in found.values())
    return str(configs.get(name, {}).get("value", default))
