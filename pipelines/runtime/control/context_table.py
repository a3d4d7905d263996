"""The pipeline that writes a pipeline's context to the table `context.<pipeline>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tocsin.pipelines.runtime.declare.context import ContextTopic
from tocsin.pipelines.runtime.declare.options import Options
from tocsin.pipelines.runtime.declare.pipeline import Batch, Commit, Pipeline
from tocsin.pipelines.runtime.declare.rows import Rows, milliseconds_of
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores
from tocsin.pipelines.runtime.engine.plan import Model


class ContextTableOptions(Options):
    """The options of the pipeline that writes context into a table.

    Args:
        kinds, numbers: see `ContextTopic`.
    """

    kinds: tuple[str, ...]
    numbers: tuple[str, ...] = ()


def pipeline(options: Mapping[str, Any], model: Model | None) -> Pipeline:
    """The pipeline that writes each record of a context topic as a row; `event_time` is when it was sent.

    Args:
        options: of `ContextTableOptions`.
        model: not used.
    """
    o = ContextTableOptions.read(options)
    schema = ContextTopic(kinds=o.kinds, numbers=o.numbers).schema
    return Pipeline(
        name=o.name,
        topic=o.topic,
        schema=schema,
        key="asset",
        stages=[Sound(o.kinds)],
        results=schema,
        batch=Batch(wait="100ms"),
        commit=Commit(every="1s"),  # rows of the other pipeline wait for these
    )


class Sound(Stage):
    """Sends records of an unknown kind, and those that end before they begin, to the dead letters."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        kinds = rows.table.column("kind").to_pylist()
        begin, end = (milliseconds_of(rows.table.column(name)) for name in ("from", "to"))
        expected = ", ".join(self._kinds)
        rows, kept = _without(
            rows,
            ctx,
            np.array([kind not in self._kinds for kind in kinds], bool),
            [f"expected kind to be one of {expected}, got {kind!r}" for kind in kinds],
        )
        is_reversed = (end < begin)[kept]
        return _without(rows, ctx, is_reversed, ["expected `to` not before `from`, got an earlier time"] * len(rows))[0]


def _without(rows: Rows, ctx: StepContext, wrong: np.ndarray, messages: list[str]) -> tuple[Rows, np.ndarray]:
    """The rows that are not wrong, and which those are; the others go to the dead letters."""
    if wrong.any():
        refused = [message for message, is_wrong in zip(messages, wrong, strict=True) if is_wrong]
        ctx.refuse(rows.keep(torch.from_numpy(wrong)), stage="context", error="BadInterval", messages=refused)
        rows = rows.keep(torch.from_numpy(~wrong))
    return rows, ~wrong
