"""Fading attention against its naive form and against a ring of the last steps, and what each still knows of an early step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.cases.meter import Row, compare
from tocsin.operators.fading import Faded, fading_attention, keeps, naive_fading_attention

SPANS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, math.inf)
RING, CHANNELS = 30, 14


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    for steps, batch in ((64, 4),) if quick else ((64, 64), (512, 8)):
        x = torch.randn(batch, steps, CHANNELS)
        apart = (fading_attention(x, SPANS)[0] - naive_fading_attention(x, SPANS)).abs().max().item()
        yield compare(
            "whole sequence / every weight of every step",
            f"{batch} sequences of {steps:,} steps",
            lambda x=x: fading_attention(x, SPANS),
            lambda x=x: naive_fading_attention(x, SPANS),
            quality=f"apart by {apart:.0e}",
        )
    keys = 100 if quick else 1000
    x, keep = torch.randn(keys, CHANNELS), keeps(SPANS).float()
    state = Faded.empty((keys,), len(SPANS), CHANNELS, like=x)
    ring = torch.randn(keys, RING, CHANNELS)
    yield compare(
        "one step and its bands / a ring of the last 30",
        f"{keys:,} keys",
        lambda: state.after(x, keep).bands(),
        lambda: torch.cat([ring[:, 1:], x.unsqueeze(1)], dim=1),
        quality=f"{len(SPANS)} numbers a channel in place of {RING}",
    )
