"""A geometric block against a plain attention block of as many numbers a token, and what a turned scene changes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.cases.meter import Row, compare
from tocsin.operators.geometric import GeometricBlock, motion, moved, point, position

CHANNELS, SCALARS, HEADS = 4, 16, 2


def rows(*, quick: bool) -> Iterator[Row]:
    width = 16 * CHANNELS + SCALARS
    block = GeometricBlock(channels=CHANNELS, scalars=SCALARS, heads=HEADS).eval()
    plain = nn.TransformerEncoderLayer(width, HEADS, 2 * width, batch_first=True).eval()
    for tokens in (32,) if quick else (32, 128, 512):
        places = torch.rand(4, tokens, 3) * 10
        x = torch.zeros(4, tokens, CHANNELS, 16)
        x[:, :, 0] = point(places)
        s, located = torch.randn(4, tokens, SCALARS), torch.ones(4, tokens, dtype=torch.bool)
        by = motion(torch.tensor([0.0, 0.6, 0.8]), torch.tensor(1.0), torch.tensor([5.0, -3.0, 1.0]))
        turned = moved(x, by)

        def ours(x=x, s=s, places=places, located=located) -> Tensor:
            return block(x, s, places, located)[1]

        def other(x=x, s=s) -> Tensor:
            return plain(torch.cat([x.flatten(2), s], dim=2))[..., -SCALARS:]

        with torch.inference_mode():
            off = [
                float((after - before).norm() / before.norm())
                for before, after in (
                    (ours(), ours(turned, s, position(turned[:, :, 0]))),
                    (other(), other(turned)),
                )
            ]
        quality = f"a turned scene changes the numbers by {off[0]:.0e}, plain {off[1]:.2f}"
        yield compare("geometric block / plain block", f"{tokens} tokens, batch 4", ours, other, quality=quality)
