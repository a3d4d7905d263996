"""Each check gives one finding; checks that depend on a failed one are skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tocsin.pipelines.runtime.admin import preflight
from tocsin.pipelines.runtime.admin.preflight import Concern, Finding, Preflight
from tocsin.pipelines.runtime.declare.errors import ConfigError


def fails(reason: Exception) -> Callable[[], str]:
    def look() -> str:
        raise reason

    return look


def test_what_depends_on_a_failure_is_not_looked_at_in_the_same_pipeline_alone() -> None:
    found: list[Finding] = []
    checkup = Preflight(found.append)
    checkup.run("kafka", lambda: "here")
    checkup.run("topic", fails(ConfigError("topic t: expected it, got none; make it")), "kafka", pipeline="a")
    checkup.run("shards", lambda: pytest.fail("it was looked at"), "topic", pipeline="a")
    checkup.run("rights", lambda: pytest.fail("it was looked at"), "kafka", "shards", pipeline="a")
    checkup.run("topic", fails(Concern("old")), "kafka", pipeline="b")
    checkup.run("shards", lambda: "2", "topic", pipeline="b")
    assert [(f.pipeline, f.check, f.state, f.said) for f in found] == [
        ("", "kafka", "ok", "here"),
        ("a", "topic", "wrong", "topic t: expected it, got none; make it"),
        ("a", "shards", "skipped", "skipped: it needs topic"),
        ("a", "rights", "skipped", "skipped: it needs shards"),
        ("b", "topic", "warning", "old"),
        ("b", "shards", "ok", "2"),
    ]
    assert checkup.wrong == 1


def test_a_failure_of_all_is_one_of_each_pipeline() -> None:
    found: list[Finding] = []
    checkup = Preflight(found.append)
    checkup.run("kafka", fails(ConfigError("gone")))
    checkup.run("topic", lambda: "there", "kafka", pipeline="a")
    assert found[-1].state == "skipped"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (fails(ValueError("one\ntwo")), "expected an answer, got ValueError: one two; correct that and check again"),
        (fails(TimeoutError("slow")), "expected an answer, got TimeoutError: slow; correct that and check again"),
        (
            threading.Event().wait,
            "expected an answer within 0 s, got none; check whether the system that it asks is up",
        ),
    ],
)
def test_what_nobody_thought_of_or_hangs_is_wrong_in_one_line(
    how: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LONGEST_S", 0.1)
    found: list[Finding] = []
    Preflight(found.append).run("it", how)
    assert (found[0].state, found[0].said) == ("wrong", said)
