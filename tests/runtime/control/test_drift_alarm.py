"""The alert `drift`: once for each transition, whatever ends the supervisor, and as the contract describes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import orjson
import pytest

from tocsin.models.rul.model import FD001
from tocsin.pipelines import rul
from tocsin.pipelines.runtime.control.drift_alarm import Drift, DriftAlarm
from tocsin.pipelines.runtime.declare.errors import Unavailable
from tocsin.pipelines.runtime.engine import alert_schema
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.lake.storage import Lake

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DRIFTED = Drift(NOON, 0.6, 0.3, "s4", "", ("s4", "s11"), 40, 5000, "rul/3")


class Alarm:
    """An alarm whose events are kept in `sent`; while `down`, Kafka does not answer."""

    def __init__(self, lake: Lake) -> None:
        self.sent, self.down = list[Alert](), False
        self._lake = lake
        self.restart()

    def restart(self) -> None:
        self._alarm = DriftAlarm(self._lake, "rul", "sensors.industrial", self._publish)

    def note(self, index: float | None, *, muted: bool = False) -> list[str]:
        """Note a drift of this index. Returns the transitions that were sent for it."""
        before = len(self.sent)
        self._alarm.note(None if index is None else replace(DRIFTED, index=index), muted=muted)
        return [alert.transition for alert in self.sent[before:]]

    def _publish(self, alert: Alert) -> None:
        if self.down:
            raise Unavailable("Kafka: expected an answer, got none")
        self.sent.append(alert)


@pytest.fixture
def alarm(tmp_path: Path) -> Alarm:
    return Alarm(Lake(str(tmp_path)))


def test_it_is_raised_once_and_cleared_well_below_the_level(alarm: Alarm) -> None:
    assert [alarm.note(index) for index in (0.1, 0.31, 0.9, 0.25, None, 0.23, 0.1, 0.5)] == [
        [], ["raised"], [], [], [], ["cleared"], [], ["raised"],
    ]  # fmt: skip


def test_a_restarted_supervisor_knows_that_it_has_rung(alarm: Alarm) -> None:
    assert alarm.note(0.6) == ["raised"]
    alarm.restart()
    assert (alarm.note(0.6), alarm.note(0.1)) == ([], ["cleared"])


def test_an_event_that_kafka_did_not_take_is_sent_later_with_the_same_id(alarm: Alarm) -> None:
    alarm.down = True
    with pytest.raises(Unavailable):
        alarm.note(0.6)
    alarm.restart()
    alarm.down = False
    assert alarm.note(None) == ["raised"]
    (first,) = alarm.sent
    alarm.restart()
    assert alarm.note(0.6) == []
    alone = Alarm(Lake(str(alarm._lake.root) + "-2"))
    alone.note(0.6)
    assert alone.sent[0].id == first.id and alone.sent[0].value() == first.value()


def test_a_muted_alarm_rings_when_the_mute_has_ended(alarm: Alarm) -> None:
    assert (alarm.note(0.6, muted=True), alarm.note(0.6)) == ([], ["raised"])
    assert alarm.note(0.1, muted=True) == ["cleared"]


def test_the_event_is_what_the_contract_says(alarm: Alarm) -> None:
    alarm.note(0.6)
    (alert,) = alarm.sent
    declared = rul.pipeline({}, Model(FD001, "rul/3", "cpu"))
    jsonschema.validate(orjson.loads(alert.value()), alert_schema.drift(declared))
    headers = {name: content.decode() for name, content in alert.headers()}
    jsonschema.validate(headers, alert_schema.headers(declared))
    assert Alert.read(alert.headers(), alert.value()) == replace(alert, data=alert.data | {"drifted": ["s4", "s11"]})
