"""Camera frames: pixels, missing frames, and stored files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from tocsin.pipelines.runtime.declare.durations import NEVER
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores


class Pixels(Stage):
    """Turns each row's frame into `tensors["pixels"]`, `[B, 3, height, width]` uint8 RGB, and drops its column.

    Args:
        field: the schema's field for pixels, from `frame_fields`.
    """

    def __init__(self, field: pa.Field) -> None:
        self._column, facts = field.name, field.metadata
        self._shape = int(facts[b"height"]), int(facts[b"width"]), 3

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        column, size = rows.table.column(self._column), math.prod(self._shape)
        flat = np.frombuffer(column.buffers()[1] or b"", np.uint8)[column.offset * size :][: len(rows) * size]
        with warnings.catch_warnings():  # PyTorch warns that Arrow's memory is read-only; nothing writes to it
            warnings.simplefilter("ignore", UserWarning)
            pixels = torch.from_numpy(flat).view(len(rows), *self._shape)
        return rows.without(self._column).with_tensors(pixels=pixels.permute(0, 3, 1, 2))


class Gaps(Stage):
    """Adds the column `missed`: how many positions of its key are missing right before each row, 0 for a key's first row.

    A position that goes back means that the source has restarted: nothing is missing.

    Args:
        by: an integer column that a source increments by one, such as a camera's frame number.
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
            before = g.previous(position, last[g.slots])
            missed = torch.where(before > NEVER, position - before - 1, 0).clamp(min=0)
            last[g.slots] = position[g.newest]
        ctx.counts["missed"] += int(missed.double().sum())  # a source may say any number: integers would overflow
        return rows.with_columns({"missed": pa.array(missed.numpy())})


class Keep(Stage):
    """Adds the column `into`: the path of each row's file, null where the file is not kept. See `Pipeline.files`.

    Args:
        when: a boolean column: whether the row's file is kept.
        folder: a folder in the lake; each day (UTC, by Kafka's timestamp) has a subfolder.
        suffix: the suffix of the file's name, such as `.jpg`.
        into: the name of the new column.
    """

    def __init__(self, *, when: str, folder: str, suffix: str, into: str) -> None:
        self._when, self._folder, self._suffix, self._into = when, folder, suffix, into

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        place = pl.DataFrame(rows.table.select(["_timestamp", "_partition", "_offset", "_row"]))
        day, ms = pl.col("_timestamp").dt.date(), pl.col("_timestamp").dt.epoch("ms")  # a new topic reuses offsets
        path = pl.format(
            f"{self._folder}/{{}}/{{}}-{{}}-{{}}-{{}}{self._suffix}", day, ms, "_partition", "_offset", "_row"
        )
        is_kept = pl.Series(rows.table.column(self._when)).fill_null(False)
        paths = place.select(pl.when(is_kept).then(path)).to_series()
        return rows.with_columns({self._into: paths.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())})
