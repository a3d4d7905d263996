"""Checks of a pipeline's topics and of what its shards do with them. They create no topic and fence no shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.protocol.consumer.offsets import OffsetSpec
from kafka.protocol.metadata import CoordinatorType
from kafka.protocol.producer.transaction import AddOffsetsToTxnRequest

from tocsin.pipelines.runtime.admin.preflight import Concern
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.broker import Broker, count
from tocsin.pipelines.runtime.kafka.dead_letters import SIZE_LIMIT
from tocsin.pipelines.runtime.kafka.reader import TopicState
from tocsin.pipelines.runtime.kafka.topics import (
    JOURNAL,
    alter,
    check_compaction,
    check_exists,
    check_retention,
    check_shards,
)
from tocsin.pipelines.runtime.kafka.topics import LARGEST as LARGEST_RECORD

LARGEST = SIZE_LIMIT + 8192
"""Bytes of the largest dead letter: the limit of its original, and the headers with the reason."""
NOBODY = 2**62
"""An id that no producer has. The broker rejects requests with it, but only after it has checked the rights."""
SKEW_MS = 5000
BUSY = (
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.NotCoordinatorError,
)


class Topics:
    """The topics of a pipeline, and what a shard does with them.

    Args:
        broker: a broker that answers.
        name: the pipeline's.
        topic: its input.
    """

    def __init__(self, broker: Broker, name: str, topic: str, *, shards: int, workers: int) -> None:
        self._broker, self._name, self._topic, self._shards, self._workers = broker, name, topic, shards, workers
        self._alerts, self._dead_letters, self.journal_topic = (
            names.alert_topic(name),
            names.dead_letter_topic(topic),
            names.journal_topic(name),
        )
        self._partitions = 1

    def input(self) -> str:
        """Check that the input topic exists."""
        described = self._broker.describe(self._topic)
        partitions = len(described["partitions"]) if described else 0
        check_exists(self._topic, partitions)
        self._partitions = partitions
        return f"{self._topic}: {count(self._partitions, 'partition')}"

    def cleanup(self) -> str:
        """Check that the input topic keeps every reading."""
        policy = self._policy(self._topic, self._broker.configs(self._topic))
        check_retention(self._topic, policy)
        return f"{self._topic}: {policy}"

    def shards(self) -> str:
        """Check that each shard has a partition, and each worker a shard."""
        s, n, w = self._shards, self._partitions, self._workers
        check_shards(self._name, self._topic, s, n)
        if w > s:
            raise Concern(
                f"workers = {w}: expected at most one a shard, got {w - s} more, which will not be started; set "
                f"pipelines.{self._name}.workers = {s}"
            )
        return f"{count(s, 'shard')} of {count(n, 'partition')} on {count(w, 'worker')}"

    def alerts(self) -> str:
        """Check that the alert topic exists or can be created."""
        return self._check_output(self._alerts, self._partitions)

    def landing(self) -> str:
        """Check what the shard needs that writes alerts into the lake: its own dead letters, journal and transactional id."""
        alerts_input = Topics(self._broker, self._alerts, self._alerts, shards=1, workers=1)
        alerts_input.dead_letters(), alerts_input.journal(), alerts_input.identities()
        self._granted(
            {
                self._alerts: ["READ"],
                alerts_input._dead_letters: ["WRITE"],
                alerts_input.journal_topic: ["READ", "WRITE"],
            }
        )
        return f"{self._alerts} into the table alerts"

    def dead_letters(self) -> str:
        """Check that the dead-letter topic exists or can be created, and accepts the largest dead letter."""
        described = self._broker.describe(self._dead_letters)
        configs = (
            self._broker.configs(self._dead_letters)
            if described
            else self._broker.check_creatable(self._dead_letters, 1)
        )
        limit = int(configs.get("max.message.bytes", LARGEST))
        if limit < LARGEST:
            where = self._dead_letters if described else "the broker's default for new topics"
            raise ConfigError(
                f"topic {self._dead_letters}: expected max.message.bytes of {LARGEST} at least, for originals of {SIZE_LIMIT} and "
                f"their headers, got {limit} from {where}: a larger letter would end the shard; "
                f"{alter(self._dead_letters, f'max.message.bytes={2 * SIZE_LIMIT}')}"
            )
        return self._check_output(self._dead_letters, 1)

    def journal(self) -> str:
        """Check that the journal's topic exists as a shard needs it, or can be created."""
        j, s = self.journal_topic, self._shards
        described = self._broker.describe(j)
        if described is None:
            self._broker.check_creatable(j, s, **JOURNAL)
            return f"{j}: none yet; the first start creates it"
        configs = self._broker.configs(j)
        check_compaction(j, self._policy(j, configs))
        if (limit := int(configs.get("max.message.bytes", LARGEST_RECORD))) < LARGEST_RECORD:
            raise Concern(
                f"topic {j}: expected max.message.bytes of {LARGEST_RECORD} at least, got {limit}: a larger record would end the "
                f"shard; the next start raises it, or {alter(j, f'max.message.bytes={LARGEST_RECORD}')}"
            )
        existing = len(described["partitions"])
        grows = f"; the next start adds partitions up to {s}" if existing < s else ""
        return f"{j}: {count(existing, 'partition')}, compacted{grows}"

    def replication(self) -> str:
        """Check that the topics survive the loss of a broker, and can be written to."""
        warnings: list[str] = []
        for topic in (self._topic, self._alerts, self._dead_letters, self.journal_topic):
            if described := self._broker.describe(topic):
                warnings += self._replicated(topic, described["partitions"], self._broker.configs(topic))
        if warnings:
            raise Concern("; ".join(warnings))
        return "as far as one broker goes" if self._broker.brokers == 1 else "topics outlive a broker"

    def _replicated(self, topic: str, partitions: list[dict[str, Any]], configs: Mapping[str, str]) -> Iterator[str]:
        if headless := [p["partition_index"] for p in partitions if p["leader_id"] < 0]:
            raise Unavailable(
                f"{topic}{headless}: expected a leader, got none: it can be neither read nor written; bring its broker back"
            )
        replicas = min(len(p["replica_nodes"]) for p in partitions)
        in_sync, minimum = min(len(p["isr_nodes"]) for p in partitions), int(configs.get("min.insync.replicas", 1))
        if minimum > in_sync:
            raise ConfigError(
                f"topic {topic}: expected min.insync.replicas of at most the {in_sync} in sync, got {minimum}: it refuses every "
                f"acknowledged write; {alter(topic, f'min.insync.replicas={max(replicas - 1, 1)}')}, or bring brokers back"
            )
        if self._broker.brokers > 1 and replicas == 1:
            yield f"topic {topic}: expected 3 replicas, got 1: its data is lost with its broker; reassign its partitions"
        if in_sync < replicas:
            yield f"topic {topic}: expected {replicas} replicas in sync, got {in_sync}; check the brokers"
        if replicas > 1 and minimum == 1:
            yield (
                f"topic {topic}: expected min.insync.replicas=2, got 1: a write that one broker has acknowledged is lost with it; "
                f"{alter(topic, 'min.insync.replicas=2')}"
            )
        if replicas > 1 and minimum == replicas:
            yield f"topic {topic}: expected min.insync.replicas below its {replicas} replicas, got {minimum}: no broker may be down"

    def rights(self) -> str:
        """Check the rights on the topics that exist. A broker without an authorizer allows everything."""
        self._granted(
            {
                self._topic: ["READ"],
                self._alerts: ["WRITE"],
                self._dead_letters: ["WRITE"],
                self.journal_topic: ["READ", "WRITE"],
            }
        )
        if unseen := self._missing({self._alerts: ["READ"], self._dead_letters: ["READ"]}):
            raise Concern(
                f"expected rights to find what a crashed broker may leave open, got none for {', '.join(unseen)}; grant it to this "
                "user with kafka-acls, or such alerts appear only with the next one"
            )
        return "topics that are there: read the input, write alerts, dead letters and journal"

    def _granted(self, required: Mapping[str, list[str]]) -> None:
        if missing := self._missing(required):
            raise ConfigError(
                f"expected rights to read the input and write the other topics, got none for {', '.join(missing)}; grant it to "
                "this user with kafka-acls; `tocsin rights` prints how"
            )

    def _missing(self, required: Mapping[str, list[str]]) -> list[str]:
        """The rights that this user lacks, on the topics that exist."""
        missing = list[str]()
        for topic, operations in required.items():
            if (described := self._broker.describe(topic)) is None:
                continue
            if (allowed := described.get("authorized_operations")) is None:
                raise Concern(
                    "expected the broker to report this user's rights, got none; upgrade the broker to have them checked"
                )
            missing += [f"{o} on topic {topic}" for o in operations if o not in allowed]
        return missing

    def identities(self) -> str:
        """Check the rights on each shard's transactional id, and on the group that lag tools read.

        The requests carry an id that no producer has: the broker checks the rights and then rejects them, so that a running shard
        is not disturbed.
        """
        group = names.lag_group(self._name)
        for shard in range(self._shards):
            id_ = f"{self._name}/{shard}"
            answer = self._answer(id_, group)
            if answer is kafka_errors.TransactionalIdAuthorizationFailedError:
                raise ConfigError(
                    f"transactional id {id_}: expected the right to write, got none; grant this user WRITE on the transactional "
                    f"ids that begin with {self._name}/, with kafka-acls"
                )
            if answer is kafka_errors.GroupAuthorizationFailedError:
                raise ConfigError(
                    f"group {group}: expected the right to read, got none; grant this user READ on it, with kafka-acls"
                )
            if answer in BUSY:
                raise Unavailable(
                    f"transactional id {id_}: expected a transaction coordinator, got {answer.__name__}; compare the broker's "
                    "transaction.state.log.replication.factor and .min.isr with the number of brokers"
                )
        return f"{self._name}/0" + (f" to {self._name}/{self._shards - 1}" if self._shards > 1 else "")

    def _answer(self, id_: str, group: str) -> type[Exception]:
        """The coordinator's answer. A new cluster takes some time to elect one."""
        admin = self._broker.admin
        request = {"transactional_id": id_, "producer_id": NOBODY, "producer_epoch": 0, "group_id": group}
        give_up = time.monotonic() + 5
        while True:
            try:
                node = admin._manager.run(admin._find_coordinator_id, id_, CoordinatorType.TRANSACTION)
                response = admin._manager.run(admin._manager.send, AddOffsetsToTxnRequest(**request), node)
                answer = kafka_errors.for_code(response.error_code)
            except (*BUSY, kafka_errors.TransactionalIdAuthorizationFailedError) as reason:
                answer = type(reason)
            if answer not in BUSY or time.monotonic() > give_up:
                return answer
            time.sleep(0.1)

    def transactions(self) -> str:
        """Check that the broker supports transactions, with an id that no shard has: a shard's id would fence it.

        The broker forgets an id that is not used after a week.
        """
        id_ = f"{self._name}/check"
        try:
            with closing(clients.producer(self._broker.options, transactional_id=id_)) as producer:
                producer.init_transactions()
        except kafka_errors.TransactionalIdAuthorizationFailedError:
            raise Concern(
                f"transactional id {id_}: expected to try it, got no right; see the first start, or grant WRITE on it"
            ) from None
        except KafkaError as reason:
            raise Unavailable(
                f"transactional id {id_}: expected a transactional producer, got {reason}; compare the broker's "
                "transaction.state.log.replication.factor and .min.isr with the number of brokers, and "
                "transaction.max.timeout.ms with 15000"
            ) from reason
        return f"tried as {id_}"

    def clock(self) -> str:
        """Check that the newest record is not ahead of this machine's clock."""
        specs = dict.fromkeys(self._parts(), OffsetSpec.MAX_TIMESTAMP)
        try:
            found = self._broker.admin.list_partition_offsets(specs)
        except kafka_errors.UnsupportedVersionError:
            return "not known: the broker is too old to say when its newest record was"
        newest = max(o.timestamp for o in found.values())
        ahead = newest - time.time() * 1000
        if ahead > SKEW_MS:
            raise Concern(
                f"topic {self._topic}: expected no record from the future, got one {ahead / 1000:,.0f} s ahead of this machine's "
                "clock; set the clocks of this machine, the broker and the producers by NTP"
            )
        return "no record is from the future" if newest >= 0 else "no record to compare with"

    def log(self) -> TopicState:
        """The input topic's identity, and each partition's first and next offset."""
        described = self._broker.describe(self._topic) or {}
        begin, end = (
            {tp.partition: found.offset for tp, found in self._broker.admin.list_partition_offsets(specs).items()}
            for specs in (dict.fromkeys(self._parts(), spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
        )
        return TopicState(str(described.get("topic_id") or ""), begin, end)

    def journal_exists(self) -> bool:
        """Whether the journal's topic exists."""
        return self._broker.describe(self.journal_topic) is not None

    def _parts(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, p) for p in range(self._partitions)]

    def _check_output(self, topic: str, partitions: int) -> str:
        """Check that a topic exists or can be created, and keeps its records."""
        described = self._broker.describe(topic)
        if described is None:
            self._broker.check_creatable(topic, partitions)
            return f"{topic}: none yet; the first start creates it"
        if "compact" in (policy := self._policy(topic, self._broker.configs(topic))):
            raise Concern(
                f"topic {topic}: expected cleanup.policy=delete, got {policy}: compaction deletes all but the newest record of "
                f"a key; {alter(topic, 'cleanup.policy=delete')}"
            )
        return f"{topic}: {count(len(described['partitions']), 'partition')}"

    def _policy(self, topic: str, configs: Mapping[str, str]) -> str:
        if "cleanup.policy" not in configs:
            raise Concern(
                f"topic {topic}: expected to see its settings, got none; grant this user DESCRIBE_CONFIGS on it"
            )
        return configs["cleanup.policy"]
