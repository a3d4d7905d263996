"""Alert sinks on Apache Kafka: a sink gets every alert at least once and in order, whatever it does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from kafka import KafkaProducer
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from tests.support.waits import until
from tocsin.deploy.kafka.server import KafkaServer
from tocsin.pipelines.runtime.control import alert_sinks
from tocsin.pipelines.runtime.control.alert_sinks import AlertSink, Delivery, SinkConfig
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka import clients
from tocsin.pipelines.runtime.kafka.topics import create_topic


class Notes(AlertSink):
    """Records alert ids. It raises in the calls whose numbers are in `fails`."""

    taken: ClassVar[list[str]] = []
    calls = 0
    fails: Sequence[int] = ()

    def __init__(self, **options: str) -> None:
        self.options = options

    def send(self, alerts: Sequence[Alert]) -> None:
        Notes.calls += 1
        Notes.taken += [alert.id for alert in alerts]
        if Notes.calls in self.fails:
            raise OSError("the desk is away")


NOTES = SinkConfig("desk", f"{__name__}:Notes")


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notes, "taken", [])
    monkeypatch.setattr(Notes, "calls", 0)
    monkeypatch.setattr(alert_sinks, "BACKOFF_S", (0.1,))


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    name = f"alerts.{uuid.uuid4().hex[:8]}"
    with clients.admin({"bootstrap_servers": kafka.bootstrap_servers}) as admin:
        create_topic(admin, name, 1)
    return name


@pytest.fixture
def ring(kafka: KafkaServer, topic: str) -> Iterator[object]:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)

    def send(first: int, end: int) -> list[str]:
        ids = [f"{n:032x}" for n in range(first, end)]
        for id in ids:
            alert = Alert(id, "job", "warm", "warning", "raised", "a", datetime.now(UTC), {"x": 1})
            producer.send(topic, alert.value(), b"a", alert.headers())
        producer.flush()
        return ids

    yield send
    producer.close()


def _delivery(kafka: KafkaServer, topic: str, config: SinkConfig = NOTES) -> Delivery:
    options = {"bootstrap_servers": kafka.bootstrap_servers}
    return Delivery(config, kafka=options, topic=topic, group=f"tocsin.sink.{topic}")


def _positions_are_known(kafka: KafkaServer, topic: str) -> bool:
    # The first group of a new broker has no coordinator until the broker has made, and loaded, the topic of positions.
    with (
        clients.admin({"bootstrap_servers": kafka.bootstrap_servers}) as admin,
        suppress(CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError),
    ):
        return bool(admin.list_group_offsets([f"tocsin.sink.{topic}"]).get(f"tocsin.sink.{topic}"))
    return False


def test_a_new_sink_begins_with_the_next_alert_and_a_restarted_one_goes_on(
    kafka: KafkaServer, topic: str, ring: object
) -> None:
    ring(0, 5)  # type: ignore[operator]
    first = _delivery(kafka, topic)
    until(lambda: _positions_are_known(kafka, topic), "the sink to know where it begins", 60)
    sent = ring(5, 10)  # type: ignore[operator]
    until(lambda: Notes.taken == sent, "all alerts to arrive", 60)
    until(lambda: first.status()["sent"] == 5, "them to be counted", 60)
    first.close()
    meanwhile = ring(10, 13)  # type: ignore[operator]
    second = _delivery(kafka, topic)
    until(lambda: Notes.taken == sent + meanwhile, "the rest to arrive, and only that", 60)
    assert first.status() | {"busy_s": 0.0} == {"sink": "desk", "sent": 5, "busy_s": 0.0, "error": ""}
    second.close()


def test_what_a_sink_fails_to_take_is_handed_over_again_until_it_does(
    kafka: KafkaServer, topic: str, ring: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notes, "fails", (1, 2))
    delivery = _delivery(kafka, topic)
    until(lambda: _positions_are_known(kafka, topic), "the sink to know where it begins", 60)
    sent = ring(0, 3)  # type: ignore[operator]
    until(lambda: "the desk is away" in delivery.status()["error"], "its error to show", 60)
    until(lambda: delivery.status()["sent"] == 3, "all alerts to arrive", 60)
    assert Notes.taken[-3:] == sent
    assert set(Notes.taken) == set(sent) and len(Notes.taken) > 3
    assert delivery.status()["error"] == ""
    delivery.close()


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        (
            "nothing",
            r"sinks.desk.sink: expected module:name or an entry point of tocsin.alert_sinks \(none\), got 'nothing'",
        ),
        ("no.such:Sink", "sinks.desk.sink: expected an importable module:name, got 'no.such:Sink'"),
        (f"{__name__}:Nobody", "sinks.desk.sink: expected an importable module:name"),
        ("tocsin.pipelines.runtime:AlertSink", "AlertSink: expected no options, got url"),
    ],
)
def test_a_sink_that_is_not_there_or_takes_other_options_is_one_line(sink: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as wrong:
        SinkConfig("desk", sink, {"url": "http://127.0.0.1"}).make()
    assert "\n" not in str(wrong.value)


def test_options_are_not_shown() -> None:
    assert "hunter2" not in repr(SinkConfig("desk", "a:B", {"token": "hunter2"}))


class Everything(Notes):
    """Also wants what people do."""

    transitions = (*AlertSink.transitions, "acknowledged", "silenced")


@pytest.mark.parametrize(("sink", "gets"), [("Notes", ["1", "3"]), ("Everything", ["1", "2", "3"])])
def test_a_sink_gets_what_people_do_only_if_it_asks(
    kafka: KafkaServer, topic: str, ring: object, sink: str, gets: list[str]
) -> None:
    delivery = _delivery(kafka, topic, SinkConfig("desk", f"{__name__}:{sink}"))
    try:
        until(lambda: _positions_are_known(kafka, topic), "the sink's positions")
        raised = Alert("1", "job", "warm", "warning", "raised", "a", datetime.now(UTC), {"x": 1})
        acknowledged = replace(raised, id="2", transition="acknowledged", about="1", by="Zoë", reason="seen")
        with closing(KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)) as producer:
            for alert in (raised, acknowledged, replace(raised, id="3", transition="cleared")):
                producer.send(topic, alert.value(), b"a", alert.headers())
        until(lambda: Notes.taken[-1:] == ["3"], "the last alert")
    finally:
        delivery.close()
    assert Notes.taken == gets
