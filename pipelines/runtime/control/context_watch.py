"""Follows the table of a pipeline's context, and hands each new state of it to the shards as part of their plan."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING

from kafka import TopicPartition

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.lake.delta import delta_table

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from tocsin.pipelines.runtime.control.deployment import Deployment
    from tocsin.pipelines.runtime.control.desired_state import DesiredState
    from tocsin.pipelines.runtime.engine.shard_config import ShardId
    from tocsin.pipelines.runtime.lake.storage import Lake

log = logging.getLogger(__name__)
LATEST_S = 30.0


class ContextWatch:
    """Looks at the table of a context for new records.

    Guarantee: a state of the context is in the lake before a plan names it.

    A pipeline's shards wait until everything has been taken up that was on the topic at the start, but no longer than `LATEST_S`.
    """

    def __init__(self, deployment: Deployment, desired: DesiredState) -> None:
        self._lake, self._kafka, self._table = deployment.lake, deployment.kafka, deployment.context
        self._pipeline, self._desired = deployment.name, desired
        self._seen, self._started_at = -1, time.monotonic()
        self._ends: dict[int, int] | None = None
        self._is_known = deployment.context is None

    def may_start(self, shard: ShardId, *, at_start: bool) -> bool:
        """Whether a shard may start. The shards of other tables start later; see `Supervisor._start_deferred`."""
        if self._table and shard.pipeline == self._table.name:
            return True
        return self._is_known and (shard.pipeline == self._pipeline or not at_start)

    def look(self) -> bool:
        """Take up what has been written since the last call. Returns whether the context is another one now.

        Raises:
            Unavailable, DeltaError, KafkaError, OSError: the lake or Kafka does not answer; the next call looks again.
        """
        name, changed = names.context_topic(self._pipeline), False
        try:
            table = delta_table(self._lake, name)
            if table is not None and table.version() != self._seen:
                context = current_context(self._lake, self._pipeline)
                self._seen = table.version()
                if changed := context != self._desired.plan.context:
                    self._desired.know(context)
                    log.info("%s: another context", self._pipeline)
            self._is_known = self._is_known or self._has_all(table)
        finally:
            if not self._is_known and time.monotonic() - self._started_at > LATEST_S:
                log.warning("%s: expected its records within %.0f s, got fewer; starting without", name, LATEST_S)
                self._is_known = True
        return changed

    def _has_all(self, table: DeltaTable | None) -> bool:
        """Whether a version of the table has all records that were on the topic at the start."""
        assert self._table
        name = self._table.name
        if self._ends is None:
            partitions = [TopicPartition(name, p) for p in range(self._table.partitions)]
            with closing(clients.consumer(self._kafka)) as consumer:
                self._ends = {tp.partition: end for tp, end in consumer.end_offsets(partitions).items()}
        positions = {
            p: (table and table.transaction_version(names.position_id(name, name, p))) or 0 for p in self._ends
        }
        return all(positions[p] >= end for p, end in self._ends.items())


def current_context(lake: Lake, pipeline: str) -> str:
    """Store what a pipeline's table of context says now. Returns the file in the lake; "": there is no such table."""
    from tocsin.pipelines.runtime.declare.context import Intervals
    from tocsin.pipelines.runtime.engine.plan import store_context

    name = names.context_topic(pipeline)
    if delta_table(lake, name) is None:
        return ""
    records = lake.scan(name).sort("event_time", "partition", "offset", "row").collect()
    return store_context(lake, pipeline, Intervals.of(records))
