"""Fading attention: each step attends to all steps before it, with weights that depend on their age alone.

The weights are differences of exponentials, so a stream needs a few sums in place of its past: the state does not grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tocsin.operators.shapes import match

STRETCH = 64
"""Steps that one matrix product computes."""
EASE = 0.5
"""Steps by which a band leans on the next younger one; it decides while a band has no steps of its own."""


@dataclass(frozen=True)
class Faded:
    """The state of `fading_attention`: sums of all steps so far, for each span.

    Args:
        sums: `[..., M, C]`, of each step times `exp(-age / span)`.
        counts: `[..., M]`, of these weights.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, shape: Sequence[int], spans: int, channels: int, *, like: Tensor) -> Self:
        """The state before the first step, with the dtype and device of `like`."""
        return cls(like.new_zeros(*shape, spans, channels), like.new_zeros(*shape, spans))

    def after(self, x: Tensor, keep: Tensor) -> Self:
        """The state after one more step `x` `[..., C]`; `keep` `[M]` is from `keeps`."""
        return type(self)(self.sums * keep.unsqueeze(-1) + x.unsqueeze(-2), self.counts * keep + 1)

    def bands(self) -> Tensor:
        """The mean of the steps in each band of age, `[..., M, C]`; 0 before the first step."""
        young = self.sums[..., 0, :] / self.counts[..., :1].clamp_min(1)
        found = [young]
        for m in range(1, self.counts.shape[-1]):
            own = self.sums[..., m, :] - self.sums[..., m - 1, :]
            count = (self.counts[..., m] - self.counts[..., m - 1]).unsqueeze(-1)
            found.append((own + EASE * found[-1]) / (count + EASE))
        return torch.stack(found, dim=-2)


def keeps(spans: Sequence[float]) -> Tensor:
    """What each span keeps of its sums in a step: `exp(-1 / span)`, `[M] float64`.

    Raises:
        ValueError: the spans do not increase, or are not positive.
    """
    if not spans or any(a >= b for a, b in zip((0, *spans), spans, strict=False)):
        raise ValueError(f"spans are {list(spans)}, expected positive numbers that increase")
    return torch.tensor([math.exp(-1 / span) for span in spans], dtype=torch.float64)


def fading_attention(x: Tensor, spans: Sequence[float], state: Faded | None = None) -> tuple[Tensor, Faded]:
    """Summarise all steps so far by their age, at each step.

    Band m is a mean of the steps with weights `exp(-age / span[m]) - exp(-age / span[m - 1])`, which peak between both spans; the
    first band has `exp(-age / span[0])`. An infinite last span weighs all steps that the others have forgotten alike. Where a band
    has few steps, it leans on the next younger band, see `EASE`. It is causal, and a stream can be passed in parts.
    Source: this project's. Its decays are those of retention (arXiv 2307.08621) with queries and keys of 1.

    Args:
        x: `[B, T, C]`, any float dtype.
        spans: M numbers of steps that increase, such as (2, 10, 50, inf).
        state: the state after the steps before; None for the first part.

    Returns:
        Bands `[B, T, M, C]`, youngest first, dtype of `x`, and the state after the last step.

    Raises:
        ValueError: if the shapes do not fit together, or the spans are wrong.
    """
    sizes, keep, state = _check(x, spans, state)
    wide = torch.promote_types(x.dtype, torch.float32)
    keep = keep.to(x.device, wide)
    step = torch.arange(STRETCH, device=x.device)
    ages = step.unsqueeze(1) - step
    # Weight of each step in each later step of a stretch: one matrix product replaces a loop over steps.
    weight = (keep[:, None, None] ** ages.clamp_min(0)).masked_fill(ages < 0, 0)  # [M, STRETCH, STRETCH]
    fade = keep ** (step + 1).unsqueeze(1)  # [STRETCH, M]
    parts = []
    with torch.autocast(x.device.type, enabled=False):
        for part in x.to(wide).split(STRETCH, dim=1) if sizes["T"] else ():
            n = part.shape[1]
            sums = torch.einsum("mts,bsc->btmc", weight[:, :n, :n], part)
            sums = sums + fade[:n, :, None] * state.sums.unsqueeze(1)
            counts = weight[:, :n, :n].sum(2).T + fade[:n] * state.counts.unsqueeze(1)
            parts.append(Faded(sums, counts).bands())
            state = Faded(sums[:, -1], counts[:, -1])
    bands = torch.cat(parts, dim=1) if parts else x.new_zeros(sizes["B"], 0, len(spans), sizes["C"])
    return bands.to(x.dtype), state


def naive_fading_attention(x: Tensor, spans: Sequence[float]) -> Tensor:
    """The bands of `fading_attention` by the weight of every step, a step at a time: the oracle of its tests."""
    sizes, _, _ = _check(x, spans, None)
    rows = []
    for t in range(sizes["T"]):
        seen, age = x[:, : t + 1], torch.arange(t, -1, -1, dtype=x.dtype)
        found, before = list[Tensor](), torch.zeros(t + 1, dtype=x.dtype)
        for span in spans:
            weight = torch.exp(-age / span)
            own = weight - before
            total = (own[:, None] * seen).sum(1)
            found.append((total + EASE * found[-1]) / (own.sum() + EASE) if found else total / own.sum())
            before = weight
        rows.append(torch.stack(found, dim=1))
    return torch.stack(rows, dim=1) if rows else x.new_zeros(sizes["B"], 0, len(spans), sizes["C"])


def _check(x: Tensor, spans: Sequence[float], state: Faded | None) -> tuple[dict[str, int], Tensor, Faded]:
    keep, wide = keeps(spans), torch.promote_types(x.dtype, torch.float32)
    sizes = match(x=(x, "B T C"))
    state = Faded.empty((len(x),), len(spans), x.shape[-1], like=x.to(wide)) if state is None else state
    match(
        x=(x.to(wide), "B T C"),
        sums=(state.sums.to(wide), f"B {len(spans)} C"),
        counts=(state.counts.to(wide), f"B {len(spans)}"),
    )
    return sizes, keep, state
