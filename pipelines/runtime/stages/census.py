"""Counts readings by how they are distributed, so that drift is noticed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores

SAMPLE = 1024
"""Readings of a step that are counted, at most; they are spread over the step."""
ASSETS = 4096
"""Assets of a shard that are told apart."""


class Census(Stage):
    """Counts readings and passes them on unchanged. The supervisor compares the counts with the pipeline's `DriftReference`.

    Args:
        count: rows -> counts `[G, ...] int64`, as the `DriftReference` takes them.
        version: of the model that the bins belong to.
    """

    def __init__(self, count: Callable[[Rows], Tensor], *, version: str) -> None:
        self._count, self._version = count, version

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        if len(rows):
            sampled = rows.take(torch.arange(0, len(rows), -(-len(rows) // SAMPLE)))
            ctx.tally(f"readings/{self._version}", self._count(sampled).numpy())
            assets = torch.bincount(sampled.slots % ASSETS, minlength=ASSETS)
            ctx.tally(f"assets/{self._version}", assets.numpy())
        return rows
