"""The cache of geometric context attention against a cache of all tokens of all frames, and its late steps against early ones."""

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
    """A cache that forgets nothing: every token, in a buffer that is allocated large enough at the start."""

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
        share, cache_bytes = ours.nbytes / full.nbytes, (ours.nbytes, full.nbytes)
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
        yield replace(
            row, memory=(cache_bytes[0] + peaks[0]) / (cache_bytes[1] + peaks[1])
        )  # the caches are most of it
    early, late = caches[0], caches[-1]
    yield compare(
        "context step late / early",
        f"frame {marks[-1]:,} / frame {marks[0]}",
        lambda: late.step(*frame),
        lambda: early.step(*frame),
        rounds=9,
        quality=f"{late.tokens:,} tokens seen / {early.tokens:,}",
        target=">= 0.77",
    )


def _stream(
    patches: int, marks: tuple[int, ...], sizes: dict[str, int], *, video: bool
) -> Iterator[tuple[ContextCache, FullCache, Frame, float]]:
    """Yield at each mark a copy of our cache, the full cache, the latest frame, and our output's relative error for that frame."""
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
        expected = full.step(q if number in marks else q[:, :, :1], k, v)
        if number in marks:
            copy, tokens = ContextCache(special=SPECIAL, **sizes), full.tokens
            copy.restore(ours.snapshot())
            yield copy, full, frame, ((out - expected).norm() / expected.norm()).item()
            full.tokens = tokens  # drop the tokens that timing has added
        if number == marks[-1]:
            return


def _frames(patches: int, *, video: bool) -> Iterator[Frame]:
    """Yield endless frames.

    In a video, the content of a patch drifts and is new after some hundred frames. Queries look for the content of their own
    patch. A special token is the mean of a sixth of the patches, since there is no trained one. In random frames all tokens are
    unrelated. Attention is then a mean of noise, which shrinks as more tokens are seen: the worst case.
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
