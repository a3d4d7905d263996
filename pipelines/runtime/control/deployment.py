"""A deployment: one pipeline and the settings that it runs with."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tocsin.pipelines.runtime.control.alert_sinks import SinkConfig
from tocsin.pipelines.runtime.control.labels_table import labels_table_plan
from tocsin.pipelines.runtime.control.placement import ScalingPolicy
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.context import ContextTopic
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.plan import Plan, declared
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig, ShardId
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions

ALERTS = "alerts"
"""The table that holds all pipelines' alerts."""


@dataclass(frozen=True)
class TopicTable:
    """A pipeline that writes a topic to a table of the same name.

    Args:
        partitions: of the topic.
    """

    plan: Plan
    partitions: int

    @property
    def name(self) -> str:
        """The name of pipeline, topic and table."""
        return self.plan.name


@dataclass(frozen=True)
class Deployment:
    """One pipeline as deployed. A restarted supervisor needs only this and the desired state in the lake.

    Args:
        partitions: number of partitions of the input topic; 0: not known yet, see `provisioned`.
        shards: number of shards. Partition p belongs to shard p mod shards; see `reshard`.
        alerts_partitions: partitions of the alert topic, which a separate shard writes to the table `alerts`; 0: no shard does.
        labels: writes the labels to a table; None: there is none.
        context: writes the context to a table; None: there is none.
        experimental: see `Pipeline`.
        assess_ms: how often drift and live scores are computed, ms; 0: never.
        assess_last_ms: the age of the oldest results and labels that count, ms.
        scaling: how many workers share the shards.
        env: environment of the worker processes.
        resources: Ray's options for a worker, such as `num_cpus`, `num_gpus`.
        tracking: MLflow's address and experiment; None: no tracking.
        follows: the model alias in the registry that the shards follow, such as "pumps@champion".
        follow_s: how often the registry is asked for that alias.
        shadow: whether the challenger of the model that it follows runs in shadow.
        compact: how often tables are compacted ("0s": never), and the age from which replaced files are deleted.
        health: host and port of the health endpoint; port 0: none.
        sinks: where alerts go besides their topic.
        formats: options of message formats, by the section of the settings that holds them.
        traces: where spans are sent; None: nowhere.
        stuck_s: a shard hangs if its step takes longer than this, or if its recovery makes no progress for longer. Its worker is
            then replaced.
    """

    plan: Plan
    lake: Lake
    kafka: Mapping[str, Any] = field(repr=False)
    partitions: int = 0
    shards: int = 1
    alerts_partitions: int = 0
    labels: TopicTable | None = None
    context: TopicTable | None = None
    experimental: str = ""
    assess_ms: int = 60_000
    assess_last_ms: int = 90 * 86_400_000
    scaling: ScalingPolicy = field(default_factory=ScalingPolicy)
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=lambda: {"num_cpus": 0})
    tracking: tuple[str, str] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    follows: str = ""
    follow_s: float = 15.0
    shadow: bool = True
    compact: tuple[str, str] = ("0s", "24h")
    health: tuple[str, int] = ("127.0.0.1", 0)
    sinks: Sequence[SinkConfig] = ()
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    traces: SpanOptions | None = None
    stuck_s: float = 120.0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.plan.name

    def reads_input(self, pipeline: str) -> bool:
        """Whether it is this pipeline or one of its shadows, which have as many shards."""
        return pipeline == self.name or pipeline.startswith(names.shadow(self.name))

    def configs(self, plan: Plan, shadow: Plan | None = None) -> dict[ShardId, ShardConfig]:
        """What a worker needs to run each shard. The shard that writes the alerts belongs to a pipeline of its own.

        Args:
            shadow: the plan of the pipeline's shadow, which has as many shards.
        """
        configs = [*self._shards(plan, self.on_gap), *(self._shards(shadow, "skip") if shadow else ())]
        alerts = TopicTable(alerts_table_plan(self.name), self.alerts_partitions) if self.alerts_partitions else None
        configs += [
            ShardConfig(table.plan, self.lake, self.kafka, 0, range(table.partitions), on_gap=self.on_gap)
            for table in (alerts, self.labels, self.context)
            if table
        ]
        return {config.id: config for config in configs}

    def _shards(self, plan: Plan, on_gap: Literal["stop", "skip"]) -> Iterator[ShardConfig]:
        """The shards of a pipeline that reads the input topic."""
        for shard in range(self.shards):
            partitions = range(shard, self.partitions, self.shards)
            options = self.start, on_gap, self.shards, self.formats, self.traces
            yield ShardConfig(plan, self.lake, self.kafka, shard, partitions, *options)


def alerts_table_plan(pipeline: str, **options: Any) -> Plan:
    """The plan that writes a pipeline's alerts to the table `alerts`.

    Args:
        pipeline: its name.
        options: further options, such as `every`.
    """
    name = names.alert_topic(pipeline)
    return Plan(
        "tocsin.pipelines.runtime.control.alerts_table:pipeline",
        {"name": name, "topic": name, "into": ALERTS, **options},
    )


def context_table_plan(pipeline: str, context: ContextTopic) -> Plan:
    """The plan that writes a pipeline's context to its table."""
    name = names.context_topic(pipeline)
    options = {"name": name, "topic": name, "kinds": [*context.kinds], "numbers": [*context.numbers]}
    return Plan("tocsin.pipelines.runtime.control.context_table:pipeline", options)


def provisioned(
    deployment: Deployment, *, alerts: bool, labels: bool = False, context: bool = False, create_input: int = 0
) -> Deployment:
    """Create a deployment's topics and return it with their numbers of partitions.

    Args:
        alerts: whether its alerts are also written to the table `alerts`.
        labels: whether its labels are written to a table.
        context: whether its rows are joined with its context.
        create_input: see `provision`.

    Raises:
        ConfigError, ModelError: the plan does not build a pipeline of its name, or the pipeline has no labels or no context.
        ConfigError, Unavailable: see `provision`.
    """
    pipeline = declared(deployment.plan, deployment.lake)
    partitions = provision(deployment.kafka, pipeline, shards=deployment.shards, create_input=create_input)
    store_alerts = pipeline.rings and alerts

    def table(setting: str, needs: str, plan: Plan | None) -> TopicTable:
        if plan is None:
            raise ConfigError(
                f"pipelines.{pipeline.name}.{setting}: expected a pipeline that declares `{needs}`, got none; set it to false"
            )
        return TopicTable(plan, provision(deployment.kafka, plan.build(deployment.lake), shards=1, create_input=1))

    labels_plan = labels_table_plan(pipeline.name, pipeline.truth) if pipeline.truth else None
    context_plan = context_table_plan(pipeline.name, pipeline.context) if pipeline.context else None
    return replace(
        deployment,
        partitions=partitions,
        labels=table("labels", "truth", labels_plan) if labels else None,
        context=table("context", "context", context_plan) if context else None,
        experimental=pipeline.experimental,
        alerts_partitions=provision(
            deployment.kafka, alerts_table_plan(deployment.name).build(deployment.lake), shards=1
        )
        if store_alerts
        else 0,
    )
