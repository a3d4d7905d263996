"""One shard's configuration: what to run, on which partitions, with which Kafka cluster and lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.formats.codec import FormatOptions


class ShardId(NamedTuple):
    """A shard's name on a cluster."""

    pipeline: str
    shard: int

    def __str__(self) -> str:
        return f"{self.pipeline}/{self.shard}"


@dataclass(frozen=True)
class ShardConfig:
    """What one shard needs to run on any worker.

    Args:
        kafka: options of kafka-python's clients.
        partitions: the shard's input partitions when this was configured. Recovery adds those that the topic has gained since.
        shards: number of shards of the pipeline.
        formats: options of message formats, by the section of the settings that holds them.
        start: where to begin on the very first start. Partitions added later are read from their beginning.
        on_gap: what to do when recovery finds that something is lost.
        traces: where spans are sent; None: nowhere.
    """

    plan: Plan
    lake: Lake
    kafka: Mapping[str, Any] = field(repr=False)
    shard: int
    partitions: Sequence[int]
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    shards: int = 1
    formats: FormatOptions = field(default_factory=dict, repr=False)
    traces: SpanOptions | None = None

    @property
    def id(self) -> ShardId:
        """The shard's name."""
        return ShardId(self.plan.name, self.shard)
