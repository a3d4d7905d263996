"""A deployment: one pipeline as people have asked for it to be run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tocsin.pipelines.runtime.control.alert_sinks import SinkConfig
from tocsin.pipelines.runtime.control.placement import ScalingPolicy
from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.engine.plan import Plan, declared
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig, ShardId
from tocsin.pipelines.runtime.kafka.topics import provision
from tocsin.pipelines.runtime.lake.storage import Lake

ALERTS = "alerts"
"""The table in which all pipelines' alerts land."""


@dataclass(frozen=True)
class Deployment:
    """One pipeline as deployed; with the orders in the lake the supervisor's only memory, and the same after its restart.

    Args:
        partitions: of the input topic; 0: not looked at yet, see `provisioned`.
        shards: partition p belongs to shard p mod shards; see `reshard`.
        alerts_partitions: of the alert topic, whose alerts land in the table `alerts` by a shard of its own; 0: they do not.
        scaling: how many workers share them.
        env: environment of the worker processes.
        resources: Ray's options for a worker, such as `num_cpus`, `num_gpus`.
        tracking: MLflow's address and experiment; None: no tracking.
        follows: the registry's alias whose moves the shards follow, such as "pumps@champion".
        compact: how often tables are compacted ("0s": never), and the age from which what they leave is deleted.
        health: host and port of the health endpoint; port 0: none.
        sinks: where its alerts go beside their topic.
        stuck_s: a shard whose step takes longer than this, or whose takeover makes no progress for longer, hangs: its worker is
            replaced.
    """

    plan: Plan
    lake: Lake
    kafka: Mapping[str, Any] = field(repr=False)
    partitions: int = 0
    shards: int = 1
    alerts_partitions: int = 0
    scaling: ScalingPolicy = field(default_factory=ScalingPolicy)
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "skip"] = "stop"
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=lambda: {"num_cpus": 0})
    tracking: tuple[str, str] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    follows: str = ""
    compact: tuple[str, str] = ("0s", "24h")
    health: tuple[str, int] = ("127.0.0.1", 0)
    sinks: Sequence[SinkConfig] = ()
    stuck_s: float = 120.0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def name(self) -> str:
        """The pipeline's."""
        return self.plan.name

    def configs(self, plan: Plan) -> dict[ShardId, ShardConfig]:
        """What a worker needs to run each shard; the one that lands the alerts is of a pipeline of its own."""
        own = [[p for p in range(self.partitions) if p % self.shards == s] for s in range(self.shards)]
        configs = [
            ShardConfig(plan, self.lake, self.kafka, s, own[s], self.start, self.on_gap, self.shards)
            for s in range(self.shards)
        ]
        if self.alerts_partitions:
            configs.append(
                ShardConfig(
                    alerts_table_plan(self.name),
                    self.lake,
                    self.kafka,
                    0,
                    range(self.alerts_partitions),
                    on_gap=self.on_gap,
                )
            )
        return {config.id: config for config in configs}


def alerts_table_plan(pipeline: str, **options: Any) -> Plan:
    """The plan by which the alerts of a pipeline land in the table `alerts`.

    Args:
        pipeline: its name.
        options: more, such as `every`.
    """
    name = names.alert_topic(pipeline)
    return Plan(
        "tocsin.pipelines.runtime.control.alerts_table:pipeline",
        {"name": name, "topic": name, "into": ALERTS, **options},
    )


def provisioned(order: Deployment, *, alerts: bool, create_input: int = 0) -> Deployment:
    """A deployment with its topics made and their partitions known.

    Args:
        alerts: whether its alerts land in the table `alerts`, too.
        create_input: as of `provision`.

    Raises:
        ConfigError, ModelError: the plan does not make a pipeline of its name.
        ConfigError, Unavailable: as of `provision`.
    """
    pipeline = declared(order.plan, order.lake)
    partitions = provision(order.kafka, pipeline, shards=order.shards, create_input=create_input)
    landing = pipeline.rules and alerts
    return replace(
        order,
        partitions=partitions,
        alerts_partitions=provision(order.kafka, alerts_table_plan(order.name).build(order.lake), shards=1)
        if landing
        else 0,
    )
