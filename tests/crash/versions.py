"""The crash tests' job in two versions of its code: the second one stores the columns of its windows in another order."""

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
    """Create the pipeline in the version of `options["code"]`, which also decides how it gets the first version's state.

    `options["code"]` may be a file's name. A plan that the older version has stored then builds the newer version, as after a
    change of the code.
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
    """Convert the first version's state to the second's."""
    return replace(delta, cells={**delta.cells, RING: delta.cells[RING].flip(-1)}) if version == 1 else None
