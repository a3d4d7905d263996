"""The network: places of a picture in, the damage at each place and that of the whole picture out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.damage.trunk import CELL, WIDTH, Seen
from tocsin.operators.scales import MultiScaleExcitation

CLASSES = ("intact", "crack", "spalling", "efflorescence")
"""What a picture may be. The first is the absence of the others."""
DAMAGES = CLASSES[1:]
SHARES = (0.01, 0.05, 1.0)
"""Shares of a picture's places, those with the highest logits, over whose mean its logit is taken."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network.

    Args:
        width: channels of a place.
        relief: channels of the branch over raw pixels; 0: there is none.
        sizes: of the depthwise kernels.
        blocks: number of multi-scale blocks.
        gates: whether channels and places are weighed by squeeze-excitation.
        mechanism: with False, plain 3 x 3 convolutions of the same depth replace the blocks: the baseline.
    """

    width: int = 48
    relief: int = 16
    sizes: tuple[int, ...] = (3, 5, 7)
    blocks: int = 1
    gates: bool = True
    mechanism: bool = True


class Judged(NamedTuple):
    """The network's output for B pictures.

    Args:
        places: logits `[B, 3, h, w]` of each damage at each place, against an intact one.
        pictures: logits `[B, 4]` of `CLASSES`; the first is 0.
        features: `[B, C, h, w]`, of the places.
    """

    places: Tensor
    pictures: Tensor
    features: Tensor


class DamageNetwork(nn.Module):
    """Tokens of the shared encoder and the relief of raw pixels, mixed at several scales and gated.

    Cracks are thinner than a token: the branch over pixels sees them at full resolution, in a picture whose light and contrast are
    divided out. Source: MS-SSE-Net (arXiv 2604.14711) after the encoder; the branch, places and pooling are this project's.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = c = config
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("scale", torch.ones(WIDTH))
        narrow = WIDTH - 112
        self.near = nn.Conv2d(narrow, c.width, 1)
        self.far = nn.Conv2d(112, c.width, 1)
        self.relief = _relief(c.relief) if c.relief else None
        self.join = nn.Conv2d(2 * c.width + c.relief, c.width, 1)
        self.blocks = nn.ModuleList(
            MultiScaleExcitation(channels=c.width, sizes=c.sizes, gates=c.gates)
            if c.mechanism
            else nn.Sequential(nn.GroupNorm(1, c.width), nn.Conv2d(c.width, c.width, 3, padding=1), nn.GELU())
            for _ in range(c.blocks)
        )
        self.norm = nn.GroupNorm(1, c.width)
        self.place = nn.Conv2d(c.width, len(DAMAGES), 1)
        self.pool = nn.Parameter(torch.tensor(SHARES).ne(1.0).float()[:, None].repeat(1, len(DAMAGES)) / 2)
        self.bias = nn.Parameter(torch.zeros(len(DAMAGES)))

    def forward(self, seen: Seen) -> Judged:
        """Judge pictures."""
        narrow = len(self.mean) - seen.wide.shape[1]
        scaled = [
            (maps.float() - m[:, None, None]) * s[:, None, None]
            for maps, m, s in zip(
                seen[:2], self.mean.split([narrow, 112]), self.scale.split([narrow, 112]), strict=True
            )
        ]
        far = F.interpolate(self.far(scaled[1]), scale_factor=2.0, mode="bilinear", align_corners=False)
        parts = [F.gelu(self.near(scaled[0])), F.gelu(far)]
        if self.relief is not None:
            parts.append(self.relief(relief(seen.grey)))
        x = self.join(torch.cat(parts, 1)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x) if self.config.mechanism else x + block(x)
        features = F.gelu(self.norm(x))
        places = self.place(features)
        return Judged(places, self.pooled(places), features)

    def pooled(self, places: Tensor) -> Tensor:
        """Logits of whole pictures, `[B, 4]`, from those of their places, `[B, 3, h, w]`: a crack covers few of them."""
        flat = places.flatten(2)
        counts = [max(1, round(share * flat.shape[2])) for share in SHARES]
        top = flat.topk(counts[-2], 2).values
        means = [top[:, :, : counts[0]].mean(2), top.mean(2), flat.mean(2)]
        damages = sum(w * m for w, m in zip(self.pool, means, strict=True)) + self.bias
        return torch.cat([damages.new_zeros(len(damages), 1), damages], 1)


def relief(grey: Tensor) -> Tensor:
    """A grey picture `[B, 1, H, W] uint8` with its light and its contrast divided out, float32, about -3 to 3."""
    x = grey.float() / 255
    coarse = F.avg_pool2d(torch.cat([x, x.square()], 1), CELL)
    coarse = F.avg_pool2d(coarse, 5, 1, 2, count_include_pad=False)  # a box of 40 pixels, from its means over places
    mean, square = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False).split(1, 1)
    spread = (square - mean.square()).clamp(min=0).sqrt()
    return ((x - mean) / (spread + 0.024)).clamp(-4, 4)


def _relief(width: int) -> nn.Sequential:
    """Three strided convolutions from pixels to places."""
    return nn.Sequential(
        nn.Conv2d(1, width // 2, 5, 2, 2),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(width, width, 3, 2, 1),
        nn.GELU(),
    )
