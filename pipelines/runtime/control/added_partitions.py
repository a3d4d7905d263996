"""Partitions that were added to the topics of a deployment after its shards had started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kafka.errors import KafkaError

from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.declare.shard_state import ShardState
from tocsin.pipelines.runtime.kafka import clients

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.control.worker import Status
    from tocsin.pipelines.runtime.engine.shard_config import ShardId

RELEASE_S = 60.0
"""How long until a shard that does not read its new partitions yet is released again."""


class AddedPartitions:
    """Counts the partitions of a deployment's topics, and tells which ones a shard does not read yet."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._partitions: dict[str, int] = {}
        self._released_at: dict[ShardId, float] = {}

    def count(self, statuses: Iterable[Status]) -> None:
        """Count the partitions of the topics that shards read."""
        topics = {status.facts["topic"] for status in statuses if status.facts}
        if not topics:
            return
        # The shards report errors of the broker.
        with contextlib.suppress(Unavailable, KafkaError), clients.admin(self._deployment.kafka) as admin:
            self._partitions = clients.partitions(admin, topics)

    def unread(self, status: Status) -> list[int]:
        """Partitions that were added to a shard's topic and that it does not read yet."""
        if not status.facts:
            return []
        d, topic = self._deployment, status.facts["topic"]
        shards = d.shards if d.reads_input(status.id.pipeline) else 1
        assigned = range(status.id.shard, self._partitions.get(topic, 0), shards)
        return [p for p in assigned if p not in status.facts["read"]]

    def due(self, status: Status) -> list[int]:
        """The unread partitions of a shard that has to be released now; none if it was released for them shortly before."""
        now = time.monotonic()
        if status.state != ShardState.RUNNING or now - self._released_at.get(status.id, -RELEASE_S) < RELEASE_S:
            return []
        if unread := self.unread(status):
            self._released_at[status.id] = now
        return unread
