"""What a publisher needs of a transactional producer. kafka-python and librdkafka each provide it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from kafka import TopicPartition

from tocsin.pipelines.runtime.declare.errors import Fenced
from tocsin.pipelines.runtime.kafka.topics import LARGEST

REQUEST_BYTES = 2 * LARGEST


class Message(NamedTuple):
    """A record to publish; without a `partition` its key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


class Transactions(Protocol):
    """Commits transactions under one transactional id, one at a time.

    Guarantee: a `read_committed` consumer sees the messages of one `commit` all or not at all. Once another process has called
    `begin` with the same id, no further message of this one becomes visible. The group's positions follow.
    """

    def begin(self) -> None:
        """Fence the id's earlier producers, and abort what they left open."""

    def commit(self, messages: Sequence[Message], positions: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """Commit messages, and a group's positions where there are any. Returns the messages' partitions.

        Raises:
            Fenced: another process has the id now.
            KafkaError, Unavailable: the outcome is open.
        """

    def end(self, partitions: Collection[TopicPartition], *, commit: bool) -> None:
        """End what an earlier transaction of this id left open in these partitions; see `unended`.

        Raises:
            Unavailable: it is ended, but this process may have lost the id meanwhile. Recover again.
        """

    def confirm(self, partitions: Collection[TopicPartition]) -> None:
        """Make sure that the broker has ended what was committed in these partitions; see `unended`.

        Raises:
            Fenced: another process has the id now.
            KafkaError, Unavailable: it has not; only recovery can end it.
        """

    def close(self) -> None:
        """Close the connections, within seconds."""


def fenced(name: str, reason: Exception) -> Fenced:
    """The error of a producer whose transactional id another one has taken over."""
    return Fenced(
        f"{name}: expected to own the shard, got {reason!r}: another process owns it now, or this one stalled for longer than a "
        "transaction may last"
    )
