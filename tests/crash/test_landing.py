"""Alerts reach the lake exactly once under kills of the process that publishes them and of the one that writes the table."""

import random
import time

import pytest
from deltalake import DeltaTable
from kafka import KafkaAdminClient

from tests.crash.conftest import MakeJob
from tests.crash.harness import Job
from tests.crash.process import ANYWHERE
from tests.crash.test_kills import TAKEOVER
from tests.support.waits import until
from tocsin.pipelines.query import query, results
from tocsin.pipelines.runtime.control.deployment import alerts_table_plan
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.shard_config import ShardConfig
from tocsin.pipelines.runtime.kafka.topics import provision

pytestmark = pytest.mark.crash
RINGING = ("alerts.sent", "alerts.committed", "checkpoint.delta", ANYWHERE)


def _landed(job: Job) -> int:
    """Return the offset up to which the alert topic is in the table."""
    uri, name = job.lake.uri("alerts"), f"alerts.{job.name}"
    return DeltaTable(uri).transaction_version(f"{name}/{name}/0") or 0 if DeltaTable.is_deltatable(uri) else 0


@pytest.mark.slow  # half a minute; test_kills.py kills the same engine
def test_each_alert_is_in_the_table_once_wherever_either_process_is_killed(make_job: MakeJob, kills: int) -> None:
    rng, job, lost = random.Random(8), make_job(), list[int]()
    plan, topic = alerts_table_plan(job.name, every="500ms"), f"alerts.{job.name}"
    config = ShardConfig(plan, job.lake, job.kafka, 0, range(provision(job.kafka, plan.build(job.lake), shards=1)))
    made, lands_at = 0, 0
    with job.load():
        rings, lands = job.start(), job.start(config=config)
        while made < kills:
            _, alerts = rings.fall(rng.choice(RINGING))
            assert alerts > 0
            rings = job.start()
            until(lambda at=lands_at: _landed(job) > at, "alerts to land", worker=lands)
            time.sleep(rng.uniform(0, 0.3))
            lands.kill()
            killed_ms, lands_at = time.time() * 1000, _landed(job)
            lost.append(sum(m.offset >= lands_at and m.timestamp < killed_ms for m in job.read(topic)))
            made += 2
            if (point := rng.choice([None, *TAKEOVER])) is not None:
                job.start(config=config, **{point.replace(".", "_"): "SIGKILL"}).fell(point)
                made += 1
            lands = job.start(config=config)
    job.finish(rings)
    said = job.read(topic)
    until(lambda: _landed(job) > said[-1].offset, "all alerts to land", worker=lands)
    lands.stop()
    print(f"{made} kills, {len(said)} alerts; said and not in the table at a kill: {lost}")
    assert max(lost) > 0
    alerts = [(m, Alert.read(m.headers, m.value)) for m in said]
    facts = ("offset", "id", "pipeline", "rule", "severity", "transition", "key", "event_time", "data")
    assert results("alerts", lake=job.lake).select(facts).sort("offset").collect().rows() == [
        (m.offset, a.id, a.pipeline, a.rule, a.severity, a.transition, a.key, a.time, m.value.decode())
        for m, a in alerts
    ]
    assert len({a.id for _, a in alerts}) == len(alerts)
    assert job.differences() == []
    asked = query("SELECT rule, count(*) AS n FROM alerts WHERE transition = 'raised' GROUP BY rule", lake=job.lake)
    assert dict(asked.rows()) == {
        rule: sum((a.rule, a.transition) == (rule, "raised") for _, a in alerts) for rule in ("hot", "steady")
    }
    assert job.read(f"{topic}.dlq") == []
    with KafkaAdminClient(**job.kafka) as admin:
        assert f"alerts.{topic}" not in admin.list_topics()
