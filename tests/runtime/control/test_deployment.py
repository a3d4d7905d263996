"""A deployment hands its settings on to each shard, and shows no secret."""

from __future__ import annotations

from pathlib import Path

from tocsin.pipelines.runtime.control.deployment import Deployment
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.telemetry.spans import SpanOptions

PLAN = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "t"})
REGISTRY = {"schema_registry": {"url": "https://registry:8081", "token": "hush"}}


def test_each_shard_has_the_options_of_message_formats(tmp_path: Path) -> None:
    deployment = Deployment(PLAN, Lake(str(tmp_path)), {}, partitions=4, shards=2, formats=REGISTRY)
    configs = [*deployment.configs(PLAN).values()]
    assert [config.formats for config in configs] == [REGISTRY] * 2
    assert "hush" not in repr(deployment) + repr(configs)


def test_each_shard_knows_where_spans_go_and_the_shard_that_stores_alerts_sends_none(tmp_path: Path) -> None:
    traces = SpanOptions("http://otel:4318/v1/traces", {"key": "hush"})
    deployment = Deployment(PLAN, Lake(str(tmp_path)), {}, partitions=4, shards=2, alerts_partitions=1, traces=traces)
    configs = [*deployment.configs(PLAN).values()]
    assert [config.traces for config in configs] == [traces, traces, None]
    assert "hush" not in repr(deployment) + repr(configs)
