"""The feed: first the table, then Kafka from where the table ends; only what is committed; within a second."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from kafka import KafkaProducer

from tests.support.waits import until
from tests.ui import scene
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.ui.data.alert_feed import AlertFeed
from tocsin.pipelines.ui.data.board import AlertBoard


def rows(topic: str, *alerts: Alert) -> pl.DataFrame:
    """Alerts as an older version's table has them: without `about`, `by` and `reason`."""
    n = len(alerts)
    columns: dict[str, Any] = {
        name: [getattr(a, name) for a in alerts] for name in ("id", "pipeline", "rule", "severity")
    }
    columns |= {"transition": [a.transition for a in alerts], "key": [a.key for a in alerts]}
    columns |= {
        "topic": [topic] * n,
        "partition": [0] * n,
        "offset": [*range(n)],
        "row": [0] * n,
        "model_version": [""] * n,
    }
    columns |= {"event_time": [a.time for a in alerts], "processed_at": [a.time for a in alerts]}
    columns |= {"data": [a.value().decode() for a in alerts], "event_date": ["2026-01-31"] * n}
    return pl.DataFrame(columns)


def test_the_table_gives_the_newest_and_all_that_are_raised(tmp_path: Path) -> None:
    old = scene.alert("old", after_s=-100)
    pairs = [scene.alert("7", transition=t, after_s=n) for n, t in enumerate(["raised", "cleared"] * 20)]
    scene.commit(tmp_path, "alerts", rows("alerts.rul", old, *pairs))
    board = AlertBoard()
    AlertFeed({}, Lake(str(tmp_path)), board, keep=6)._load()
    assert [s.alert for s in board.raised()] == [old]
    assert [(s.alert.key, s.state) for s in board.alerts()] == [("old", "raised"), *[("7", "cleared")] * 3]


def test_no_table_is_no_error(tmp_path: Path) -> None:
    AlertFeed({}, Lake(str(tmp_path)), AlertBoard())._load()


class Ringer:
    """Sends alerts as a shard does: in transactions."""

    def __init__(self, servers: str) -> None:
        self.producer = KafkaProducer(
            bootstrap_servers=servers, transactional_id=f"ringer{uuid.uuid4().hex}", retry_backoff_ms=2
        )
        self.producer.init_transactions()

    def ring(self, topic: str, alert: Alert, *, commit: bool = True) -> float:
        """Returns when the transaction had ended."""
        self.producer.begin_transaction()
        self.producer.send(topic, key=alert.key.encode(), value=alert.value(), headers=alert.headers())
        self.producer.flush()
        if commit:
            self.producer.commit_transaction()
        else:
            self.producer.abort_transaction()
        return time.monotonic()


@pytest.fixture
def ringer(kafka: KafkaServer) -> Iterator[Ringer]:
    ringer = Ringer(kafka.bootstrap_servers)
    with closing(ringer.producer):
        yield ringer


@pytest.fixture
def seconds(kafka: KafkaServer, create_topic: Callable[..., str], ringer: Ringer, tmp_path: Path) -> float:
    """From the end of a transaction to its alert on the board, which has no alert of an aborted one."""
    topic = create_topic("alerts.feed")
    name = topic.removeprefix("alerts.")
    alerts = [replace(scene.alert(str(n), after_s=n), id=uuid.uuid4().hex, pipeline=name) for n in range(4)]
    ringer.ring(topic, alerts[0])
    scene.commit(tmp_path, "alerts", rows(topic, alerts[0]))
    board = AlertBoard()
    feed = AlertFeed({"bootstrap_servers": kafka.bootstrap_servers}, Lake(str(tmp_path)), board)
    feed.start()

    def keys() -> list[str]:
        return [s.alert.key for s in board.alerts() if s.alert.pipeline == name]

    try:
        until(lambda: keys() == ["0"], "the table's alert", 60)
        until(lambda: not feed.problem and feed._positions, "the feed to follow", 60)
        ringer.ring(topic, alerts[1], commit=False)
        committed = ringer.ring(topic, alerts[2])
        until(lambda: "2" in keys(), "the committed alert", 60)
        found = time.monotonic() - committed
        assert keys() == ["0", "2"]
        return found
    finally:
        feed.close()


def test_committed_alerts_are_on_the_board_and_aborted_ones_are_not(seconds: float) -> None:
    assert seconds > 0


@pytest.mark.slow  # other tests beside it would take its time
def test_new_alerts_are_on_the_board_within_a_second_of_their_transaction(seconds: float) -> None:
    assert seconds < 1.0


def test_what_is_no_alert_is_skipped(
    kafka: KafkaServer, create_topic: Callable[..., str], ringer: Ringer, tmp_path: Path
) -> None:
    topic = create_topic("alerts.bad")
    with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)) as producer:
        producer.send(topic, orjson.dumps([1]))
    ringer.ring(topic, alert := replace(scene.alert("9"), pipeline=topic, id=uuid.uuid4().hex))
    board = AlertBoard()
    feed = AlertFeed({"bootstrap_servers": kafka.bootstrap_servers}, Lake(str(tmp_path)), board)
    feed.start()
    try:
        until(lambda: board.get(alert.id), "the alert behind it", 60)
    finally:
        feed.close()
