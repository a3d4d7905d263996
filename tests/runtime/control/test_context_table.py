"""The table of a pipeline's context: a record is a row, a wrong one a dead letter; the rows become the plan's context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tests.support.tour import ROOT, blocks
from tocsin.pipelines.runtime.control.deployment import context_table_plan
from tocsin.pipelines.runtime.control.desired_state import DesiredState
from tocsin.pipelines.runtime.declare.context import ContextTopic, Intervals
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.engine.machine import Machine
from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan, store_context
from tocsin.pipelines.runtime.formats.codec import Codec
from tocsin.pipelines.runtime.lake.storage import Lake

NOW = 1_769_860_800_300
PLAN = Plan("tests.crash.job:scheduled", {"name": "job", "topic": "t"})


def land(*values: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of records, and why the others were refused."""
    topic = ContextTopic(kinds=["maintenance", "load"], numbers=["load"])
    declared = context_table_plan("job", topic).build(Lake("unused"))
    records = [
        ConsumerRecord("context.job", 1, 0, n, NOW, 0, b"a", orjson.dumps(value), [], None, 0, 0, 0)
        for n, value in enumerate(values)
    ]
    batch, letters = Codec(topic=declared.topic, schema=declared.schema).decode(records)
    outcome = Machine(declared).step(batch, NOW)
    refused = [refusal.message for refusal in outcome.refused]
    return outcome.results.to_pylist(), [*(letter.message for letter in letters), *refused]


def test_each_record_is_a_row() -> None:
    rows, refused = land(
        {"asset": "a", "kind": "load", "from": "2026-01-31T12:00:00Z", "to": "2026-01-31T13:00:00Z", "load": 0.5},
        {"asset": "*", "kind": "maintenance", "from": "2026-01-31T12:00:00Z", "id": "7"},
        {"asset": "a", "kind": "maintenance", "from": "2026-01-31T12:00:00Z", "to": "2026-01-31T12:00:00Z"},
    )
    assert refused == []
    assert [(row["key"], row["kind"], row["id"], row["load"]) for row in rows] == [
        ("a", "load", None, 0.5),
        ("*", "maintenance", "7", None),
        ("a", "maintenance", None, None),
    ]


def test_a_wrong_record_is_a_dead_letter_that_says_what_was_expected() -> None:
    rows, refused = land(
        {"asset": "a", "kind": "maintenence", "from": "2026-01-31T12:00:00Z"},
        {"asset": "a", "kind": "load", "from": "2026-01-31T12:00:00Z", "to": "2026-01-31T11:00:00Z"},
        {"asset": "a", "kind": "load"},
        {"asset": "a", "kind": "load", "from": "2026-01-31T12:00:00Z", "load": "much"},
        {"asset": "a", "kind": "load", "from": "2026-01-31T12:00:00Z"},
    )
    assert len(rows) == 1
    assert {
        "expected `to` not before `from`, got an earlier time",
        "expected kind to be one of maintenance, load, got 'maintenence'",
    } < {*refused}, refused
    assert len(refused) == 4


def test_a_plan_keeps_its_context_over_changes_and_deployments_that_have_one(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    desired, path = DesiredState(lake, "first", PLAN, context=True), store_context(lake, "job", Intervals())
    desired.know(path)
    desired.change(Plan(PLAN.factory, {**PLAN.options, "every": "1s"}))
    assert desired.plan.context == path
    assert DesiredState(lake, "second", PLAN, context=True).plan.context == path
    assert DesiredState(lake, "second", PLAN).plan.context == ""
    assert Plan.load(desired.plan.dump()) == desired.plan


def test_a_context_that_is_gone_is_refused_in_one_line(tmp_path: Path) -> None:
    plan = Plan(PLAN.factory, PLAN.options, context="_context/job/a.arrow")
    with pytest.raises(ConfigError, match="expected the file that a checkpoint names, got none"):
        plan.build(Lake(str(tmp_path)))


def test_a_shadow_has_the_context_of_its_pipeline() -> None:
    plan = Plan(PLAN.factory, PLAN.options, context="_context/job/a.arrow")
    assert plan.in_shadow(ModelRef("m", "2", "0")).context == plan.context


def test_the_records_of_the_page_are_rows() -> None:
    (text,) = [text for kind, text in blocks(ROOT / "docs" / "operations.md") if kind == "text" and "press-7" in text]
    declared = context_table_plan("press", ContextTopic(kinds=["maintenance", "holiday"])).build(Lake("unused"))
    records = [
        ConsumerRecord("context.press", 0, 0, n, NOW, 0, None, line.encode(), [], None, 0, 0, 0)
        for n, line in enumerate(text.splitlines())
    ]
    batch, letters = Codec(topic=declared.topic, schema=declared.schema).decode(records)
    outcome = Machine(declared).step(batch, NOW)
    assert (letters, outcome.refused, outcome.results.num_rows) == ([], [], 2)
