"""What a person does about an alert: an event of its own that names the alert, the person and the reason."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.query import alerts
from tocsin.pipelines.runtime.admin.acknowledgement import PublishedAlert, acknowledge, act, find_alert, from_row
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.lake.storage import Lake

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
RAISED = Alert("ab" * 16, "rul", "critical", "critical", "raised", "engine 7", NOON, {"rul": 9.5})


def test_the_event_names_the_alert_and_has_an_id_of_its_own() -> None:
    event = act(PublishedAlert(RAISED, 1), "acknowledged", by="Zoë", reason="pump\nordered ", now=NOON)
    assert (event.about, event.by, event.reason) == (RAISED.id, "Zoë", "pump ordered")
    assert (event.key, event.rule, event.severity, event.data) == ("engine 7", "critical", "critical", {"rul": 9.5})
    assert event.id != RAISED.id and event.transition == "acknowledged"
    assert Alert.read(event.headers(), event.value()) == event


def test_a_mute_says_when_it_ends() -> None:
    event = act(PublishedAlert(RAISED, 1), "silenced", by="Zoë", reason="repair", now=NOON, until=NOON)
    assert event.data == {"rul": 9.5, "silenced_until": NOON.isoformat()}


@pytest.mark.parametrize(
    ("alert", "by", "reason", "said"),
    [
        (replace(RAISED, transition="cleared"), "Zoë", "seen", "expected one that was raised, got cleared"),
        (RAISED, " \n", "seen", "by: expected 1 to 100 characters, got 0"),
        (RAISED, "Zoë", "x" * 501, "reason: expected 1 to 500 characters, got 501"),
    ],
)
def test_what_does_not_fit_is_one_line(alert: Alert, by: str, reason: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        act(PublishedAlert(alert, 0), "acknowledged", by=by, reason=reason, now=NOON)


def test_a_row_of_an_older_table_is_an_alert() -> None:
    row = {"id": "1", "pipeline": "rul", "rule": "low", "severity": "info", "transition": "raised", "key": "7"}
    found = from_row({**row, "event_time": NOON, "partition": 3, "data": '{"rule":"low","severity":"info","rul":1}'})
    assert found == PublishedAlert(Alert("1", "rul", "low", "info", "raised", "7", NOON, {"rul": 1}), 3)


def test_it_follows_its_alert_in_the_same_partition(
    kafka: KafkaServer, create_topic: Callable[..., str], tmp_path: Path
) -> None:
    options, lake = {"bootstrap_servers": kafka.bootstrap_servers}, Lake(str(tmp_path))
    pipeline = create_topic("alerts.ack", partitions=3).removeprefix("alerts.")
    raised = replace(RAISED, pipeline=pipeline, id=uuid.uuid4().hex)
    with closing(KafkaProducer(**options)) as producer:
        producer.send(f"alerts.{pipeline}", raised.value(), b"engine 7", raised.headers(), partition=2)
    found = find_alert(options, lake, pipeline, raised.id[:8])
    assert found == PublishedAlert(raised, 2)
    event = acknowledge(options, found, by="Zoë", reason="pump ordered")
    assert list(alerts(pipeline, kafka=options)) == [raised, event]
    with pytest.raises(ConfigError, match=f"alert 0000000 of {pipeline}: expected one alert, got none; see"):
        find_alert(options, lake, pipeline, "0000000")
    with pytest.raises(ConfigError, match="expected 6 to 32 hexadecimal digits"):
        find_alert(options, lake, pipeline, "'; DROP")
