"""Frames of cameras: pixels, frames that are missing, files that are kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.state import NEVER, Cell, Declared, Stores


class Pixels(Stage):
    """Each row's frame as a tensor, `tensors["pixels"]`, `[B, 3, height, width]` uint8 RGB; its column goes.

    Args:
        field: of the schema, from `frame_fields`.
    """

    def __init__(self, field: pa.Field) -> None:
        self._column, facts = field.name, field.metadata
        self._shape = int(facts[b"height"]), int(facts[b"width"]), 3

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        column, size = rows.table.column(self._column), math.prod(self._shape)
        flat = np.frombuffer(column.buffers()[1] or b"", np.uint8)[column.offset * size :][: len(rows) * size]
        with warnings.catch_warnings():  # Arrow's memory is not to be written to, and nobody does
            warnings.simplefilter("ignore", UserWarning)
            pixels = torch.from_numpy(flat).view(len(rows), *self._shape)
        return rows.without(self._column).with_tensors(pixels=pixels.permute(0, 3, 1, 2))


class Gaps(Stage):
    """Adds how many positions of its key are missing right before each row: `missed`, 0 for a key's first.

    A position that goes back is a source that has started again: nothing is missing.

    Args:
        by: an integer column that a source counts up by one, such as a camera's frame number.
    """

    def __init__(self, *, by: str) -> None:
        self._by = by

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"last": Cell(dtype=torch.int64, fill=NEVER)}

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        last = state.cell("last")
        position = rows.column(self._by)
        missed = torch.zeros(len(rows), dtype=torch.int64)
        if len(rows):
            g = rows.groups()
            ordered = position[g.order]
            before = torch.cat([ordered[:1], ordered[:-1]])
            before[g.starts] = last[g.slots]
            steps = torch.where(before > NEVER, ordered - before - 1, 0)
            missed[g.order] = steps.clamp(min=0)
            last[g.slots] = ordered[g.starts + g.lengths - 1]
        ctx.counts["missed"] += int(missed.sum())
        return rows.with_columns({"missed": pa.array(missed.numpy())})


class Keep(Stage):
    """Adds the path under which a row's file is kept, where it is to be kept: `into`, null elsewhere. See `Pipeline.files`.

    Args:
        when: a boolean column; the rows whose file is kept.
        folder: in the lake; each day (UTC, by Kafka's timestamp) has one of its own in it.
        suffix: of the file's name, such as `.jpg`.
        into: the new column.
    """

    def __init__(self, *, when: str, folder: str, suffix: str, into: str) -> None:
        self._when, self._folder, self._suffix, self._into = when, folder, suffix, into

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        place = pl.DataFrame(rows.table.select(["_timestamp", "_partition", "_offset", "_row"]))
        day, ms = pl.col("_timestamp").dt.date(), pl.col("_timestamp").dt.epoch("ms")  # a topic made again counts anew
        path = pl.format(
            f"{self._folder}/{{}}/{{}}-{{}}-{{}}-{{}}{self._suffix}", day, ms, "_partition", "_offset", "_row"
        )
        kept = pl.Series(rows.table.column(self._when)).fill_null(False)
        paths = place.select(pl.when(kept).then(path)).to_series()
        return rows.with_columns({self._into: paths.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())})
