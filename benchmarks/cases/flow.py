"""Feature-flow attention against its naive form, and beside global attention over the same places."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.cases.meter import Row, compare
from tocsin.operators.flow import flow_attention, global_flow_attention, naive_flow_attention


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    for height, width, radius in ((8, 10, 1),) if quick else ((60, 80, 4), (30, 40, 4)):
        q, k, flow = (
            torch.randn(1, 32, height, width),
            torch.randn(1, 32, height, width),
            torch.zeros(1, 2, height, width),
        )
        yield compare(
            "in a window / everywhere",
            f"32 x {height} x {width}, radius {radius}",
            lambda q=q, k=k, flow=flow, radius=radius: flow_attention(q, k, flow, radius=radius, scale=1.0),
            lambda q=q, k=k: global_flow_attention(q, k, scale=1.0),
            quality="needs a flow that is right to within the window",
        )
    q, k, flow = torch.randn(1, 8, 6, 8), torch.randn(1, 8, 6, 8), torch.randn(1, 2, 6, 8)
    yield compare(
        "all places at once / one by one",
        "8 x 6 x 8, radius 2",
        lambda: flow_attention(q, k, flow, radius=2, scale=1.0),
        lambda: naive_flow_attention(q, k, flow, radius=2, scale=1.0),
    )
