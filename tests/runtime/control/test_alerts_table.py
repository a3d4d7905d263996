"""The alerts table: each alert that a pipeline published is a row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.admin.acknowledgement import from_row
from tocsin.pipelines.runtime.control.alerts_table import pipeline
from tocsin.pipelines.runtime.control.deployment import alerts_table_plan
from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.lake.storage import Lake

NOON = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
ALERT = Alert(
    id="a1b2",
    pipeline="rul",
    rule="low",
    severity="critical",
    transition="raised",
    key="engine 7",
    time=NOON,
    data={"topic": "sensors", "offset": 41, "rul": 9.5, "attention": [0.25, 0.75], "note": "Lärm: \n"},
)
SENT_MS = 1_769_860_800_300


def _land(*records: ConsumerRecord) -> tuple[list[dict], list[DeadLetter]]:
    """Return the rows of records and the codec's dead letters. The machine itself refuses no row."""
    declared = alerts_table_plan("rul").build(Lake("unused"))
    batch, letters = Codec(topic=declared.topic, schema=declared.schema).decode(records)
    outcome = Machine(declared).step(batch, SENT_MS)
    assert (outcome.refused, outcome.alerts) == ([], [])
    return outcome.results.to_pylist(), letters


def _record(headers: list[tuple[str, bytes]], value: bytes, offset: int = 3) -> ConsumerRecord:
    return ConsumerRecord("alerts.rul", 1, 0, offset, SENT_MS, 0, b"engine 7", value, headers, None, 0, 0, 0)


def test_an_alert_is_a_row_that_says_what_it_said() -> None:
    (row,), letters = _land(_record(ALERT.headers(), ALERT.value()))
    assert letters == []
    assert orjson.loads(row.pop("data")) == {"rule": "low", "severity": "critical", **ALERT.data}
    assert row == {
        "topic": "alerts.rul",
        "partition": 1,
        "offset": 3,
        "row": 0,
        "key": "engine 7",
        "event_time": NOON,
        "processed_at": datetime.fromtimestamp(SENT_MS / 1000, UTC),
        "model_version": "",
        "id": "a1b2",
        "pipeline": "rul",
        "rule": "low",
        "severity": "critical",
        "transition": "raised",
        "about": None,
        "by": None,
        "reason": None,
        "traceparent": None,
        "event_date": "2026-01-31",
    }


def test_what_a_person_did_is_a_row_with_name_and_reason() -> None:
    event = replace(ALERT, id="c3", transition="acknowledged", about="a1b2", by="Zoë", reason="pump ordered")
    (row,), letters = _land(_record(event.headers(), event.value()))
    assert letters == []
    assert [row[n] for n in ("id", "transition", "about", "by", "reason")] == [
        "c3",
        "acknowledged",
        "a1b2",
        "Zoë",
        "pump ordered",
    ]


def test_the_row_of_an_alert_has_its_trace_and_gives_it_back() -> None:
    alert = replace(ALERT, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    (row,), letters = _land(_record(alert.headers(), alert.value()))
    assert letters == []
    assert row["traceparent"] == alert.traceparent
    assert from_row(row).alert == alert


def test_an_alert_lands_whatever_its_time_and_as_often_as_it_was_said() -> None:
    times = [NOON, NOON, datetime(2199, 12, 31, tzinfo=UTC), datetime(1700, 1, 1, tzinfo=UTC), NOON - timedelta(days=9)]
    alerts = [replace(ALERT, time=time) for time in times]
    rows, letters = _land(*(_record(a.headers(), a.value(), offset) for offset, a in enumerate(alerts)))
    assert letters == []
    assert [row["event_time"] for row in rows] == times
    assert [row["offset"] for row in rows] == [0, 1, 2, 3, 4]


def test_a_record_that_is_no_alert_is_a_dead_letter_of_the_alert_topic() -> None:
    good, nobody = ALERT.headers(), [h for h in ALERT.headers() if h[0] != "ce_subject"]
    rows, letters = _land(
        _record(nobody, ALERT.value(), 0),
        _record(good, b'{"severity": "critical"}', 1),
        _record(good, ALERT.value(), 2),
    )
    assert [row["offset"] for row in rows] == [2]
    assert [letter.message for letter in letters] == [
        "missing header ce_subject",
        "missing rule (expected 2 fields, got 1)",
    ]
    assert {letter.destination for letter in letters} == {"alerts.rul.dlq"}


def test_the_plan_says_it_all_and_survives_being_stored(tmp_path: Path) -> None:
    plan = Plan.load(alerts_table_plan("rul", every="2s").dump())
    declared = plan.build(Lake(str(tmp_path)))
    assert (declared.name, declared.topic, declared.folder) == ("alerts.rul", "alerts.rul", "alerts")
    assert (declared.journal, declared.dead_letters) == ("_tocsin.alerts.rul", "alerts.rul.dlq")
    assert (declared.commit.every, declared.rules) == ("2s", ())
    assert declared.table.field("data").type == pa.string()


@pytest.mark.parametrize("options", [{"name": "a"}, {"topic": "a"}, {"name": "a", "topic": "a", "warning": 3}])
def test_other_options_are_refused_in_one_line(options: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=r"expected (a value, got none|one of name, topic, into, got warning); "
    ) as refused:
        pipeline(options, None)
    assert "\n" not in str(refused.value)
