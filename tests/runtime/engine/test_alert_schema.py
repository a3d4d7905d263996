"""The JSON Schemas of alerts fit the alerts that are published, and little else."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import orjson
import polars as pl
import pytest
from jsonschema import Draft202012Validator

from tests.crash.job import pipeline
from tocsin.pipelines.runtime.admin.acknowledgement import PublishedAlert, act
from tocsin.pipelines.runtime.engine import alert_schema
from tocsin.pipelines.runtime.engine.alerts import Alert, alerts_from
from tocsin.pipelines.runtime.engine.rules import Transition

JOB = pipeline({"name": "job", "topic": "readings"}, None)
HOT, STEADY = JOB.rules[0], JOB.rules[1]
AT = dt.datetime(2026, 1, 1, 12, 0, 0, 500, tzinfo=dt.UTC)
ROW = {
    **{
        "topic": "readings",
        "partition": 3,
        "offset": 1042,
        "row": 0,
        "key": "17",
        "event_time": AT,
        "processed_at": AT,
    },
    **{"model_version": "", "unit": 17, "cycle": 9, "score": 0.5, "loads": [0.5, None], "silent": False},
}


def _alert(rule: Any, transition: str = "raised", **changes: Any) -> Alert:
    frame = pl.DataFrame([ROW | changes], schema=pl.DataFrame(JOB.table.empty_table()).schema)
    (alert,) = alerts_from(JOB, frame, [Transition(0, rule, transition)])
    return alert


def _errors(schema: dict[str, Any], value: Any) -> list[str]:
    Draft202012Validator.check_schema(schema)
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


@pytest.mark.parametrize(
    "alert",
    [
        _alert(HOT),
        _alert(HOT, "cleared"),
        _alert(HOT, offset=None, row=None),
        _alert(HOT, score=float("nan"), unit=None),
        _alert(HOT, event_time=AT.replace(microsecond=0)),
    ],
    ids=["raised", "cleared", "by a timer", "without numbers", "at a full second"],
)
def test_what_is_published_is_valid(alert: Alert) -> None:
    assert _errors(alert_schema.data(JOB, HOT), orjson.loads(alert.value())) == []
    sent = {name: text.decode() for name, text in alert.headers()}
    assert _errors(alert_schema.headers(JOB), sent) == []
    assert alert_schema.headers(JOB)["required"] == [*sent]


def test_a_rule_without_columns_of_its_own_carries_all_results() -> None:
    data = orjson.loads(_alert(STEADY).value())
    assert _errors(alert_schema.data(JOB, STEADY), data) == []
    assert alert_schema.data(JOB, STEADY)["required"] == [*data]


@pytest.mark.parametrize(
    "change", [{"rule": "other"}, {"severity": "x"}, {"score": "0.5"}, {"topic": "t"}, {"row": -1}]
)
def test_another_rules_alert_is_invalid(change: dict[str, Any]) -> None:
    data = orjson.loads(_alert(HOT).value())
    assert _errors(alert_schema.data(JOB, HOT), data | change)
    assert _errors(alert_schema.data(JOB, HOT), {name: data[name] for name in data if name not in change})


def test_another_pipelines_headers_are_invalid() -> None:
    sent = {name: text.decode() for name, text in _alert(HOT).headers()}
    for change in ({"ce_source": "/tocsin/other"}, {"ce_type": "io.tocsin.alert.paused"}, {"ce_id": "1"}):
        assert _errors(alert_schema.headers(JOB), sent | change)


def test_the_headers_of_a_trace_are_described() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = {n: text.decode() for n, text in replace(_alert(HOT), traceparent=parent, tracestate="a=b").headers()}
    assert sent.keys() <= alert_schema.headers(JOB)["properties"].keys()
    assert _errors(alert_schema.headers(JOB), sent) == []
    for name in ("traceparent", "ce_traceparent"):
        assert _errors(alert_schema.headers(JOB), sent | {name: "4bf92f3577b34da6a3ce929d0e0e4736"})


@pytest.mark.parametrize("transition", ["acknowledged", "silenced"])
def test_what_a_person_does_is_valid(transition: Any) -> None:
    raised = _alert(HOT)
    event = act(PublishedAlert(raised, 0), transition, by="Zoë", reason="seen", now=raised.time, until=raised.time)
    sent = {name: text.decode() for name, text in event.headers()}
    assert _errors(alert_schema.headers(JOB), sent) == []
    assert _errors(alert_schema.data(JOB, HOT), orjson.loads(event.value())) == []
    assert _errors(alert_schema.headers(JOB), sent | {"ce_about": "1"})
