"""Latent-condensed attention against the full latent cache: time of a decode step, size of the cache, error of the output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.meter import Row, compare, peak
from tocsin.operators.latent import LatentCache, condensed_attention, rotary

GROUP, RUN = 16, 128
"""Tokens per group, and number of tokens for which a text stays on one subject."""


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    window = 128 if quick else 1024
    for heads, width, rope in ((2, 32, 8),) if quick else ((4, 128, 32), (16, 512, 64)):
        for tokens in (1024,) if quick else (8192, 32_768):
            yield _decode(heads, width, rope, tokens, window)
    for tokens in (512,) if quick else (4096, 16_384):
        yield _prefill(2 if quick else 4, 32 if quick else 128, 8 if quick else 32, tokens, window)


class FullCache:
    """A cache without condensing: every latent, in a buffer that is allocated large enough at the start."""

    def __init__(self, rows: Tensor, width: int, spare: int) -> None:
        self.tokens, self.width = rows.shape[1], width
        self.rows = F.pad(rows, (0, 0, 0, spare))

    def step(self, latents: Tensor, rope_keys: Tensor, q: Tensor, q_rope: Tensor) -> Tensor:
        self.rows[:, self.tokens] = torch.cat((latents, rope_keys), dim=-1)[:, 0]
        self.tokens += 1
        keys = self.rows[:, : self.tokens].unsqueeze(1)
        queries = torch.cat((q, q_rope), dim=-1).transpose(1, 2)  # heads as queries of one head, which is faster
        return F.scaled_dot_product_attention(queries, keys, keys)[..., : self.width].transpose(1, 2)


def text(heads: int, width: int, rope: int, tokens: int, *, clustered: bool) -> tuple[Tensor, ...]:
    """Return latents, positional keys and queries of a stream.

    Clustered tokens stay on one of 64 subjects for 128 tokens, and their queries favour that subject by a logit of about 5.
    Random tokens are unrelated, so that a mean of 16 represents none of them: the worst case.
    """
    at, random = torch.arange(tokens), torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    latents, rope_keys = normal(1, tokens, width), normal(1, tokens, rope)
    q, q_rope = normal(1, heads, tokens, width), normal(1, heads, tokens, rope)
    if clustered:
        subject = torch.randint(64, (tokens // RUN,), generator=random).repeat_interleave(RUN)
        centre = normal(64, width)[subject]
        latents, rope_keys = centre + 0.3 * latents, 1 + 0.3 * rope_keys
        q, q_rope = 5 * (width + rope) ** 0.5 / width * centre + 0.3 * q, 1 + 0.3 * q_rope
    return latents, rotary(rope_keys, at), q, rotary(q_rope, at)


def _decode(heads: int, width: int, rope: int, tokens: int, window: int) -> Row:
    """Decode the last 32 of `tokens` tokens step by step to compare the outputs; then time further steps."""
    errors, last = [], tokens - 32
    for clustered, mass in ((True, True), (True, False), (False, True)):
        # Fill the cache with one head's queries: it uses only the mean over heads.
        latents, rope_keys, q, q_rope = text(1, width, rope, tokens, clustered=clustered)
        ours = LatentCache(group=GROUP, window=window, mass=mass)
        full = FullCache(torch.cat((latents, rope_keys), dim=-1)[:, :last], width, spare=64)
        for start in range(0, last, 1024):
            part = slice(start, min(start + 1024, last))
            ours.step(latents[:, part], rope_keys[:, part], q[:, :, part], q_rope[:, :, part])
        outs, expected = [], []
        for t in range(last, tokens):
            spread = (1 + 0.1 * torch.randn(1, heads, 1, 1)) * q[:, :, [t]]  # heads of different sharpness
            token = latents[:, [t]], rope_keys[:, [t]], spread, q_rope[:, :, [t]].expand(-1, heads, -1, -1)
            outs.append(ours.step(*token))
            expected.append(full.step(*token))
        errors.append(_error(torch.cat(outs), torch.cat(expected)))
    cache, whole = ours.nbytes, full.rows[:, :tokens].nbytes
    row = compare(
        f"latent decode step / full cache, {heads} heads, {width} + {rope}",
        f"{tokens:,} tokens",
        lambda: ours.step(*token),
        lambda: full.step(*token),
        rounds=15,
        quality=f"cache {cache / whole:.1%}; output error {errors[0]:.1%} clustered ({errors[1]:.0%} without mass), "
        f"{errors[2]:.0%} random",
        target=">= 3.00, cache <= 10 %" if tokens == 32_768 else "",
    )
    memory = (cache + peak(lambda: ours.step(*token))) / (whole + peak(lambda: full.step(*token)))
    return replace(row, memory=memory)  # the caches are most of it


def _prefill(heads: int, width: int, rope: int, tokens: int, window: int) -> Row:
    """Compare attention over a whole sequence with attention to per-head keys and values made from the latents."""
    latents, rope_keys, q, q_rope = text(heads, width, rope, tokens, clustered=True)
    size, scale = width // heads, (width // heads + rope) ** -0.5
    make_k, make_v = torch.randn(2, heads, size, width) * width**-0.5
    q = 2 * q.flatten(0, 1) @ make_k.mT  # [H, T, size]: queries per head, before absorption

    def ours() -> Tensor:
        absorbed = (q @ make_k).unsqueeze(0)
        context = condensed_attention(absorbed, q_rope, latents, rope_keys, group=GROUP, window=window, scale=scale)
        return context @ make_v.mT

    def full() -> Tensor:
        k = torch.cat((latents @ make_k.mT, rope_keys.expand(heads, -1, -1)), dim=-1)
        queries = torch.cat((q, q_rope[0]), dim=-1)
        v = F.pad(latents @ make_v.mT, (0, rope))  # as wide as the keys, which the fast kernel requires
        return F.scaled_dot_product_attention(*(t.unsqueeze(0) for t in (queries, k, v)), is_causal=True)[..., :size]

    return compare(
        f"latent prefill / full, {heads} heads, {width} + {rope}",
        f"{tokens:,} tokens",
        ours,
        full,
        rounds=3,
        quality=f"output error {_error(ours(), full()):.1%} clustered",
    )


def _error(out: Tensor, expected: Tensor) -> float:
    return ((out - expected).norm() / expected.norm()).item()
