"""Grid attention against attention over all cells, and against its naive form."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.cases.meter import Row, compare
from tocsin.operators.grid import grid_attention, naive_grid_attention

PATCH = (1, 5)


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    for sensors, times, batch in ((4, 30, 4),) if quick else ((17, 30, 64), (64, 60, 8)):
        q, k, v = torch.randn(3, batch, 4, sensors, times, 4)
        yield compare(
            "patches of 5 times / every cell",
            f"{batch} grids of {sensors} x {times}",
            lambda q=q, k=k, v=v: grid_attention(q, k, v, patch=PATCH),
            lambda q=q, k=k, v=v: grid_attention(q, k, v, patch=(1, 1)),
            quality="25 times fewer scores",
        )
    q, k, v = torch.randn(3, 1, 1, 4, 30, 4)
    yield compare(
        "patches of 5 times / patch by patch",
        "1 grid of 4 x 30",
        lambda: grid_attention(q, k, v, patch=PATCH),
        lambda: naive_grid_attention(q, k, v, patch=PATCH),
    )
