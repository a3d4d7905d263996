"""A requested plan is built beside the steps: nobody waits for it, and the last request counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.job import pipeline as job
from tests.support.waits import until
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.engine.plan import Model, Plan
from tocsin.pipelines.runtime.engine.plan_switch import PlanSwitch
from tocsin.pipelines.runtime.lake.storage import Lake

BUILT = threading.Event()
SLOW = Plan(f"{__name__}:slow", {"name": "job", "topic": "in"})


def slow(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pipeline of the crash tests, which is not built before `BUILT` is set."""
    assert BUILT.wait(30)
    return job(options, model)


@pytest.fixture
def switch(tmp_path: Path) -> PlanSwitch:
    BUILT.clear()
    return PlanSwitch(Lake(str(tmp_path)))


def test_a_plan_is_taken_once_when_its_pipeline_is_built(switch: PlanSwitch) -> None:
    assert (switch.is_requested, switch.is_ready, switch.take()) == (False, False, None)
    switch.to(SLOW)
    assert (switch.is_requested, switch.is_ready, switch.take()) == (True, False, None)
    BUILT.set()
    until(lambda: switch.is_ready, "the pipeline to be built", 30)
    taken = switch.take()
    assert taken and (taken[0], taken[1].name) == (SLOW, "job")
    assert (switch.is_requested, switch.take()) == (False, None)


def test_the_last_request_counts(switch: PlanSwitch) -> None:
    later = replace(SLOW, options={**SLOW.options, "high": 0.9})
    switch.to(SLOW)
    switch.to(later)
    BUILT.set()
    switch.wait()
    taken = switch.take()
    assert taken and taken[0] == later and not switch.is_requested


def test_a_pipeline_that_cannot_be_built_is_refused_when_it_is_taken(switch: PlanSwitch) -> None:
    switch.to(replace(SLOW, factory=f"{__name__}:none"))
    switch.wait()
    assert switch.is_ready
    with pytest.raises(ConfigError, match="expected an importable module:function"):
        switch.take()
    assert not switch.is_requested
