"""Alerts: their ids, their data, and their form as messages."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import polars as pl

from tests.crash.job import pipeline
from tocsin.pipelines.runtime.declare.pipeline import AlertRule
from tocsin.pipelines.runtime.engine.alerts import Alert, alerts_from, generation
from tocsin.pipelines.runtime.engine.machine import empty
from tocsin.pipelines.runtime.engine.rules import Transition
from tocsin.pipelines.runtime.engine.shard_publisher import fingerprint

JOB = pipeline({"name": "job", "topic": "readings"}, None)
HOT, STEADY = JOB.rules[0], JOB.rules[1]
AT = dt.datetime(2026, 1, 1, 12, 0, 0, 500, tzinfo=dt.UTC)


def _frame(**changes: Any) -> pl.DataFrame:
    row = {
        "topic": "readings",
        "partition": 3,
        "offset": 1042,
        "row": 0,
        "key": "17",
        "event_time": AT,
        "processed_at": AT,
        "model_version": "rul/2",
        "unit": 17,
        "cycle": 9,
        "score": 0.5,
        "loads": [0.5, 0.25, 1.0],
        "silent": False,
        "event_date": "2026-01-01",
    }
    return pl.DataFrame([row | changes], schema=pl.DataFrame(JOB.table.empty_table()).schema)


def _alert(rule: AlertRule = HOT, transition: str = "raised", **changes: Any) -> Alert:
    (alert,) = alerts_from(JOB, _frame(**changes), [Transition(0, rule, transition)])
    return alert


def test_it_travels_as_a_cloud_event() -> None:
    alert = _alert()
    headers = dict(alert.headers())
    assert headers["ce_specversion"] == b"1.0"
    assert (headers["ce_type"], headers["ce_source"], headers["ce_subject"]) == (
        b"io.tocsin.alert.raised",
        b"/tocsin/job",
        b"17",
    )
    assert headers["content-type"] == b"application/json"
    assert dt.datetime.fromisoformat(headers["ce_time"].decode()) == AT
    assert Alert.read(alert.headers(), alert.value()) == alert


def test_a_trace_travels_by_the_names_of_cloud_events_and_of_opentelemetry() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    alert = replace(_alert(), traceparent=parent, tracestate="vendor=a")
    headers = dict(alert.headers())
    assert headers["ce_traceparent"] == headers["traceparent"] == parent.encode()
    assert headers["ce_tracestate"] == headers["tracestate"] == b"vendor=a"
    assert Alert.read(alert.headers(), alert.value()) == alert
    assert not {"traceparent", "ce_traceparent", "tracestate", "ce_tracestate"} & dict(_alert().headers()).keys()
    assert fingerprint(alert) == fingerprint(_alert())  # it is the same alert


def test_a_long_text_is_evidence_in_part() -> None:
    rule = AlertRule(name="any", severity="warning", when=pl.lit(True), data=["unit", "model_version"])
    (alert,) = alerts_from(JOB, _frame(model_version="x" * 2_000_000), [Transition(0, rule, "raised")])
    assert alert.data["model_version"] == "x" * 1000
    assert len(alert.value()) < 2000


def test_it_carries_its_lineage_and_the_columns_that_the_rule_names() -> None:
    lineage = {"topic": "readings", "partition": 3, "offset": 1042, "row": 0, "model_version": "rul/2"}
    assert _alert(HOT).data == lineage | {"unit": 17, "cycle": 9, "score": 0.5}
    everything = {"unit": 17, "cycle": 9, "score": 0.5, "loads": [0.5, 0.25, 1.0], "silent": False}
    assert _alert(STEADY).data == lineage | everything


def test_its_id_names_what_rang_and_not_when_it_was_judged() -> None:
    one = _alert().id
    assert _alert(processed_at=AT + dt.timedelta(hours=1), model_version="rul/3", score=0.7).id == one
    others = [
        _alert(offset=1043),
        _alert(row=1),
        _alert(partition=4),
        _alert(topic="other"),
        _alert(STEADY),
        _alert(transition="cleared"),
    ]
    assert len({one, *(a.id for a in others)}) == 7


def test_a_timers_id_is_the_keys_and_its_times() -> None:
    timer = {"offset": None, "row": None}
    one = _alert(**timer).id
    assert _alert(**timer, processed_at=AT + dt.timedelta(hours=1)).id == one
    assert len({one, _alert(**timer, key="18").id, _alert(**timer, event_time=AT + dt.timedelta(seconds=1)).id}) == 3


def test_no_edges_no_alerts() -> None:
    assert alerts_from(JOB, pl.DataFrame(JOB.table.empty_table()), []) == []
    assert empty(JOB.schema).num_rows == 0


def test_alerts_of_a_topic_that_was_made_again_have_other_ids_and_those_of_the_first_keep_theirs() -> None:
    edges = [Transition(0, HOT, "raised")]
    for frame in (_frame(), _frame(offset=None, row=None)):  # a record's, and a timer's
        ids = {alerts_from(JOB, frame, edges, topic)[0].id for topic in ("", "uuid-2", "uuid-3")}
        assert len(ids) == 3 and alerts_from(JOB, frame, edges)[0].id in ids
    assert _alert().id == "33cd73021a37b64024686c8aa8551986"


def test_a_topics_generation_is_its_id_once_it_has_replaced_another_and_stays_so() -> None:
    first = {"topic_id": "uuid-1"}  # as older versions wrote it
    assert generation(first, "uuid-1") == ""
    assert generation(first, "uuid-2") == "uuid-2"
    assert generation({"topic_id": "uuid-2", "generation": "uuid-2"}, "uuid-2") == "uuid-2"
    assert generation({"topic_id": "uuid-2", "generation": "uuid-2"}, "uuid-3") == "uuid-3"
    assert generation({"topic_id": ""}, "uuid-1") == ""
    assert generation({}, "uuid-2") == "uuid-2"  # the snapshot is lost, and with it the first id
