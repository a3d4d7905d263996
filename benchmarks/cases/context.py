"""Geometric context attention's cache against a cache of all tokens of all frames, and its own step late against early."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.meter import Row, compare, peak
from tocsin.operators.context import ContextCache

HEADS, WIDTH, SPECIAL = 2, 64, 6
Frame = tuple[Tensor, Tensor, Tensor]


class FullCache:
    """What one has without forgetting: every token, in buffers made large enough at the start."""

    def __init__(self, tokens: int) -> None:
        self.tokens = 0
        self.stored = torch.empty(2, 1, HEADS, tokens, WIDTH)

    @property
    def nbytes(self) -> int:
        return self.stored[..., : self.tokens, :].nbytes

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        end = self.tokens + k.shape[2]
        self.stored[0, :, :, self.tokens : end], self.stored[1, :, :, self.tokens : end] = k, v
        self.tokens = end
        return F.scaled_dot_product_attention(q, *self.stored[..., :end, :])


def rows(*, quick: bool) -> Iterator[Row]:
    patches, marks = (24, (20, 40)) if quick else (500, (100, 300, 1000))
    sizes = {"anchor": 2, "window": 4} if quick else {"anchor": 8, "window": 64}
    random = [error for *_, error in _stream(patches, marks, sizes, video=False)]
    caches = []
    for (ours, full, frame, error), worst in zip(_stream(patches, marks, sizes, video=True), random, strict=True):
        caches.append(ours)
        share, held = ours.nbytes / full.nbytes, (ours.nbytes, full.nbytes)
        row = compare(
            f"context step / cache of all tokens, {patches} + {SPECIAL} a frame",
            f"frame {ours.frames:,}",
            lambda ours=ours, frame=frame: ours.step(*frame),
            lambda full=full, frame=frame: full.step(*frame),
            rounds=3,
            quality=f"cache {share:.1%}; output error {error:.0%} video, {worst:.0%} random",
        )
        peaks = (
            peak(lambda ours=ours, frame=frame: ours.step(*frame)),
            peak(lambda full=full, frame=frame: full.step(*frame)),
        )
        yield replace(row, memory=(held[0] + peaks[0]) / (held[1] + peaks[1]))  # with the caches, which are most of it
    early, late = caches[0], caches[-1]
    yield compare(
        "context step late / early",
        f"frame {marks[-1]:,} / frame {marks[0]}",
        lambda: late.step(*frame),
        lambda: early.step(*frame),
        rounds=9,
        quality=f"{late.tokens:,} tokens seen / {early.tokens:,}",
        wanted=">= 0.77",
    )


def _stream(
    patches: int, marks: tuple[int, ...], sizes: dict[str, int], *, video: bool
) -> Iterator[tuple[ContextCache, FullCache, Frame, float]]:
    """At each mark a copy of our cache, the full one, the frame that came last, and how far off our output for it was."""
    ours, full = ContextCache(special=SPECIAL, **sizes), FullCache((marks[-1] + 8) * (patches + SPECIAL))
    anchor = []
    for number, frame in enumerate(_frames(patches, video=video), start=1):
        q, k, v = frame
        if number <= sizes["anchor"]:
            anchor.append(frame)
            if number == sizes["anchor"]:
                ours.start(*(torch.stack(parts, dim=2) for parts in zip(*anchor, strict=True)))
        else:
            out = ours.step(q if number in marks else q[:, :, :1], k, v)
        wanted = full.step(q if number in marks else q[:, :, :1], k, v)
        if number in marks:
            copy, tokens = ContextCache(special=SPECIAL, **sizes), full.tokens
            copy.restore(ours.snapshot())
            yield copy, full, frame, ((out - wanted).norm() / wanted.norm()).item()
            full.tokens = tokens  # whatever was timed is gone again
        if number == marks[-1]:
            return


def _frames(patches: int, *, video: bool) -> Iterator[Frame]:
    """Frames without end.

    In a video what a patch shows drifts, and is new after some hundred frames; queries look for what their patch shows, and a
    special token is the mean of a sixth of the patches, for want of a trained one. In random frames nothing is like
    anything, and attention is a mean of noise, smaller the more it sees: the worst case.
    """
    random = torch.Generator().manual_seed(0)

    def normal(tokens: int) -> Tensor:
        return torch.randn(1, HEADS, tokens, WIDTH, generator=random)

    shown, keep = normal(patches), math.exp(-1 / 100) if video else 0.0
    while True:
        shown = keep * shown + math.sqrt(1 - keep**2) * normal(patches)
        special = torch.stack([part.mean(2) for part in shown.tensor_split(SPECIAL, dim=2)], dim=2)
        tokens = torch.cat((special, shown), dim=2)
        others = normal(patches + SPECIAL), normal(patches + SPECIAL)
        yield (2 * tokens, tokens, tokens) if video else (others[0], tokens, others[1])
