"""The crash tests' job in versions of its code: the second one keeps its windows in another order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tests.crash import job
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.declare.state import StateDelta
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.stages.infer import Infer
from tocsin.pipelines.runtime.stages.sliding_window import SlidingWindow

RING = "1-Last/rows|data"


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """What `options["code"]` says: its version, and how it gets state of the first.

    Where that is a file's name, a plan that an older version has stored builds the newer one, as it is when code has changed.
    """
    code = options["code"]
    code = code if isinstance(code, dict) else orjson.loads(Path(code).read_bytes())
    declared = job.pipeline(options, model)
    if code["version"] == 1:
        return declared
    order, *_, silence = declared.stages
    return replace(
        declared,
        stages=[
            order,
            SlidingWindow(job.WINDOW, ["load", "heat"]),
            Infer(lambda window: job.wear(window.flip(-1))),
            silence,
        ],
        state_version=code["version"],
        migrate=migrate if code.get("migrate") else None,
        warmup=code.get("warmup", "0s"),
    )


def migrate(version: int, delta: StateDelta) -> StateDelta | None:
    """The second version's state from the first one's."""
    return replace(delta, cells={**delta.cells, RING: delta.cells[RING].flip(-1)}) if version == 1 else None
